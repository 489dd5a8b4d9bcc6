"""One customer's life: signs up, pays, uses, changes, renews in simulated time, leaves."""

import random
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from tests.chaos.client import Client, GaveUp
from tests.chaos.history import History

PASSWORD = "a long enough chaos passphrase"
BEGIN = "2026-01-15T09:00:00+00:00"
#: Cards, and what the provider does with them.
CARDS = {
    "tok_ok": 8,
    "tok_timeout_after": 3,
    "tok_timeout_before": 2,
    "tok_duplicate_webhook": 2,
    "tok_late_webhook": 2,
    "tok_fails_then_ok:1": 2,
    "tok_declined": 1,
}
USAGE_AT_ONCE = 5
#: The one account that reports more than all the others: so much for each subscription there is.
FLOOD_EACH, FLOOD_AT_ONCE = 20, 200


def deal_cards(rng: random.Random, number: int) -> list[str]:
    """Their cards: one that works, for the first has much to pay, then each other kind once.

    Few customers have every kind so. The rest are drawn as often as they weigh.
    """
    works, *kinds = CARDS
    rng.shuffle(kinds)
    return [works, *kinds, *rng.choices(list(CARDS), list(CARDS.values()), k=number)][:number]


@dataclass
class Catalog:
    """What is on sale."""

    flat: list[str] = field(default_factory=list)
    metered: str = ""
    bundle: str = ""
    #: A coupon's own code, and one that stands for it.
    codes: tuple[str, str] = ("CHAOS20", "WELCOME20")

    def publish(self, staff: Client) -> None:
        """Make it, before anything is broken."""
        meter = staff.must("make a meter", "POST", "/v1/meters", {"code": "calls", "name": "Calls"})
        for code, more in (
            ("team", {"type": "flat", "unit_amount": 2900}),
            ("business", {"type": "flat", "unit_amount": 5900}),
            (
                "metered",
                {
                    "type": "metered",
                    "unit_amount_decimal": "0.5",
                    "meter_id": meter["id"],
                    "aggregation": "sum",
                },
            ),
        ):
            plan = staff.must(
                "make a plan",
                "POST",
                "/v1/plans",
                {"code": code, "name": code, "dunning": {"days": [1, 3], "then": "cancel"}},
            )
            price = {"plan_id": plan["id"], "currency": "EUR", "interval": "month"}
            made = staff.must("make a price", "POST", "/v1/prices", {**price, **more})
            staff.must("publish", "POST", f"/v1/plans/{plan['id']}/publish", {})
            if code == "metered":
                self.metered = made["id"]
            else:
                self.flat.append(made["id"])
        bundle = {"code": "k", "name": "1,000", "tokens": 1000, "amount": 1000, "currency": "EUR"}
        self.bundle = staff.must("make a bundle", "POST", "/v1/bundles", bundle)["id"]
        own, other = self.codes
        coupon = {"code": own, "name": "A fifth", "percent": "20", "max_per_account": 50}
        coupon_id = staff.must("make a coupon", "POST", "/v1/coupons", coupon)["id"]
        body = {"code": other, "coupon_id": coupon_id}
        staff.must("give a code out", "POST", "/v1/promotion-codes", body)


