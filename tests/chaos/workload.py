"""Seeded customers that use the system through its gateway, whatever happens to it."""

# ruff: noqa: S311 -- chance here has to be repeatable, not secret

import random
import re
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx

from infra.environment import STAFF_EMAIL, STAFF_PASSWORD
from tests.chaos.history import Call, History

PASSWORD = "a long enough chaos passphrase"
BEGIN = "2026-01-15T09:00:00+00:00"
#: So long after the last fault a customer gives up on a request: that is a violation then.
PATIENCE_SECONDS = 60.0
CUSTOMERS_AT_ONCE = 8
PER_CUSTOMER = 4
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
#: Refusals that mean: the news has not come here yet, ask again.
NOT_YET = {
    "account-not-ready",
    "account-not-found",
    "idempotency-key-in-progress",
    "test-clock-busy",
}
BUSY = {408, 425, 429, 500, 502, 503, 504}


class GaveUp(Exception):
    """No answer that counts within the patience."""


class Client:
    """One person at the gateway. A request keeps its key until an answer counts."""

    def __init__(
        self,
        url: str,
        history: History,
        name: str,
        rng: random.Random,
        is_patient: Callable[[float], bool],
    ) -> None:
        self._http = httpx.Client(base_url=url, timeout=20)
        self._history = history
        self._rng = rng
        self._is_patient = is_patient
        self.name = name
        self.log_in: Callable[[], str] | None = None

    def close(self) -> None:
        self._http.close()

    def use(self, token: str) -> None:
        self._http.headers["Authorization"] = f"Bearer {token}"

    def ask(self, what: str, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """The status and body of the answer that counted."""
        key = str(UUID(int=self._rng.getrandbits(128), version=4))
        began, tries = self._history.now(), 0
        started = time.monotonic()
        status, told, code = None, {}, ""
        while self._is_patient(started):
            tries += 1
            try:
                answer = self._http.request(
                    method, path, json=body, headers={"Idempotency-Key": key}
                )
            except httpx.HTTPError:
                time.sleep(0.3)
                continue
            told = _json(answer)
            code = str(told.get("code", "")) if isinstance(told, dict) else ""
            if answer.status_code == 401 and self.log_in is not None and what != "log in":
                self.use(self.log_in())
                continue
            if answer.status_code in BUSY or code in NOT_YET:
                time.sleep(min(2.0, float(answer.headers.get("Retry-After", "0.3"))))
                continue
            status = answer.status_code
            break
        made = str(told.get("id", "")) if status == 201 and isinstance(told, dict) else ""
        self._history.add(
            Call(self.name, what, key, began, self._history.now(), tries, status, code, made)
        )
        if status is None:
            self._history.give_up(f"{self.name}: no answer to {what} ({code or 'silence'})")
            raise GaveUp(what)
        return status, told

    def must(self, what: str, method: str, path: str, body: Any = None) -> Any:
        """The same for what cannot be refused."""
        status, told = self.ask(what, method, path, body)
        if status >= 300:
            self._history.surprise(f"{self.name}: {what} was refused: {status} {told}")
            raise GaveUp(what)
        return told


def _json(answer: httpx.Response) -> Any:
    try:
        return answer.json() if answer.content else {}
    except ValueError:
        return {}


@dataclass
class Workload:
    """So many subscriptions over as many customers as that takes."""

    url: str
    mailbox: Path
    subscriptions: int
    seed: int
    history: History
    #: Instead of waiting the faults out, give up after so long.
    patience: float | None = None
    #: When the last fault was over.
    calm_since: float | None = None
    _prices: list[str] = field(default_factory=list)
    _pool: ThreadPoolExecutor | None = None
    _futures: list[Any] = field(default_factory=list)
    _staff_token: str = ""

    def prepare(self) -> None:
        """The catalog, before anything is broken."""
        with_staff = self._staff("staff")
        for code, amount in (("team", 2900), ("business", 5900)):
            plan = with_staff.must(
                "make a plan",
                "POST",
                "/v1/plans",
                {"code": code, "name": code, "dunning": {"days": [1, 3], "then": "cancel"}},
            )
            price = with_staff.must(
                "make a price",
                "POST",
                "/v1/prices",
                {
                    "plan_id": plan["id"],
                    "currency": "EUR",
                    "type": "flat",
                    "interval": "month",
                    "interval_count": 1,
                    "unit_amount": amount,
                },
            )
            with_staff.must("publish", "POST", f"/v1/plans/{plan['id']}/publish", {})
            self._prices.append(price["id"])
        with_staff.close()

    def start(self) -> None:
        """Let the customers in."""
        count = -(-self.subscriptions // PER_CUSTOMER)
        self._pool = ThreadPoolExecutor(CUSTOMERS_AT_ONCE, thread_name_prefix="customer")
        left = self.subscriptions
        for number in range(count):
            mine = min(PER_CUSTOMER, left)
            left -= mine
            self._futures.append(self._pool.submit(self._live, number, mine))

    def _is_patient(self, started: float) -> bool:
        """While faults go on, a customer waits; after that, not for long."""
        if self.patience is not None:
            return time.monotonic() - started < self.patience
        if self.calm_since is None:
            return True
        return time.monotonic() - max(started, self.calm_since) < PATIENCE_SECONDS

    @property
    def is_over(self) -> bool:
        return all(future.done() for future in self._futures)

    def finish(self) -> None:
        """Wait for the last customer."""
        assert self._pool
        self._pool.shutdown(wait=True)

    # ---- one customer -----------------------------------------------------------------------

    def _staff(self, name: str) -> Client:
        client = Client(
            self.url, self.history, name, random.Random(f"{self.seed}/{name}"), self._is_patient
        )

        def log_in() -> str:
            body = {"email": STAFF_EMAIL, "password": STAFF_PASSWORD}
            self._staff_token = client.must("log in", "POST", "/v1/auth/login", body)[
                "access_token"
            ]
            return self._staff_token

        client.log_in = log_in
        client.use(self._staff_token or log_in())
        return client

    def _live(self, number: int, subscriptions: int) -> None:
        rng = random.Random(f"{self.seed}/{number}")
        client = Client(self.url, self.history, f"customer-{number}", rng, self._is_patient)
        try:
            self._customer(client, rng, number, subscriptions)
        except GaveUp:
            return
        except Exception as error:  # noqa: BLE001  (told by the report)
            self.history.surprise(f"customer-{number}: {type(error).__name__}: {error}")
        finally:
            client.close()

    def _customer(self, client: Client, rng: random.Random, number: int, count: int) -> None:
        account = self._sign_up(client, f"c{number}-{self.seed}@example.com")
        clock = None
        if rng.random() < 0.5:
            clock = Clock(self._staff(f"staff-{number}"), account)
            clock.make()
        card = rng.choices(list(CARDS), list(CARDS.values()))[0]
        client.must(
            "attach a card",
            "POST",
            "/v1/payment-methods",
            {"provider": "sandbox", "token": card},
        )
        held = [
            client.must(
                "subscribe", "POST", "/v1/subscriptions", {"price_id": rng.choice(self._prices)}
            )["id"]
            for _ in range(count)
        ]
        for _ in range(rng.randint(2, 4)):
            self._do_something(client, rng, held, clock)
        if clock is not None:
            clock.close()

    def _do_something(
        self, client: Client, rng: random.Random, held: list[str], clock: "Clock | None"
    ) -> None:
        if clock is not None and rng.random() < 0.7:
            clock.advance(timedelta(days=rng.choice([10, 32, 32, 64])), self._is_patient)
            return
        one = rng.choice(held)
        self._wait_for_the_first_payment(client, one)
        what, path, body = rng.choice(
            [
                ("change", "change", {"price_id": rng.choice(self._prices)}),
                ("change", "change", {"price_id": rng.choice(self._prices)}),
                ("cancel at the end", "cancel", {"at_period_end": True}),
                ("cancel now", "cancel", {"at_period_end": False, "credit": True}),
            ]
        )
        status, told = client.ask(what, "POST", f"/v1/subscriptions/{one}/{path}", body)
        # A canceled one cannot be changed, and a declined first charge never began.
        if status >= 300 and status not in {409, 422}:
            self.history.surprise(f"{client.name}: {what}: {status} {told}")

    def _wait_for_the_first_payment(self, client: Client, subscription: str) -> None:
        """A person would see it in seconds; a declined card never pays, so not for ever."""
        for _ in range(20):
            path = f"/v1/subscriptions/{subscription}"
            if client.must("look at a subscription", "GET", path)["status"] != "incomplete":
                return
            time.sleep(0.5)

    def _sign_up(self, client: Client, email: str) -> str:
        body = {"email": email, "password": PASSWORD, "account_name": email, "country": "DE"}
        made = client.must(
            "sign up", "POST", "/v1/auth/register", {**body, "full_name": "Chaos", **ZONE}
        )
        token = self._token_mailed_to(email)
        client.must("verify", "POST", "/v1/auth/verify-email", {"token": token})

        def log_in() -> str:
            credentials = {"email": email, "password": PASSWORD}
            return str(client.must("log in", "POST", "/v1/auth/login", credentials)["access_token"])

        client.log_in = log_in
        client.use(log_in())
        return str(made["account"]["id"])

    def _token_mailed_to(self, email: str) -> str:
        started = time.monotonic()
        while self._is_patient(started):
            for mail in sorted((self.mailbox / email).glob("*"), reverse=True):
                if found := re.search(r"token[=: ]+([\w.-]{20,})", mail.read_text()):
                    return found[1]
            time.sleep(0.2)
        self.history.give_up(f"no mail came to {email}")
        raise GaveUp("the mail")


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

    def advance(self, by: timedelta, is_patient: Callable[[float], bool]) -> None:
        """Renew what falls due in between; returns when all services are there."""
        to = self._now + by
        status, _ = self._staff.ask(
            "advance", "POST", f"/v1/test-clocks/{self._id}/advance", {"to": to.isoformat()}
        )
        if status >= 300:
            return
        self._now = to
        started = time.monotonic()
        while is_patient(started):
            found = self._staff.must("look at a clock", "GET", f"/v1/test-clocks/{self._id}")
            if found["status"] == "ready":
                return
            time.sleep(0.5)
