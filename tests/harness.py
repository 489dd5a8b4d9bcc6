"""Runs services inside the test process, against real servers, as their processes would."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
from pydantic import SecretStr

from shared import migrations
from shared.runtime import Runtime
from shared.service import Service
from tests.databases import fresh_database
from tests.declared import DeclaredTransport
from tests.servers import Servers
from tests.tokens import TokenIssuer


@dataclass(frozen=True)
class Deployment:
    """Where a test run's servers are, and how each service reaches them."""

    database_urls: dict[str, str]
    broker_url: str
    redis_url: str

    def settings(self, service: Service[Any, Any], **more: Any) -> Any:
        """The service's settings, as a deployment with test clocks would give them."""
        return service.settings(
            database_url=SecretStr(self.database_urls[service.name]),
            broker_url=SecretStr(self.broker_url),
            redis_url=SecretStr(self.redis_url),
            **{"test_clocks": True, **more},
        )


@asynccontextmanager
async def deployed_alone(name: str, servers: Servers) -> AsyncIterator[Deployment]:
    """One service on a database of its own, where no worker of another test is at work."""
    async with fresh_database(servers.postgres_admin_url) as database:
        url = database.url(name)
        await asyncio.to_thread(migrations.upgrade, name, url)
        yield Deployment({name: url}, servers.rabbitmq_url, servers.redis_url)


@dataclass(frozen=True)
class Running:
    """A service that runs: its runtime, and a client of its HTTP application."""

    service: Service[Any, Any]
    runtime: Runtime[Any, Any]
    http: httpx.AsyncClient


@asynccontextmanager
async def running(
    service: Service[Any, Any],
    deployment: Deployment,
    issuer: TokenIssuer | None,
    *,
    worker: bool = True,
    **settings: Any,
) -> AsyncIterator[Running]:
    """The API and, unless told otherwise, the worker, until the block ends.

    With an issuer, its tokens are believed instead of auth's.
    """
    made = deployment.settings(service, **settings)
    async with service.open(made) as runtime:
        if issuer is not None:
            runtime.verifier = issuer.verifier(made)
        transport = DeclaredTransport(service.create_api(runtime))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
            work = service.create_worker(runtime) if worker else None
            if work:
                await work.start()
            try:
                yield Running(service, runtime, http)
            finally:
                if work:
                    await work.stop()
