"""Databases of a test's own: provisioned as a deployment's are, dropped at the end."""

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from infra.environment import SERVICES
from infra.postgres import provision

PASSWORD = "test"


@dataclass(frozen=True)
class FreshDatabase:
    """One database with a schema and a role per service, and nothing in them."""

    admin_url: str
    suffix: str

    def url(self, service: str) -> str:
        """The database as the service's own role reaches it."""
        return provision.with_role(self.admin_url, f"{service}{self.suffix}", PASSWORD)


@asynccontextmanager
async def fresh_database(server_url: str) -> AsyncIterator[FreshDatabase]:
    """A database on the server that `server_url` (with the right to create) names."""
    suffix = f"_{secrets.token_hex(4)}"
    url = provision.with_database(server_url, f"perennial{suffix}")
    await provision.provision(url, dict.fromkeys(SERVICES, PASSWORD), role_suffix=suffix)
    try:
        yield FreshDatabase(url, suffix)
    finally:
        await provision.remove(url, role_suffix=suffix)
