"""Seeded customers that use the system through its gateway, whatever happens to it."""

# ruff: noqa: S311 -- chance here has to be repeatable, not secret

import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from infra.environment import STAFF_EMAIL, STAFF_PASSWORD
from tests.chaos.catalog import Catalog
from tests.chaos.client import Client, GaveUp
from tests.chaos.customer import Customer, deal_cards
from tests.chaos.history import History

#: So long after the last fault a customer gives up on a request: that is a violation then.
PATIENCE_SECONDS = 60.0
CUSTOMERS_AT_ONCE = 12
#: Subscriptions of one customer: few where there are few, for a sign-up is dear.
PER_CUSTOMER = (4, 12)


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
    _catalog: Catalog = field(default_factory=Catalog)
    _pool: ThreadPoolExecutor | None = None
    _futures: list[Any] = field(default_factory=list)
    _staff_token: str = ""
    _staff_lock: threading.Lock = field(default_factory=threading.Lock)
    _everybody: list[str] = field(default_factory=list)

    def prepare(self) -> None:
        """The catalog, before anything is broken."""
        staff = self._staff("staff")
        self._catalog.publish(staff)
        staff.close()

    def start(self) -> None:
        """Let the customers in."""
        few, many = PER_CUSTOMER
        each = few if self.subscriptions < 50 * many else many
        self._pool = ThreadPoolExecutor(CUSTOMERS_AT_ONCE, thread_name_prefix="customer")
        left = self.subscriptions
        cards = deal_cards(random.Random(f"{self.seed}/cards"), -(-self.subscriptions // each))
        for number, card in enumerate(cards):
            mine = min(each, left)
            left -= mine
            self._futures.append(self._pool.submit(self._live, number, mine, card))

    def _is_patient(self, started: float) -> bool:
        """While faults go on, a customer waits; after that, not for long."""
        if self.patience is not None:
            return time.monotonic() - started < self.patience
        if self.calm_since is None:
            return True
        return time.monotonic() - max(started, self.calm_since) < PATIENCE_SECONDS

    @property
    def progress(self) -> float:
        """How far the customers are: half of it to have subscribed, half to have done the rest."""
        over = sum(1 for future in self._futures if future.done())
        return (len(self._everybody) / self.subscriptions + over / len(self._futures)) / 2

    @property
    def is_over(self) -> bool:
        return all(future.done() for future in self._futures)

    def finish(self) -> None:
        """Wait for the last customer."""
        assert self._pool
        self._pool.shutdown(wait=True)

    def _staff(self, name: str) -> Client:
        client = Client(
            self.url, self.history, name, random.Random(f"{self.seed}/{name}"), self._is_patient
        )

        def log_in() -> str:
            # One at a time: the others find the token that it was given.
            known = self._staff_token
            with self._staff_lock:
                if self._staff_token == known:
                    body = {"email": STAFF_EMAIL, "password": STAFF_PASSWORD}
                    told = client.must("log in", "POST", "/v1/auth/login", body)
                    self._staff_token = told["access_token"]
                return self._staff_token

        client.log_in = log_in
        client.use(self._staff_token or log_in())
        return client

    def _live(self, number: int, subscriptions: int, card: str) -> None:
        rng = random.Random(f"{self.seed}/{number}")
        name = f"customer-{number}"
        count = 0

        def staff() -> Client:
            nonlocal count
            count += 1
            return self._staff(f"staff-{number}-{count}")

        customer = Customer(
            client=Client(self.url, self.history, name, rng, self._is_patient),
            staff=staff,
            history=self.history,
            rng=rng,
            catalog=self._catalog,
            mailbox=self.mailbox,
            email=f"c{number}-{self.seed}@example.com",
            count=subscriptions,
            card=card,
            everybody=self._everybody,
            floods=self.subscriptions if number == 0 else 0,
            credits=number % 2 == 1,
            # The first floods, in its own time; of three, two live in simulated time.
            simulated=number % 3 != 0,
        )
        try:
            customer.live()
        except GaveUp:
            return
        except Exception as error:  # noqa: BLE001  (told by the report)
            self.history.surprise(f"{name}: {type(error).__name__}: {error}")
        finally:
            customer.close()
