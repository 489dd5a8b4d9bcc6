"""What somebody does with subscriptions: changes, ends, rests, uses, and looks before it does."""

import time
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import quote

from tests.chaos.catalog import METERS
from tests.chaos.client import Client
from tests.chaos.history import Foretold
from tests.chaos.person import Held, Person

USAGE_AT_ONCE = 5
#: None: as the rules say.
PRORATIONS = (None, None, "prorate_now", "prorate_now", "prorate_next", "none", "at_period_end")
#: Of what can be looked at before, so much is.
LOOKED_AT = 0.8


@dataclass(kw_only=True)
class Subscriber(Person):
    """Somebody who changes its mind."""

    _reported: int = 0

    # ---- changes ----------------------------------------------------------------------------

    def change(self) -> None:
        """Something else, or more or less of it, now or later."""
        held = self.one()
        body = self._what_to_hold()
        if proration := self.rng.choice(PRORATIONS):
            body["proration"] = proration
        if self.rng.random() < 0.15:
            later = self.now + timedelta(days=self.rng.choice([2, 9, 25, 40]))
            body["effective_at"] = later.isoformat()
        elif self.rng.random() < 0.2:
            body["payment_behavior"] = "pending_if_unpaid"
        self._do("change", held, "change", body, preview=body)

    def look_and_change(self) -> None:
        """Staff look what another price comes to in the middle of a period, and do it."""
        for held in self.held:
            found = self.look_at(held)
            if found["status"] == "active" and not held.is_metered:
                others = [one for one in self.catalog.ahead if one.id != found["price_id"]]
                body = {"price_id": self.rng.choice(others).id, "proration": "prorate_now"}
                self._do("change", held, "change", body, preview=body, by=self.desk, looks=True)

    def have_more_billed_later(self) -> None:
        """Staff add something in the middle of a period that waits for the next invoice."""
        more = {"addon_id": self.catalog.addons["support"], "quantity": self.rng.randint(4, 6)}
        for held in self.held:
            found = self.look_at(held)
            if found["status"] == "active" and found["price_id"] != self.catalog.metered.id:
                body = {"addons": [more], "proration": "prorate_next"}
                if self.ask_for("add for later", f"{held.path}/change", body, by=self.desk):
                    return

    def _what_to_hold(self) -> dict[str, Any]:
        draw = self.rng.random()
        if draw < 0.6:
            price = self.rng.choice(self.catalog.prices)
            body: dict[str, Any] = {"price_id": price.id}
            if price.takes_a_quantity:
                body["quantity"] = self.rng.randint(1, 7)
            return body
        if draw < 0.8:
            return {"quantity": self.rng.randint(1, 7)}
        return {"addons": self.some_addons()}

    def some_addons(self) -> list[dict[str, Any]]:
        wanted = [
            {"addon_id": self.catalog.addons["support"], "quantity": self.rng.randint(1, 3)},
            {"addon_id": self.catalog.addons["setup"], "quantity": self.rng.randint(1, 2)},
        ]
        return self.rng.sample(wanted, self.rng.randint(0, 2))

    def change_my_mind(self) -> None:
        """Events of one subscription in quick succession, by which order is tried."""
        held = self.one()
        for path, body in (
            ("cancel", {"at_period_end": True}),
            ("uncancel", {}),
            ("change", {"price_id": self.rng.choice(self.catalog.ahead).id}),
            ("cancel", {"at_period_end": True}),
            ("uncancel", {}),
        ):
            self.ask_for(f"{path} and again", f"{held.path}/{path}", body)

    def withdraw(self) -> None:
        """What waits is not to happen."""
        held = self.one()
        if self.rng.random() < 0.5:
            self.ask_for("uncancel", f"{held.path}/uncancel", {})
        else:
            path = f"{held.path}/scheduled-change"
            self.ask_for("withdraw a change", path, method="DELETE")

    # ---- ends and rests ---------------------------------------------------------------------

    def cancel(self) -> None:
        """Later, mostly: what is ended can do no more."""
        held = self.one()
        give_back = self.rng.choice([{}, {"credit": True}, {"refund": True}])
        draw = self.rng.random()
        if draw < 0.4:
            body: dict[str, Any] = {"at_period_end": True, **give_back}
        elif draw < 0.7:
            on = self.now + timedelta(days=self.rng.choice([3, 12, 20, 45]))
            body = {"cancel_at": on.isoformat(), **give_back}
        else:
            body = {"at_period_end": False, **give_back}
        self._do("cancel", held, "cancel", body, preview={"cancel": body})

    def pause(self) -> None:
        held = self.one()
        body = {}
        if self.rng.random() < 0.5:
            wakes = self.now + timedelta(days=self.rng.choice([35, 50, 80]))
            body["resumes_at"] = wakes.isoformat()
        self.ask_for("pause", f"{held.path}/pause", body, by=self.mostly())

    def resume(self) -> None:
        self._do("resume", self.one(), "resume", {}, preview={"resume": True})

    # ---- coupons and trials -----------------------------------------------------------------

    def coupons(self) -> None:
        """One more, or one less."""
        held = self.one()
        if self.rng.random() < 0.6:
            body = {"coupon": self.rng.choice(self.catalog.codes)}
            self.ask_for("put a coupon on", f"{held.path}/coupons", body, by=self.mostly())
            return
        found = [one["coupon_id"] for one in self.look_at(held)["discounts"]]
        coupon = self.rng.choice(found or list(self.catalog.coupons.values()))
        path = f"{held.path}/coupons/{coupon}"
        status, told = self.client.ask("take a coupon off", "DELETE", path)
        # It may have been used up meanwhile.
        if status >= 300 and status not in {403, 404, 409}:
            self.history.surprise(f"{self.client.name}: take a coupon off: {status} {told}")

    def trial(self) -> None:
        """Staff make one that runs longer or shorter, or end it."""
        trying = [one for one in self.held if self.look_at(one)["status"] == "trialing"]
        if not trying:
            return
        held = self.rng.choice(trying)
        until = self.now + timedelta(days=self.rng.choice([2, 10, 30]))
        end = self.rng.choice(["now", until.isoformat()])
        self.ask_for("change a trial", f"{held.path}/trial", {"trial_end": end}, by=self.desk)

    # ---- looking first ----------------------------------------------------------------------

    def _do(
        self,
        what: str,
        held: Held,
        path: str,
        body: Any,
        *,
        preview: Any,
        by: Client | None = None,
        looks: bool = False,
    ) -> None:
        """Look what it would come to, and do it."""
        by = by or self.mostly()
        looked = None
        if looks or (self.clock is not None and self.rng.random() < LOOKED_AT):
            looked = self._look(what, held, preview, by=by)
        told = self.ask_for(what, f"{held.path}/{path}", body, by=by)
        if told is not None and looked is not None:
            before, asked_at, said = looked
            foretold = Foretold(
                what=what,
                subscription=held.id,
                before=before,
                after=told["version"],
                asked_at=asked_at,
                invoice=said["invoice"],
                credit_notes=said["credit_notes"],
            )
            self.history.foretell(foretold)

    def _look(
        self, what: str, held: Held, body: Any, *, by: Client
    ) -> tuple[int, float, Any] | None:
        before = self.look_at(held)["version"]
        asked_at = time.time()
        said = self.ask_for(f"look at a {what} first", f"{held.path}/preview", body, by=by)
        return None if said is None else (before, asked_at, said)

    def look_ahead(self) -> None:
        """What the next invoice of one of them will be, right before time goes on."""
        held = self.one()
        looked = self._look("renewal", held, {}, by=self.client)
        if looked is None or looked[2]["next_invoice"] is None:
            return
        before, asked_at, said = looked
        foretold = Foretold(
            what="renewal",
            subscription=held.id,
            before=before,
            after=before + 1,
            asked_at=asked_at,
            invoice=said["next_invoice"]["invoice"],
            credit_notes=said["next_invoice"]["credit_notes"],
        )
        self.history.foretell(foretold)

    # ---- usage ------------------------------------------------------------------------------

    def report_usage(self, number: int = USAGE_AT_ONCE) -> None:
        """Some of it a second time, as clients do that are not sure; some of it late."""
        metered = [one for one in self.held if one.is_metered]
        if not metered:
            return
        first = max(0, self._reported - self.rng.choice([0, 0, 2]))
        ids = [self._name(n) for n in range(first, self._reported + number)]
        self._reported += number
        held = self.rng.choice(metered)
        meter = self.rng.choice(["calls", "calls", "storage"])
        event = {"meter": meter, "value": self.rng.randint(1, 9), "subscription_id": held.id}
        if self.rng.random() < 0.4:
            late = self.now - timedelta(hours=self.rng.choice([1, 20, 60, 100]))
            event["at"] = late.isoformat()
        self._send([{"id": one, **event} for one in ids])

    def report_late(self) -> None:
        """Usage of the period before the running one, which was billed, of all that is metered."""
        for held in [one for one in self.held if one.is_metered]:
            before = datetime.fromisoformat(self.look_at(held)["current_period_start"])
            at = before - timedelta(hours=self.rng.choice([1, 20]))
            events = [
                {"id": self._name(self._reported + number), "meter": meter, "value": 3}
                for number, meter in enumerate(METERS)
            ]
            self._reported += len(events)
            more = {"subscription_id": held.id, "at": at.isoformat()}
            self._send([{**event, **more} for event in events])

    def correct_usage(self) -> None:
        """Something that was reported is taken back, or balanced by its opposite."""
        metered = [one for one in self.held if one.is_metered]
        if not metered or not self._reported:
            return
        if self.rng.random() < 0.5:
            known = self._name(self.rng.randrange(self._reported))
            path = f"/v1/usage-events/{quote(known, safe='')}"
            status, told = self.client.ask("void usage", "DELETE", path)
            if status < 300:
                self.history.note_made("void usage", [known])
            elif status not in {404, 409, 422}:  # it may have been refused when it came
                self.history.surprise(f"{self.client.name}: void usage: {status} {told}")
            return
        one = {"id": self._name(self._reported), "meter": "calls", "value": -2}
        self._reported += 1
        since = self.now - timedelta(hours=self.rng.choice([0, 30, 70]))
        held = self.rng.choice(metered)
        self._send([{**one, "subscription_id": held.id, "at": since.isoformat()}])

    def _name(self, number: int) -> str:
        return f"{self.email}/{number}"

    def _send(self, events: list[dict[str, Any]]) -> None:
        status, told = self.client.ask(
            "report usage", "POST", "/v1/usage-events/batch", {"events": events}
        )
        if status == 200:
            kept = [row["id"] for row in told["data"] if row["status"] != "refused"]
            self.history.note_made("report usage", kept)
