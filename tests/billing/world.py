"""Subscriptions and invoicing in one process on a real Postgres, and accounts that live in it.

Commands go through the services' HTTP applications. What the services report is carried by
`mail`, payments are stood in for by `cashier`, and time is an account's test clock, moved from one
due instant to the next as the clocks of a deployment are (shared/testclock.py).
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from random import Random
from typing import Any, cast
from uuid import UUID

import asyncpg
import httpx
import orjson

from services.subscriptions.invoicing_client import invoicing_of
from shared.clock import utc_now
from shared.events import Event
from shared.events.auth import AccountClosed, AccountRegistered
from shared.ids import new_id
from shared.schedule import Due, Job
from tests.billing.cashier import Card, Cashier
from tests.billing.mail import Mail
from tests.conftest import service_named
from tests.harness import Deployment, Running, running
from tests.tokens import TokenIssuer

#: Jobs that bill nothing.
IDLE_JOBS = {"expire_token_grants", "remind_payers", "render_documents"}
CLOCK = """
INSERT INTO {schema}.account_clocks (account_id, clock_id, now, target, revision)
VALUES ($1, $1, $2, $2, 0)
    ON CONFLICT (account_id) DO UPDATE SET now = excluded.now, target = excluded.target
"""
#: More rounds than this at one instant mean that the services never come to rest.
MOST_ROUNDS = 200


class Refused(Exception):
    """A command was refused; `status` and `code` say how."""

    def __init__(self, answer: httpx.Response) -> None:
        self.status = answer.status_code
        body = orjson.loads(answer.content) if answer.content else {}
        self.code = str(body.get("code", ""))
        super().__init__(f"{self.status} {self.code}: {body.get('detail', answer.text)}")


@dataclass(frozen=True)
class Client:
    """Somebody at one service's API."""

    http: httpx.AsyncClient
    headers: dict[str, str]

    async def ask(self, method: str, path: str, body: Any = None, **headers: str) -> Any:
        """The answer as JSON. Raises `Refused`; a fault of the server's is an assertion."""
        keyed = {"Idempotency-Key": str(new_id())} if method != "GET" else {}
        answer = await self.http.request(
            method, path, json=body, headers={**self.headers, **keyed, **headers}
        )
        assert answer.status_code < 500, f"{method} {path}: {answer.status_code} {answer.text}"
        if answer.is_error:
            raise Refused(answer)
        return orjson.loads(answer.content) if answer.content else None

    async def post(self, path: str, **body: Any) -> Any:
        return await self.ask("POST", path, body)

    async def get(self, path: str) -> Any:
        return await self.ask("GET", path)


@dataclass(frozen=True)
class World:
    """Both services, running; staff's clients of each."""

    subscriptions: Running
    invoicing: Running
    issuer: TokenIssuer
    #: A connection to each service's database, for what the services are not asked.
    connections: dict[asyncpg.Connection, Running]
    #: Kept here by whoever makes things that all accounts of this world use.
    shelf: dict[Any, Any] = field(default_factory=dict)

    @property
    def services(self) -> tuple[Running, Running]:
        return self.subscriptions, self.invoicing

    @property
    def catalog(self) -> Client:
        """Staff at subscriptions."""
        return Client(self.subscriptions.http, self._staff)

    @property
    def _staff(self) -> dict[str, str]:
        if "staff" not in self.shelf:
            self.shelf["staff"] = self.issuer.of_staff("admin")
        headers: dict[str, str] = self.shelf["staff"]
        return headers

    async def account(
        self,
        *,
        now: datetime,
        country: str = "DE",
        time_zone: str = "UTC",
        card: Card = Card.PAYS,
        shuffle: Random | None = None,
        watch: Callable[[Event], None] | None = None,
        foresee: Callable[[Sequence[Event]], None] | None = None,
    ) -> "Account":
        """A registered account that lives from `now` on."""
        account = Account(self, new_id(), now, shuffle=shuffle, watch=watch, foresee=foresee)
        await account.begin(country=country, time_zone=time_zone, card=card)
        return account

    async def forget(self, account: "Account") -> None:
        """Nothing happens to the account any more; staff's bulk moves pass it over."""
        for connection, service in self.connections.items():
            if service.service.name == "subscriptions":
                await connection.execute(
                    "UPDATE subscriptions.subscriptions SET status = 'incomplete_expired',"
                    " due_at = NULL, lapsed_at = NULL, paused_at = NULL, canceled_at = NULL"
                    " WHERE account_id = $1",
                    account.id,
                )

    async def run_for_everybody(self, job: str) -> None:
        """Have a job done that belongs to no account's clock, until nothing is left of it."""
        for service in self.services:
            for known in service.service.schedule.jobs:
                if known.name == job:
                    due = Due(utc_now(), service.runtime.database.platform)
                    while await known.run(service.runtime, due):
                        pass


