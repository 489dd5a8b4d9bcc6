"""A migrated payments schema, a sandbox process, and a service that is driven by hand."""

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from services.payments.main import service
from shared import migrations
from shared.messaging.topology import declare
from tests.databases import FreshDatabase, fresh_database
from tests.harness import Deployment
from tests.payments.servers import SECRET, Sandbox, sandbox_process
from tests.payments.world import World
from tests.servers import Servers
from tests.tokens import TokenIssuer


@pytest.fixture(scope="session")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    """The sandbox, and the environment by which the service finds it.

    It loses answers at once: how long a lost answer is waited for is the conformance suite's.
    """
    folder: Path = tmp_path_factory.mktemp("sandbox")
    with sandbox_process(folder, hang_seconds=0) as made:
        given = found_by(made)
        before = {name: os.environ.get(name) for name in given}
        os.environ.update(given)
        yield made
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def found_by(sandbox: Sandbox) -> dict[str, str]:
    """Enough time for a machine that is busy with other things."""
    return {
        "PERENNIAL_SANDBOX_URL": sandbox.url,
        "PERENNIAL_SANDBOX_WEBHOOK_SECRET": SECRET,
        "PERENNIAL_SANDBOX_TIMEOUT_SECONDS": "20",
    }


async def migrated(database: FreshDatabase, servers: Servers) -> Deployment:
    """The payments service alone: migrated, its topology declared, nothing running."""
    made = Deployment(
        {"payments": database.url("payments")}, servers.rabbitmq_url, servers.redis_url
    )
    await asyncio.to_thread(migrations.upgrade, "payments", made.database_urls["payments"])
    await declare("payments", service.consumers, made.settings(service))
    return made


@pytest.fixture(scope="session")
async def payments_deployment(servers: Servers) -> AsyncIterator[Deployment]:
    async with fresh_database(servers.postgres_admin_url) as database:
        yield await migrated(database, servers)


@pytest.fixture
async def world(
    payments_deployment: Deployment, sandbox: Sandbox, issuer: TokenIssuer
) -> AsyncIterator[World]:
    """The service without its worker: a test runs the jobs itself, so that nothing is random."""
    async with World.open(payments_deployment, sandbox, issuer) as made:
        yield made


@dataclass(frozen=True)
class Own:
    """A deployment of payments, and the books of its provider, that nobody else writes in."""

    deployment: Deployment
    sandbox: Sandbox


@pytest.fixture
async def own(
    servers: Servers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Own]:
    with sandbox_process(tmp_path, hang_seconds=0) as sandbox:
        for name, value in found_by(sandbox).items():
            monkeypatch.setenv(name, value)
        async with fresh_database(servers.postgres_admin_url) as database:
            yield Own(await migrated(database, servers), sandbox)


@pytest.fixture
async def alone(own: Own, issuer: TokenIssuer) -> AsyncIterator[World]:
    async with World.open(own.deployment, own.sandbox, issuer) as world:
        yield world
