"""Alembic for all services: one lock, one lock time-out, one version table per schema."""

import asyncio
import hashlib
import importlib
from pathlib import Path
from typing import Any

from alembic import command, context
from alembic.config import Config
from alembic.script import ScriptDirectory
from alembic.util.exc import CommandError
from sqlalchemy import Connection, MetaData, make_url, pool, text
from sqlalchemy.ext.asyncio import create_async_engine

from shared.errors import MigrationFailed

#: A migration that cannot have its lock at once must not make everybody wait behind it.
LOCK_TIMEOUT = "5s"


def config(service: str, url: str) -> Config:
    """Alembic's configuration for a service; it has no ini file."""
    package = importlib.import_module(f"services.{service}")
    made = Config()
    made.set_main_option("script_location", str(Path(str(package.__file__)).parent / "migrations"))
    made.attributes["url"] = url
    made.attributes["schema"] = service
    return made


def upgrade(service: str, url: str, revision: str = "head") -> None:
    """Bring the service's schema up to `revision`; several at once take turns.

    Raises `MigrationFailed` where the schema is at a revision that this code does not know.
    """
    try:
        command.upgrade(config(service, url), revision)
    except CommandError as error:
        raise MigrationFailed(str(error)) from error


def downgrade(service: str, url: str, revision: str) -> None:
    """Take the service's schema back to `revision` (`base` is before the first)."""
    command.downgrade(config(service, url), revision)


def head(service: str) -> str:
    """The newest revision that this code knows."""
    found = ScriptDirectory.from_config(config(service, "")).get_current_head()
    return str(found)


def run(metadata: MetaData) -> None:
    """What a service's `migrations/env.py` calls."""
    asyncio.run(_run(metadata, context.config.attributes["url"]))


async def _run(metadata: MetaData, url: str) -> None:
    engine = create_async_engine(
        make_url(url).set(drivername="postgresql+asyncpg"), poolclass=pool.NullPool
    )
    async with engine.connect() as connection:
        await connection.run_sync(_migrate, metadata)
        await connection.commit()
    await engine.dispose()


def _migrate(connection: Connection, metadata: MetaData) -> None:
    schema = str(metadata.schema)
    key = int.from_bytes(hashlib.sha256(f"migrate {schema}".encode()).digest()[:8], signed=True)
    # Held by the session, so that it outlives the transactions of single migrations.
    connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": key})
    connection.execute(text(f"SET lock_timeout = '{LOCK_TIMEOUT}'"))
    connection.execute(text(f'SET search_path TO "{schema}"'))
    connection.commit()

    def ours(_object: Any, name: str | None, kind: str, *_: Any) -> bool:
        return kind != "table" or name != "alembic_version"

    context.configure(
        connection=connection,
        target_metadata=metadata,
        version_table_schema=schema,
        include_object=ours,
        transaction_per_migration=True,
    )
    with context.begin_transaction():
        context.run_migrations()