class Account:
    """A customer in simulated time, with staff who act for it, a bank and a mail carrier."""

    def __init__(
        self,
        world: World,
        account_id: UUID,
        now: datetime,
        *,
        shuffle: Random | None,
        watch: Callable[[Event], None] | None,
        foresee: Callable[[Sequence[Event]], None] | None,
    ) -> None:
        self.world = world
        self.id = account_id
        self.now = now
        #: What is due next, by job, as far as nothing was done since.
        self._dues: dict[str, datetime | None] = {}
        self.cashier = Cashier(account_id=account_id, post=self._post, now=now)
        self.mail = Mail(
            account_id,
            world.connections,
            self.cashier.hear,
            [watch] if watch else [],
            foresee=foresee,
            shuffle=shuffle,
        )
        tokens = world.issuer.of_account(account_id)
        staff = {**world._staff, "Perennial-Account": str(account_id)}
        self.customer = Client(world.subscriptions.http, tokens)
        self.payer = Client(world.invoicing.http, tokens)
        self.staff = Client(world.subscriptions.http, staff)
        self.finance = Client(world.invoicing.http, staff)

    def _post(self, event: Event) -> None:
        self.mail.post(event)

    async def begin(self, *, country: str, time_zone: str, card: Card) -> None:
        await self._set_clock(self.now)
        self.mail.post(
            AccountRegistered(
                occurred_at=self.now,
                account_id=self.id,
                sequence=1,
                country=country,
                time_zone=time_zone,
            )
        )
        self.cashier.attach_card(card)
        await self.settle()

    def close(self) -> None:
        """The account is closed; what it holds ends."""
        self.mail.post(AccountClosed(occurred_at=self.now, account_id=self.id, sequence=2))

    # ---- time -------------------------------------------------------------------------------

    async def settle(self) -> datetime | None:
        """Until nothing is due, on its way or to be paid at this instant; what is due next."""
        self.mail.ask(*(service.service.name for service in self.world.services))
        for _ in range(MOST_ROUNDS):
            moved = await self.mail.carry()
            if self.cashier.collect_due() or moved:
                continue
            due = await self._next_due()
            if due is None or due > self.now:
                return due
            await self._do_what_is_due()
        raise AssertionError(f"The account never comes to rest at {self.now}.")

    async def advance(
        self, to: datetime, *, each: Callable[[], Awaitable[None]] | None = None
    ) -> None:
        """Move time to `to`, by way of everything that falls due; `each` is called at each stop."""
        due = await self.settle()
        while self.now < to:
            await self._set_clock(to if due is None else min(due, to))
            await self._do_what_is_due()
            due = await self.settle()
            if each is not None:
                await each()

    async def jump(self, to: datetime) -> None:
        """Move time to `to` at once, as if nothing had worked in between."""
        await self._set_clock(to)
        await self.settle()

    async def _next_due(self) -> datetime | None:
        for service, job in self._jobs():
            if job.next_due is not None and service.service.name in self.mail.touched:
                async with service.runtime.begin() as uow:
                    self._dues[job.name] = await job.next_due(uow, self.id)
        self.mail.touched.clear()
        dues = [self.cashier.next_due, *self._dues.values()]
        return min((due for due in dues if due is not None), default=None)

    async def _do_what_is_due(self) -> None:
        for service, job in self._jobs():
            due = self._dues.get(job.name)
            if due is None or due > self.now:
                continue
            platform = service.runtime.database.platform
            self.mail.ask(service.service.name)
            while await job.run(service.runtime, Due(self.now, platform, self.id)):
                pass

    def _jobs(self) -> Sequence[tuple[Running, Job]]:
        return [
            (service, job)
            for service in self.world.services
            for job in service.service.schedule.jobs
            if job.next_due is not None and job.name not in IDLE_JOBS
        ]

    async def _set_clock(self, now: datetime) -> None:
        self.now = self.cashier.now = now
        for connection, service in self.world.connections.items():
            await connection.execute(CLOCK.format(schema=service.service.name), self.id, now)

    async def wait(self, **delta: float) -> None:
        await self.advance(self.now + timedelta(**delta))


@asynccontextmanager
async def a_world(deployment: Deployment, issuer: TokenIssuer) -> AsyncIterator[World]:
    """Both services without their workers, until the block ends."""
    async with AsyncExitStack() as stack:
        started, connections = [], {}
        for name in ("subscriptions", "invoicing"):
            service = await stack.enter_async_context(
                running(
                    service_named(name),
                    deployment,
                    issuer,
                    worker=False,
                    **({"invoicing_url": "http://invoicing"} if name == "subscriptions" else {}),
                )
            )
            connection = await asyncpg.connect(deployment.database_urls[name])
            stack.push_async_callback(connection.close)
            connections[connection] = service
            started.append(service)
        subscriptions, invoicing = started
        # Previews are priced by invoicing, which is asked without a network between.
        invoicing_of(subscriptions.runtime.own)._http = cast("Any", invoicing.http)
        yield World(subscriptions, invoicing, issuer, connections)
