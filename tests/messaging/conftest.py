"""A database for probes, and a probe per test."""

import secrets
from collections.abc import AsyncIterator

import asyncpg
import pytest

from infra.postgres.provision import with_database
from tests.messaging.probe import Probe, probing
from tests.servers import Servers


@pytest.fixture(scope="session")
async def probe_database(servers: Servers) -> AsyncIterator[str]:
    """A database that the probes of this run share, each with a schema of its own."""
    name = f"perennial_probe_{secrets.token_hex(4)}"
    server = await asyncpg.connect(servers.postgres_admin_url)
    await server.execute(f"CREATE DATABASE {name}")
    try:
        yield with_database(servers.postgres_admin_url, name)
    finally:
        await server.execute(f"DROP DATABASE {name} WITH (FORCE)")
        await server.close()


@pytest.fixture
async def probe(servers: Servers, probe_database: str) -> AsyncIterator[Probe]:
    async with probing(probe_database, servers.rabbitmq_url, servers.redis_url) as made:
        yield made
