"""Real servers for the tests that need them, started once, and what most tests share."""

import asyncio
import importlib
import importlib.util
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from shared import migrations
from shared.messaging.topology import declare
from shared.observability import configure_logging
from tests import servers as sources
from tests.databases import FreshDatabase, fresh_database
from tests.eventlog import EventLog, listening
from tests.harness import Deployment
from tests.servers import Servers
from tests.tokens import TokenIssuer
from tests.whole_system import WholeSystem, a_whole_system

SERVICES = ("auth", "subscriptions", "invoicing", "payments")

# How long an example takes says how busy the machine is, not whether it is right.
settings.register_profile("perennial", deadline=None, suppress_health_check=[HealthCheck.too_slow])
# For `make test-fast`, which is run between two thoughts; `make test` takes all examples.
settings.register_profile("fast", settings.get_profile("perennial"), max_examples=25)
settings.load_profile("perennial")


#: Fixtures that start servers, or install what only these tests need.
HEAVY = {"servers", "whole_system", "engine"}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whatever asks for servers is marked so, whether its author thought of it or not."""
    for item in items:
        if HEAVY.intersection(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.servers)


@pytest.fixture(scope="session", autouse=True)
def _logging() -> None:
    """Log as a process does, from warnings on.

    What is there without it paints each traceback for a person, which takes seconds: of that a
    service under test cannot recover while its servers are slow.
    """
    configure_logging("tests", "test", "WARNING")


@pytest.fixture(scope="session")
def servers() -> Iterator[Servers]:
    """Postgres, RabbitMQ and Redis: given, in containers, or private ones (tests/servers.py)."""
    with sources.servers() as started:
        yield started


@pytest.fixture
async def empty_database(servers: Servers) -> AsyncIterator[FreshDatabase]:
    async with fresh_database(servers.postgres_admin_url) as database:
        yield database


@pytest.fixture
async def second_empty_database(servers: Servers) -> AsyncIterator[FreshDatabase]:
    async with fresh_database(servers.postgres_admin_url) as database:
        yield database


def service_named(name: str) -> Any:
    """A service as its `main.py` declares it."""
    return importlib.import_module(f"services.{name}.main").service


@asynccontextmanager
async def deployed(servers: Servers) -> AsyncIterator[Deployment]:
    """All four services deployed: migrated, their topology declared, nothing running yet."""
    async with fresh_database(servers.postgres_admin_url) as database:
        made = Deployment(
            {name: database.url(name) for name in SERVICES},
            servers.rabbitmq_url,
            servers.redis_url,
        )
        for name in SERVICES:
            if importlib.util.find_spec(f"services.{name}.main") is None:
                continue
            await asyncio.to_thread(migrations.upgrade, name, made.database_urls[name])
            service = service_named(name)
            settings = made.settings(service)
            await declare(name, service.consumers, settings)
            if service.after_migrate is not None:
                async with service.open(settings) as runtime:
                    await service.after_migrate(runtime)
        yield made


@pytest.fixture(scope="session")
async def deployment(servers: Servers) -> AsyncIterator[Deployment]:
    """The deployment that most tests share."""
    async with deployed(servers) as made:
        yield made


@pytest.fixture(scope="session")
async def events(deployment: Deployment) -> AsyncIterator[EventLog]:
    """Everything that is published, from the first test on; look events up by subject."""
    async with listening(deployment.broker_url) as log:
        yield log


@pytest.fixture(scope="session")
def issuer() -> TokenIssuer:
    return TokenIssuer()


@pytest.fixture(scope="session")
def whole_system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WholeSystem]:
    """All processes of a deployment, started once."""
    with a_whole_system(tmp_path_factory.mktemp("perennial")) as system:
        yield system
