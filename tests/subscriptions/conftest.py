"""Subscriptions, running for the session; each test has accounts and plans of its own."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import httpx
import orjson
import pytest

from services.subscriptions.use_cases.know_account import know_account
from shared.clock import utc_now
from shared.context import current_cause
from shared.events import Event
from shared.events.auth import AccountRegistered
from shared.ids import new_id
from shared.messaging import envelope
from tests.conftest import service_named
from tests.eventlog import EventLog
from tests.harness import Deployment, Running, running
from tests.tokens import TokenIssuer

Publish = Callable[[Event], Awaitable[None]]


@dataclass(frozen=True)
class Client:
    """Somebody at the API; answers are JSON and must not be errors unless asked for."""

    http: httpx.AsyncClient
    headers: dict[str, str]

    async def ask(self, method: str, path: str, **how: Any) -> httpx.Response:
        headers = {**self.headers, **how.pop("headers", {})}
        if method in {"POST", "PATCH"}:
            headers.setdefault("Idempotency-Key", str(new_id()))
        return await self.http.request(method, path, headers=headers, **how)

    async def post(self, path: str, **body: Any) -> Any:
        return answered(await self.ask("POST", path, json=body))

    async def get(self, path: str, **params: Any) -> Any:
        return answered(await self.ask("GET", path, params=params))

    async def refused(self, path: str, **body: Any) -> tuple[int, str]:
        """Status and code of a POST that must be refused."""
        answer = await self.ask("POST", path, json=body)
        assert answer.is_error, answer.text
        return answer.status_code, str(orjson.loads(answer.content)["code"])


def answered(answer: httpx.Response) -> Any:
    assert answer.is_success, f"{answer.status_code} {answer.text}"
    return orjson.loads(answer.content) if answer.content else None


@dataclass(frozen=True)
class Customer(Client):
    account_id: UUID


@pytest.fixture(scope="session")
async def service(deployment: Deployment, issuer: TokenIssuer) -> AsyncIterator[Running]:
    async with running(service_named("subscriptions"), deployment, issuer) as started:
        yield started


@pytest.fixture(scope="session")
def staff(service: Running, issuer: TokenIssuer) -> Client:
    return Client(service.http, issuer.of_staff("admin"))


@pytest.fixture(scope="session")
def anybody(service: Running) -> Client:
    return Client(service.http, {})


@pytest.fixture
def new_customer(
    service: Running, issuer: TokenIssuer, publish: "Publish"
) -> Callable[..., Awaitable[Customer]]:
    """The owner of an account that subscriptions knows."""

    async def make(time_zone: str = "Europe/Berlin") -> Customer:
        account_id = new_id()
        event = AccountRegistered(
            occurred_at=utc_now(),
            account_id=account_id,
            sequence=1,
            country="DE",
            time_zone=time_zone,
        )
        async with service.runtime.begin() as uow:
            await know_account(uow, event)
        await publish(event)  # the other services know it too, where they run
        return Customer(service.http, issuer.of_account(account_id), account_id)

    return make


@pytest.fixture
async def customer(new_customer: Callable[..., Awaitable[Customer]]) -> Customer:
    return await new_customer()


@dataclass(frozen=True)
class Shop:
    """Staff's side of the catalog."""

    staff: Client

    async def plan(self, **more: Any) -> dict[str, Any]:
        body = {"code": f"plan-{new_id()}", "name": "Team", **more}
        made: dict[str, Any] = await self.staff.post("/v1/plans", **body)
        return made

    async def price(self, plan: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
        """A published plan's monthly price in euro."""
        fresh = plan is None
        plan = plan or await self.plan()
        body = {"plan_id": plan["id"], "currency": "EUR", "type": "flat", "interval": "month"}
        if "tiers" not in more and "unit_amount_decimal" not in more:
            body["unit_amount"] = 1000
        made: dict[str, Any] = await self.staff.post("/v1/prices", **{**body, **more})
        if fresh or plan["status"] == "draft":
            await self.staff.post(f"/v1/plans/{plan['id']}/publish")
        return made


@pytest.fixture
def shop(staff: Client) -> Shop:
    return Shop(staff)


@pytest.fixture(scope="session")
def publish(events: EventLog) -> Publish:
    """Deliver an event as its publisher would."""

    async def deliver(event: Event) -> None:
        await events.publish(envelope.write(event, current_cause()))

    return deliver


async def until(look: Callable[[], Awaitable[Any]], *, within: float = 15) -> Any:
    """What `look` finds once it finds something."""
    deadline = time.monotonic() + within
    while True:
        found = await look()
        if found:
            return found
        assert time.monotonic() < deadline, "it did not happen in time"
        await asyncio.sleep(0.02)
