"""What the migrations build is what the models say, down and up again."""

import asyncio
import importlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from shared import migrations
from tests.databases import FreshDatabase

pytestmark = pytest.mark.servers

SERVICES = ("auth", "subscriptions", "invoicing", "payments")

#: Columns, constraints, indexes and triggers as Postgres itself writes them down. Partitions
#: come and go with time and are left out; their parents are compared.
CATALOG = """
SELECT 'column' AS kind, c.relname AS relation, a.attname AS name,
       format_type(a.atttypid, a.atttypmod) || CASE WHEN a.attnotnull THEN ' not null' ELSE '' END
       || coalesce(' default ' || pg_get_expr(d.adbin, d.adrelid), '')
       || CASE WHEN a.attidentity <> '' THEN ' identity' ELSE '' END AS definition
  FROM pg_attribute a
  JOIN pg_class c ON c.oid = a.attrelid AND c.relkind IN ('r', 'p') AND NOT c.relispartition
  LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
 WHERE c.relnamespace = $1::regnamespace AND a.attnum > 0 AND NOT a.attisdropped
   AND c.relname <> 'alembic_version'
UNION ALL
SELECT 'constraint', c.relname, k.conname, pg_get_constraintdef(k.oid)
  FROM pg_constraint k
  JOIN pg_class c ON c.oid = k.conrelid AND NOT c.relispartition
 WHERE c.relnamespace = $1::regnamespace AND c.relname <> 'alembic_version'
   AND k.contype <> 't'
UNION ALL
SELECT 'index', t.relname, i.relname, pg_get_indexdef(i.oid)
  FROM pg_index x
  JOIN pg_class i ON i.oid = x.indexrelid AND NOT i.relispartition
  JOIN pg_class t ON t.oid = x.indrelid
 WHERE t.relnamespace = $1::regnamespace AND t.relname <> 'alembic_version'
"""


async def catalog(url: str, schema: str) -> dict[tuple[str, str, str], str]:
    connection = await asyncpg.connect(url)
    try:
        rows = await connection.fetch(CATALOG, schema)
    finally:
        await connection.close()
    return {(row["kind"], row["relation"], row["name"]): row["definition"] for row in rows}


def tables_of(service: str) -> Any:
    return importlib.import_module(f"services.{service}.tables").metadata


@pytest.mark.parametrize("service", SERVICES)
async def test_migrations_build_what_the_models_say(
    service: str, empty_database: FreshDatabase, second_empty_database: FreshDatabase
) -> None:
    migrated, modelled = empty_database.url(service), second_empty_database.url(service)
    await migrate(service, migrated)
    engine = create_async_engine(modelled.replace("postgresql://", "postgresql+asyncpg://"))
    async with engine.begin() as connection:
        await connection.run_sync(tables_of(service).create_all)
    await engine.dispose()

    assert await catalog(migrated, service) == await catalog(modelled, service)


@pytest.mark.parametrize("service", SERVICES)
async def test_migrations_go_down_to_nothing_and_up_again(
    service: str, empty_database: FreshDatabase
) -> None:
    url = empty_database.url(service)
    await migrate(service, url)
    first = await catalog(url, service)

    await in_thread(migrations.downgrade, service, url, "base")
    assert await catalog(url, service) == {}

    await migrate(service, url)
    assert await catalog(url, service) == first


@pytest.mark.parametrize("service", SERVICES)
def test_every_migration_has_a_way_back(service: str) -> None:
    folder = Path("services") / service / "migrations" / "versions"
    versions = sorted(folder.glob("*.py"))

    assert versions
    for version in versions:
        assert "def downgrade() -> None:" in version.read_text(), version


def test_a_migration_can_be_read_before_it_runs() -> None:
    """In a process of its own, as a deployment reads it: here an earlier one may have left `op`."""
    read = (
        "import pathlib, runpy\n"
        "for path in pathlib.Path('services').glob('*/migrations/versions/*.py'):\n"
        "    runpy.run_path(str(path))\n"
    )
    done = subprocess.run([sys.executable, "-c", read], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("service", SERVICES)
@pytest.mark.parametrize("other", SERVICES)
async def test_a_role_reaches_its_own_schema_alone(
    service: str, other: str, empty_database: FreshDatabase
) -> None:
    await migrate(other, empty_database.url(other))
    engine = create_async_engine(
        empty_database.url(service).replace("postgresql://", "postgresql+asyncpg://")
    )
    try:
        async with engine.connect() as connection:
            read = connection.execute(text(f'SELECT count(*) FROM "{other}".outbox'))  # noqa: S608
            if service == other:
                assert (await read).scalar_one() == 0
            else:
                with pytest.raises(Exception, match="permission denied for schema"):
                    await read
    finally:
        await engine.dispose()


async def migrate(service: str, url: str) -> None:
    await in_thread(migrations.upgrade, service, url)


async def in_thread(work: Any, *arguments: Any) -> None:
    """Alembic runs a loop of its own."""
    await asyncio.to_thread(work, *arguments)
