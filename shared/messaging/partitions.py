"""Daily partitions of outbox and inbox, made ahead and dropped whole."""

from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import text

from shared.clock import utc_now
from shared.runtime import Runtime

#: Table, its retention, and how many days ahead partitions stand ready.
KEPT = {"outbox": timedelta(days=7), "inbox": timedelta(days=90)}
AHEAD_DAYS = 3


def first_id(day: datetime) -> UUID:
    """The least UUIDv7 of a day: its time in milliseconds, zeros after (RFC 9562)."""
    return UUID(int=int(day.timestamp() * 1000) << 80)


async def keep_partitions(runtime: Runtime[Any, Any]) -> None:
    """Make the partitions of the next days, and drop those past their retention.

    A partition of the outbox that still holds an unsent row stays.
    """
    schema = runtime.database.platform.schema
    today = utc_now().replace(hour=0, minute=0, second=0, microsecond=0)
    async with runtime.begin() as uow:
        session = uow.session
        await session.execute(text("SET LOCAL lock_timeout = '2s'"))
        await session.execute(
            text("SELECT pg_advisory_xact_lock(hashtext(:name))"),
            {"name": f"partitions {schema}"},
        )
        for table, kept in KEPT.items():
            for ahead in range(AHEAD_DAYS + 1):
                await _make(session, schema, table, today + timedelta(days=ahead))
            await _drop(session, schema, table, today - kept)


async def _make(session: Any, schema: str, table: str, day: datetime) -> None:
    name = f"{table}_{day:%Y%m%d}"
    exists = await session.scalar(text("SELECT to_regclass(:name)"), {"name": f"{schema}.{name}"})
    if exists is None:
        low, high = first_id(day), first_id(day + timedelta(days=1))
        column = "id" if table == "outbox" else "event_id"
        # An insert that was routed before the partition was there would fail: make it wait.
        await session.execute(text(f"LOCK TABLE {schema}.{table} IN ACCESS EXCLUSIVE MODE"))
        # Rows of that day that came before their partition move over from the default one.
        await session.execute(
            text(f"CREATE TABLE {schema}.{name} (LIKE {schema}.{table} INCLUDING DEFAULTS)")
        )
        await session.execute(
            text(
                f"WITH moved AS (DELETE FROM {schema}.{table}_default "  # noqa: S608
                f"WHERE {column} >= '{low}' AND {column} < '{high}' RETURNING *) "
                f"INSERT INTO {schema}.{name} SELECT * FROM moved"
            )
        )
        await session.execute(
            text(
                f"ALTER TABLE {schema}.{table} ATTACH PARTITION {schema}.{name} "
                f"FOR VALUES FROM ('{low}') TO ('{high}')"
            )
        )


async def _drop(session: Any, schema: str, table: str, before: datetime) -> None:
    names = await session.scalars(
        text(
            "SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid "
            "WHERE i.inhparent = to_regclass(:parent) AND c.relname ~ :pattern"
        ),
        {"parent": f"{schema}.{table}", "pattern": f"^{table}_[0-9]{{8}}$"},
    )
    for name in names:
        if name >= f"{table}_{before:%Y%m%d}":
            continue
        if table == "outbox":
            unsent = await session.scalar(
                text(f"SELECT EXISTS (SELECT 1 FROM {schema}.{name} WHERE sent_at IS NULL)")  # noqa: S608
            )
            if unsent:
                continue
        await session.execute(text(f"DROP TABLE {schema}.{name}"))
