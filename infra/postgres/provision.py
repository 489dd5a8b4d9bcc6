"""Prepares a database: a schema and a role per service (provision.sql), the database itself first.

`python -m infra.postgres.provision` does it for the database that PERENNIAL_ADMIN_DATABASE_URL
names, with the passwords in PERENNIAL_<SERVICE>_DATABASE_PASSWORD.
"""

import asyncio
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote, urlsplit

import asyncpg

from infra.environment import SERVICES, is_production
from shared.settings import refuse_unfit, weakness, weakness_of_url

SQL = Path(__file__).with_name("provision.sql")


def with_database(url: str, database: str) -> str:
    """The same server and user, another database."""
    return urlsplit(url)._replace(path=f"/{database}").geturl()


def with_role(url: str, role: str, password: str) -> str:
    """The same server and database, another user."""
    parts = urlsplit(url)
    address = parts.netloc.rpartition("@")[2]
    return parts._replace(netloc=f"{quote(role)}:{quote(password, safe='')}@{address}").geturl()


async def provision(url: str, passwords: Mapping[str, str], *, role_suffix: str = "") -> None:
    """Create the database that `url` names unless it exists, then its schemas and roles.

    `url` has the right to create all of it; `passwords` has one per service.
    """
    database = urlsplit(url).path.removeprefix("/")
    server = await asyncpg.connect(with_database(url, "postgres"))
    try:
        if not await server.fetchval("SELECT 1 FROM pg_database WHERE datname = $1", database):
            await server.execute(f'CREATE DATABASE "{database}"')
    finally:
        await server.close()
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(
            "SELECT set_config('perennial.passwords', $1, false),"
            " set_config('perennial.role_suffix', $2, false)",
            json.dumps(dict(passwords)),
            role_suffix,
        )
        await connection.execute(SQL.read_text())
    finally:
        await connection.close()


async def remove(url: str, *, role_suffix: str) -> None:
    """Drop the database that `url` names and its suffixed roles, whoever is connected."""
    database = urlsplit(url).path.removeprefix("/")
    server = await asyncpg.connect(with_database(url, "postgres"))
    try:
        await server.execute(f'DROP DATABASE IF EXISTS "{database}" WITH (FORCE)')
        for service in SERVICES:
            await server.execute(f'DROP ROLE IF EXISTS "{service}{role_suffix}"')
    finally:
        await server.close()


def main() -> int:
    """The command; says what is missing."""
    names = {service: f"PERENNIAL_{service.upper()}_DATABASE_PASSWORD" for service in SERVICES}
    wanted = ["PERENNIAL_ADMIN_DATABASE_URL", *names.values()]
    missing = [name for name in wanted if not os.environ.get(name)]
    if missing:
        sys.stderr.write(f"Settings are missing: {', '.join(missing)}\n")
        return 2
    if is_production(os.environ):
        refuse_unfit(
            f"{name} {fault}"
            for name, fault in (
                (wanted[0], weakness_of_url(os.environ[wanted[0]])),
                *((name, weakness(os.environ[name])) for name in names.values()),
            )
            if fault
        )
    passwords = {service: os.environ[name] for service, name in names.items()}
    try:
        asyncio.run(provision(os.environ["PERENNIAL_ADMIN_DATABASE_URL"], passwords))
    except (OSError, asyncpg.PostgresError) as error:
        sys.stderr.write(f"The database could not be prepared: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
