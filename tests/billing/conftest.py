"""Subscriptions, invoicing and payments that run together; each test has accounts of its own."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from shared.context import current_cause
from shared.events.auth import AccountRegistered
from shared.ids import new_id
from shared.messaging import envelope
from tests.billing.previewed import Life, Services
from tests.conftest import service_named
from tests.eventlog import EventLog
from tests.harness import Deployment, running
from tests.payments.servers import SECRET, Sandbox, sandbox_process
from tests.subscriptions.conftest import Client, Shop, until
from tests.subscriptions.stand_in import served
from tests.tokens import TokenIssuer

START = datetime(2026, 1, 31, 12, tzinfo=UTC)

Begin = Callable[..., Awaitable[Life]]


@pytest.fixture(scope="session")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    with sandbox_process(tmp_path_factory.mktemp("sandbox"), hang_seconds=0) as made:
        yield made


# A module long: the workers of other tests are bound to the same queues.
@pytest.fixture(scope="module")
async def services(
    deployment: Deployment,
    issuer: TokenIssuer,
    sandbox: Sandbox,
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[Services]:
    objects: Path = tmp_path_factory.mktemp("objects")
    with pytest.MonkeyPatch.context() as environment:
        for name, value in {
            "URL": sandbox.url,
            "WEBHOOK_SECRET": SECRET,
            "TIMEOUT_SECONDS": "20",
        }.items():
            environment.setenv(f"PERENNIAL_SANDBOX_{name}", value)
        async with AsyncExitStack() as stack:

            async def run(name: str, **settings: Any) -> Any:
                service = service_named(name)
                return await stack.enter_async_context(
                    running(service, deployment, issuer, **settings)
                )

            await run("auth")
            invoicing = await run("invoicing", object_store_url=str(objects))
            app = invoicing.service.create_api(invoicing.runtime)
            url = await stack.enter_async_context(served(app))
            subscriptions = await run("subscriptions", invoicing_url=url)
            payments = await run("payments")
            yield Services(subscriptions, invoicing, payments, issuer)


@pytest.fixture
def staff(services: Services, issuer: TokenIssuer) -> Client:
    return Client(services.subscriptions.http, issuer.of_staff("admin"))


@pytest.fixture
def shop(staff: Client) -> Shop:
    return Shop(staff)


@pytest.fixture
def begin(services: Services, events: EventLog, staff: Client) -> Begin:
    """An account in simulated time, with a card."""

    async def make(country: str = "DE", *, at: datetime = START, card: str = "tok_ok") -> Life:
        account_id = new_id()
        registered = AccountRegistered(
            occurred_at=at,
            account_id=account_id,
            sequence=1,
            country=country,
            time_zone="Europe/Berlin",
        )
        await events.publish(envelope.write(registered, current_cause()))
        life = Life(services, account_id, "", at)

        async def known() -> bool:
            if (await life.invoicing.ask("GET", "/v1/billing-details")).is_error:
                return False
            clock = {"account_id": str(account_id), "now": at.isoformat()}
            made = await staff.ask("POST", "/v1/test-clocks", json=clock)
            life.clock_id = made.json().get("id", "")
            return made.is_success

        await until(known, within=120)
        await life.settle()
        await life.pay_with(card)
        return life

    return make
