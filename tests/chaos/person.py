"""Somebody with an account: what it holds, its time, and how it asks for what may be refused."""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from tests.chaos.catalog import Catalog
from tests.chaos.client import Client
from tests.chaos.history import History

BEGIN = "2026-01-15T09:00:00+00:00"
#: What the state of things may refuse: what ended cannot be changed, a date may have passed, a
#: plan does not let its subscribers do all, a clock may be on its way.
REFUSED = {409, 422}
NOT_SELF_SERVICE = "not-self-service"


class Clock:
    """An account's simulated time, which staff move."""

    def __init__(self, staff: Client, account: str) -> None:
        self._staff = staff
        self._account = account
        self._id = ""
        self.now = datetime.fromisoformat(BEGIN)

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
        to = self.now + by
        status, _ = self._staff.ask(
            "advance", "POST", f"/v1/test-clocks/{self._id}/advance", {"to": to.isoformat()}
        )
        if status >= 300:
            return
        self.now = to
        moved, was_at = time.monotonic(), ""
        while self._staff.is_patient(moved):
            found = self._staff.must("look at a clock", "GET", f"/v1/test-clocks/{self._id}")
            if found["status"] == "ready":
                return
            if found["now"] != was_at:
                moved, was_at = time.monotonic(), found["now"]
            time.sleep(0.5)


@dataclass
class Held:
    """A subscription, and what its holder knows of it."""

    id: str
    is_metered: bool

    @property
    def path(self) -> str:
        return f"/v1/subscriptions/{self.id}"


@dataclass(kw_only=True)
class Person:
    """Does things one after the other; what it is told that cannot be is a surprise."""

    client: Client
    #: For what only the operator may do; asked for when it is needed.
    staff: Callable[[], Client]
    history: History
    rng: random.Random
    catalog: Catalog
    email: str
    held: list[Held] = field(default_factory=list)
    account: str = ""
    clock: Clock | None = None
    _desk: Client | None = None

    @property
    def desk(self) -> Client:
        """Staff who speak for this account."""
        if self._desk is None:
            self._desk = self.staff()
            self._desk.act_for(self.account)
        return self._desk

    @property
    def now(self) -> datetime:
        """What time it is for the account."""
        return self.clock.now if self.clock else datetime.now(UTC)

    def one(self) -> Held:
        """One of its subscriptions, which a person would see paid for the first time before."""
        held = self.rng.choice(self.held)
        self.wait_for_the_first_payment(held)
        return held

    def wait_for_the_first_payment(self, held: Held) -> None:
        """A person would see it in seconds; a declined card never pays, so not for ever."""
        for _ in range(10):
            if self.look_at(held)["status"] != "incomplete":
                return
            time.sleep(0.5)

    def look_at(self, held: Held) -> Any:
        return self.client.must("look at a subscription", "GET", held.path)

    def ask_for(
        self,
        what: str,
        path: str,
        body: Any = None,
        *,
        method: str = "POST",
        by: Client | None = None,
    ) -> Any:
        """What the state of things may refuse; None then."""
        status, told = (by or self.client).ask(what, method, path, body)
        if status < 300:
            return told
        if status not in REFUSED and told.get("code") != NOT_SELF_SERVICE:
            self.history.surprise(f"{self.client.name}: {what}: {status} {told}")
        return None

    def mostly(self, by: Client | None = None) -> Client:
        """Itself, or now and then staff for it."""
        return self.desk if self.rng.random() < 0.3 else by or self.client

    def close(self) -> None:
        """Leave."""
        self.client.close()
        if self._desk is not None:
            self._desk.close()
        if self.clock is not None:
            self.clock.close()
