"""Invoicing, running for the session; each test has accounts of its own."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar
from uuid import UUID

import httpx
import orjson
import pytest

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

NewAccount = Callable[..., Awaitable[UUID]]
T = TypeVar("T")
Publish = Callable[[Event], Awaitable[None]]


@pytest.fixture(scope="session")
async def invoicing(
    deployment: Deployment, issuer: TokenIssuer, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Running]:
    service = service_named("invoicing")
    folder = tmp_path_factory.mktemp("objects")
    async with running(service, deployment, issuer, object_store_url=str(folder)) as started:
        yield started


@pytest.fixture(scope="session")
def http(invoicing: Running) -> httpx.AsyncClient:
    return invoicing.http


@pytest.fixture(scope="session")
def staff(issuer: TokenIssuer) -> dict[str, str]:
    return issuer.of_staff("finance")


@pytest.fixture(scope="session")
def publish(events: EventLog) -> Publish:
    """Deliver an event as its publisher would."""

    async def deliver(event: Event) -> None:
        await events.publish(envelope.write(event, current_cause()))

    return deliver


@pytest.fixture(scope="session")
def new_account(invoicing: Running) -> NewAccount:
    """An account that invoicing knows."""

    async def make(country: str = "DE") -> UUID:
        from services.invoicing.use_cases.take_in_account import take_in_account  # noqa: PLC0415

        account_id = new_id()
        event = AccountRegistered(
            occurred_at=utc_now(),
            account_id=account_id,
            sequence=1,
            country=country,
            time_zone="Europe/Berlin",
        )
        async with invoicing.runtime.begin() as uow:
            await take_in_account(uow, event)
        return account_id

    return make


async def until(fact: Callable[[], Awaitable[T]], *, within: float = 15) -> T:
    """What `fact` answers as soon as it is true."""
    async with asyncio.timeout(within):
        while not (found := await fact()):  # noqa: ASYNC110  (nobody announces it)
            await asyncio.sleep(0.05)
    return found


def body(answer: httpx.Response) -> Any:
    """The JSON of an answer that must not be an error."""
    assert answer.is_success, answer.text
    return orjson.loads(answer.content)


def key() -> dict[str, str]:
    return {"Idempotency-Key": str(new_id())}
