"""One customer's life: signs up, pays, uses, changes, renews in simulated time, leaves."""

import random
import re
import time
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from tests.chaos.catalog import Sold
from tests.chaos.client import GaveUp
from tests.chaos.payer import Payer
from tests.chaos.person import Clock, Held
from tests.chaos.subscriber import Subscriber

PASSWORD = "a long enough chaos passphrase"
ZONE = {"time_zone": "Europe/Berlin"}
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
#: The one account that reports more than all the others: so much for each subscription there is.
FLOOD_EACH, FLOOD_AT_ONCE = 20, 200
#: A customer of so few subscriptions does so much with them, and a bit more with each one more.
DOINGS = (8, 12)
#: What there is to be done, and how often it is.
WEIGHTS = {
    "change": 6,
    "change_my_mind": 1,
    "withdraw": 1,
    "cancel": 2,
    "pause": 1,
    "resume": 1,
    "coupons": 2,
    "trial": 1,
    "report_usage": 3,
    "correct_usage": 2,
    "give_back": 3,
    "void_and_make_again": 1,
    "pay_late": 2,
    "move_abroad_or_home": 1,
    "move_a_price": 0.3,
    "tokens": 1,
}


def deal_cards(rng: random.Random, number: int) -> list[str]:
    """Their cards: one that works, for the first has much to pay, then each other kind once.

    Few customers have every kind so. The rest are drawn as often as they weigh.
    """
    works, *kinds = CARDS
    rng.shuffle(kinds)
    return [works, *kinds, *rng.choices(list(CARDS), list(CARDS.values()), k=number)][:number]


@dataclass(kw_only=True)
class Customer(Subscriber, Payer):
    """Does things one after the other, all of them drawn."""

    mailbox: Path
    count: int
    #: What it pays with, a key of `CARDS`.
    card: str
    #: Subscriptions of everybody, to see that nobody sees another's.
    everybody: list[str]
    #: Of how many subscriptions it is the one account that floods.
    floods: int = 0
    #: Whether it lives in simulated time.
    simulated: bool = False

    def live(self) -> None:
        """All of it. Raises `GaveUp` when nothing comes of it any more."""
        self.account = self._sign_up()
        if self.simulated:
            self.clock = Clock(self.staff(), self.account)
            self.clock.make()
            if self.rng.random() < 0.3:
                self.share_invoices()
        body = {"provider": "sandbox", "token": self.card}
        self.client.must("attach a card", "POST", "/v1/payment-methods", body)
        for number in range(self.count):
            self._subscribe(self._price_of(number))
        for _ in range(self.floods * FLOOD_EACH // FLOOD_AT_ONCE):
            self.report_usage(FLOOD_AT_ONCE)
        # Everybody does this once, so that a run of few customers has it too.
        self.change_my_mind()
        if self.clock is not None:
            self.clock.advance(timedelta(days=10))
            self.look_and_change()
            self.have_more_billed_later()
        for _ in range(self.rng.randint(*DOINGS) + self.count // 2):
            self._do_something()
        self._part()
        if self.clock is not None:  # what is late, or waits, comes
            self.clock.advance(timedelta(days=32))
        self._look_around()

    def _price_of(self, number: int) -> Sold:
        """In four, one for usage alone, one of two parts, and two that are drawn."""
        if number % 4 == 3:
            return self.catalog.metered
        if number % 4 == 2:
            return self.rng.choice([one for one in self.catalog.prices if one.plan == "business"])
        return self.rng.choice(self.catalog.ahead)

    def _subscribe(self, price: Sold) -> None:
        body: dict[str, Any] = {"price_id": price.id}
        if price.takes_a_quantity:
            body["quantity"] = self.rng.randint(1, 7)
        if self.rng.random() < 0.5 and price.plan != "metered":
            body["addons"] = self.some_addons()
        if self.rng.random() < 0.3:
            codes = [code for code in self.catalog.codes if code != "SEATS10"]
            body["coupon"] = self.rng.choice(codes)
        made = self.client.make("subscribe", "/v1/subscriptions", body)
        self.held.append(Held(made["id"], bool(price.meters)))
        self.everybody.append(made["id"])

    def _do_something(self) -> None:
        if self.clock is not None and self.rng.random() < 0.3:
            if self.rng.random() < 0.5:
                self.look_ahead()
            self.clock.advance(timedelta(days=self.rng.choice([1, 10, 32, 32, 64])))
            # All is at rest, so that a preview can be held to its word.
            self.rng.choice([self.change, self.report_late])()
            return
        (name,) = self.rng.choices(list(WEIGHTS), list(WEIGHTS.values()))
        getattr(self, name)()

    def move_a_price(self) -> None:
        """Staff move everybody who holds one price to another."""
        old, new = self.rng.sample(self.catalog.monthly("team", "guest"), 2)
        body = {"from_price_id": old.id, "to_price_id": new.id}
        body["proration"] = self.rng.choice(["at_period_end", "at_period_end", "prorate_now"])
        staff = self.staff()
        try:
            staff.must("move a price", "POST", "/v1/price-moves", body)
        finally:
            staff.close()

    def _part(self) -> None:
        """One subscription ends for good, of which something went back before.

        Everybody does this too: what was given back once is not given again.
        """
        self.ask_for_less()
        held = self.rng.choice(self.held)
        self.give_back_of(held.id)
        back = self.rng.choice([{"credit": True}, {"refund": True}])
        body = {"at_period_end": False, **back}
        self.ask_for("part", f"{held.path}/cancel", body, by=self.desk)

    def _look_around(self) -> None:
        """Its own, all of it, and nothing of anybody else."""
        path = "/v1/subscriptions?limit=200"
        listed = {one["id"] for one in self.client.must("list", "GET", path)["data"]}
        mine = {one.id for one in self.held}
        if listed != mine:
            self.history.surprise(
                f"{self.client.name}: holds {sorted(mine)} and is shown {sorted(listed)}"
            )
        other = self.rng.choice(self.everybody)
        if other not in mine:
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
        verified = {"token": token, "password": PASSWORD}
        client.must("verify", "POST", "/v1/auth/verify-email", verified)

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