@dataclass
class Customer:
    """Does things one after the other; what it is told that cannot be is a surprise."""

    client: Client
    #: For what only the operator may do; asked for when it is needed.
    staff: Callable[[], Client]
    history: History
    rng: random.Random
    catalog: Catalog
    mailbox: Path
    email: str
    count: int
    #: What it pays with, a key of `CARDS`.
    card: str
    #: Subscriptions of everybody, to see that nobody sees another's.
    everybody: list[str]
    #: Of how many subscriptions it is the one account that floods.
    floods: int = 0
    #: Whether what it is given back goes by credit note.
    credits: bool = False
    held: list[str] = field(default_factory=list)
    _clock: "Clock | None" = None
    _reported: int = 0

    def live(self) -> None:
        """All of it. Raises `GaveUp` when nothing comes of it any more."""
        account = self._sign_up()
        if self.rng.random() < 0.5:
            self._clock = Clock(self.staff(), account)
            self._clock.make()
            if self.rng.random() < 0.4:
                self._share_invoices(account)
        body = {"provider": "sandbox", "token": self.card}
        self.client.must("attach a card", "POST", "/v1/payment-methods", body)
        for number in range(self.count):
            self._subscribe(is_metered=number % 4 == 3)
        for _ in range(self.floods * FLOOD_EACH // FLOOD_AT_ONCE):
            self._report_usage(FLOOD_AT_ONCE)
        # Everybody does this once, so that a run of few customers has it too.
        self._change_my_mind()
        for _ in range(self.rng.randint(2, 4) + self.count // 4):
            self._do_something()
        self._look_around()

    def _subscribe(self, *, is_metered: bool) -> None:
        price = self.catalog.metered if is_metered else self.rng.choice(self.catalog.flat)
        body: dict[str, Any] = {"price_id": price}
        if self.rng.random() < 0.2:
            body["coupon"] = self.rng.choice(self.catalog.codes)
        made = self.client.make("subscribe", "/v1/subscriptions", body)
        self.held.append(made["id"])
        self.everybody.append(made["id"])

    def _do_something(self) -> None:
        if self._clock is not None and self.rng.random() < 0.4:
            self._clock.advance(timedelta(days=self.rng.choice([10, 32, 32, 64])))
            return
        doings = (
            *(self._change, self._change, self._change_my_mind),
            *(self._give_back, self._report_usage, self._tokens),
        )
        self.rng.choice(doings)()

    def _change(self) -> None:
        one = self.rng.choice(self.held)
        self._wait_for_the_first_payment(one)
        what, path, body = self.rng.choice(
            [
                ("change", "change", {"price_id": self.rng.choice(self.catalog.flat)}),
                ("change", "change", {"price_id": self.rng.choice(self.catalog.flat)}),
                ("cancel at the end", "cancel", {"at_period_end": True}),
                ("uncancel", "uncancel", {}),
                ("cancel now", "cancel", {"at_period_end": False, "credit": True}),
                ("pause", "pause", {}),
                ("resume", "resume", {}),
            ]
        )
        self._try(what, f"/v1/subscriptions/{one}/{path}", body)

    def _change_my_mind(self) -> None:
        """Events of one subscription in quick succession, by which order is tried."""
        one = self.rng.choice(self.held)
        self._wait_for_the_first_payment(one)
        for path, body in (
            ("cancel", {"at_period_end": True}),
            ("uncancel", {}),
            ("change", {"price_id": self.rng.choice(self.catalog.flat)}),
            ("cancel", {"at_period_end": True}),
            ("uncancel", {}),
        ):
            self._try(f"{path} and again", f"/v1/subscriptions/{one}/{path}", body)

    def _try(self, what: str, path: str, body: Any, *, by: Client | None = None) -> Any:
        """What the state of things may refuse."""
        status, told = (by or self.client).ask(what, "POST", path, body)
        # A canceled one cannot be changed, and a declined first charge never began.
        if status >= 300 and status not in {409, 422}:
            self.history.surprise(f"{self.client.name}: {what}: {status} {told}")
        return told if status < 300 else None

    def _report_usage(self, number: int = USAGE_AT_ONCE) -> None:
        """Some of it a second time, as clients do that are not sure."""
        metered = self.held[3::4]
        if not metered:
            return
        first = max(0, self._reported - self.rng.choice([0, 0, 2]))
        ids = [f"{self.email}/{n}" for n in range(first, self._reported + number)]
        self._reported += number
        one = self.rng.choice(metered)
        events = [{"id": i, "meter": "calls", "value": 1, "subscription_id": one} for i in ids]
        status, told = self.client.ask(
            "report usage", "POST", "/v1/usage-events/batch", {"events": events}
        )
        if status == 200:
            kept = [row["id"] for row in told["data"] if row["status"] != "refused"]
            self.history.note_made("report usage", kept)

    def _tokens(self) -> None:
        self.client.make(
            "buy tokens", "/v1/token-balance/purchase", {"bundle_id": self.catalog.bundle}
        )
        body = {"amount": self.rng.choice([10, 100, 990]), "reason": "chaos"}
        self._try("spend tokens", "/v1/token-balance/debit", body)

    def _share_invoices(self, account: str) -> None:
        """What renews on one day is billed together."""
        staff = self.staff()
        staff.act_for(account)
        try:
            body = {"name": "Chaos Ltd", "consolidated_billing": True}
            staff.must("share invoices", "PUT", "/v1/billing-details", body)
        finally:
            staff.close()

    def _give_back(self) -> None:
        """By hand for some customers, by credit note for others: both of one payment race."""
        if self.credits:
            self._credit()
        else:
            self._refund()

    def _credit(self) -> None:
        """Staff take back an invoice that was paid, all of it or a part, by money or credit."""
        found = self.client.must("look at invoices", "GET", "/v1/invoices?limit=20")["data"]
        paid = [one for one in found if one["status"] == "paid" and one["total"]["amount"] > 0]
        if not paid:
            return
        one = self.rng.choice(paid)
        body = {"invoice_id": one["id"], "reason": "chaos"}
        body["settle"] = self.rng.choice(["refund", "credit"])
        if self.rng.random() < 0.7:
            body["amount"] = self.rng.randint(1, one["total"]["amount"])
        staff = self.staff()
        try:
            self._try("credit", "/v1/credit-notes", body, by=staff)
        finally:
            staff.close()

    def _refund(self) -> None:
        """Staff send a part of a payment back."""
        found = self.client.must("look at payments", "GET", "/v1/payments?limit=20")["data"]
        paid = [one for one in found if one["status"] == "succeeded"]
        if not paid:
            return
        one = self.rng.choice(paid)
        most = one["amount"]["amount"]
        part = {"amount": self.rng.randint(1, most), "currency": one["amount"]["currency"]}
        body = self.rng.choice([{}, {"amount": part}])
        staff = self.staff()
        try:
            self._try("refund", f"/v1/payments/{one['id']}/refunds", body, by=staff)
        finally:
            staff.close()

    def _wait_for_the_first_payment(self, subscription: str) -> None:
        """A person would see it in seconds; a declined card never pays, so not for ever."""
        for _ in range(10):
            path = f"/v1/subscriptions/{subscription}"
            found = self.client.must("look at a subscription", "GET", path)
            if found["status"] != "incomplete":
                return
            time.sleep(0.5)

    def _look_around(self) -> None:
        """Its own, all of it, and nothing of anybody else."""
        path = "/v1/subscriptions?limit=200"
        listed = {one["id"] for one in self.client.must("list", "GET", path)["data"]}
        if listed != set(self.held):
            self.history.surprise(
                f"{self.client.name}: holds {sorted(self.held)} and is shown {sorted(listed)}"
            )
        other = self.rng.choice(self.everybody)
        if other not in self.held:
            status, told = self.client.ask("peek", "GET", f"/v1/subscriptions/{other}")
            if status != 404:
                self.history.surprise(f"{self.client.name}: sees another's: {status} {told}")

    def _sign_up(self) -> str:
        client, email = self.client, self.email
        body = {"email": email, "password": PASSWORD, "account_name": email, "country": "DE"}
        made = client.must(
            "sign up", "POST", "/v1/auth/register", {**body, "full_name": "Chaos", **ZONE}
        )
        token = self._token_mailed()
        client.must("verify", "POST", "/v1/auth/verify-email", {"token": token})

        def log_in() -> str:
            credentials = {"email": email, "password": PASSWORD}
            return str(client.must("log in", "POST", "/v1/auth/login", credentials)["access_token"])

        client.log_in = log_in
        client.use(log_in())
        return str(made["account"]["id"])

    def _token_mailed(self) -> str:
        started = time.monotonic()
        while self.client.is_patient(started):
            for mail in sorted((self.mailbox / self.email).glob("*"), reverse=True):
                if found := re.search(r"token[=: ]+([\w.-]{20,})", mail.read_text()):
                    return found[1]
            time.sleep(0.2)
        self.history.give_up(f"no mail came to {self.email}")
        raise GaveUp("the mail")

    def close(self) -> None:
        """Leave."""
        self.client.close()
        if self._clock is not None:
            self._clock.close()


ZONE = {"time_zone": "Europe/Berlin"}


class Clock:
    """An account's simulated time, which staff move."""

    def __init__(self, staff: Client, account: str) -> None:
        self._staff = staff
        self._account = account
        self._id = ""
        self._now = datetime.fromisoformat(BEGIN)

    def close(self) -> None:
        self._staff.close()

    def make(self) -> None:
        body = {"account_id": self._account, "now": BEGIN}
        self._id = self._staff.must("make a clock", "POST", "/v1/test-clocks", body)["id"]

    def advance(self, by: timedelta) -> None:
        """Renew what falls due in between; returns when all services are there.

        It takes as long as it takes, a card whose answers are lost ten seconds at each instant
        at which it is charged; but a clock that stands still is not waited for.
        """
        to = self._now + by
        status, _ = self._staff.ask(
            "advance", "POST", f"/v1/test-clocks/{self._id}/advance", {"to": to.isoformat()}
        )
        if status >= 300:
            return
        self._now = to
        moved, was_at = time.monotonic(), ""
        while self._staff.is_patient(moved):
            found = self._staff.must("look at a clock", "GET", f"/v1/test-clocks/{self._id}")
            if found["status"] == "ready":
                return
            if found["now"] != was_at:
                moved, was_at = time.monotonic(), found["now"]
            time.sleep(0.5)
