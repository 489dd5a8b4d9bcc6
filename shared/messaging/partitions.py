"""Daily partitions of outbox and inbox: made days ahead, dropped whole, in nobody's way.

Each step is a transaction of its own that touches one table, and it gives up a lock that it
does not get at once: so it can neither deadlock with those who use both tables, nor have them
queue behind it.

A new day is attached while it lies ahead. That takes a lock which inserts do not mind, and an
exclusive one on the default partition, where they do not go. (An insert that waits for the
default partition would fail when its day is attached: hence never the present day, but by
`migrate`.) Only dropping a day excludes all others from its table, for the instant that it takes.
"""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from shared.clock import utc_now
from shared.messaging.outages import is_collision
from shared.runtime import Runtime

#: Table, its retention, and how many days ahead partitions stand ready.
KEPT = {"outbox": timedelta(days=7), "inbox": timedelta(days=90)}
KEYS = {"outbox": "id", "inbox": "event_id"}
AHEAD_DAYS = 7
#: A day that begins sooner is left to the default partition: clocks differ.
MARGIN = timedelta(minutes=1)
#: How long those who use a table may wait behind us, at worst.
LOCK_TIMEOUT = "50ms"
#: Before each further try.
PAUSES_SECONDS = (0.1, 0.2, 0.4, 0.8, 1.6, 3.2)
#: Rows that are deleted from a default partition at once.
BATCH = 5_000

EXISTS = "SELECT to_regclass(:name) IS NOT NULL"
#: Also those that were detached and not dropped.
DAYS = """
SELECT c.relname FROM pg_class c
 WHERE c.relnamespace = to_regnamespace(:schema) AND c.relkind = 'r' AND c.relname ~ :pattern
   AND c.relname < :first_kept
 ORDER BY c.relname
"""

Step = Callable[[AsyncConnection], Awaitable[int]]


def first_id(day: datetime) -> UUID:
    """The least UUIDv7 of a day: its time in milliseconds, zeros after (RFC 9562)."""
    return UUID(int=int(day.timestamp() * 1000) << 80)


async def keep_partitions(runtime: Runtime[Any, Any]) -> None:
    """Make the partitions of the next days, and drop those past their retention.

    A partition of the outbox that still holds an unsent row stays. Raises what kept a step from
    being done after several tries; the other steps are done by then, and it may be called again.
    """
    now = utc_now()
    today = now.replace(hour=0, minute=0, second=0, microsecond=0)
    failed: DBAPIError | None = None
    for table, kept in KEPT.items():
        days = [today + timedelta(days=ahead) for ahead in range(1, AHEAD_DAYS + 1)]
        steps = [_attach(runtime, table, day) for day in days if day - now > MARGIN]
        steps += [_drop(runtime, table, name) for name in await _old(runtime, table, today - kept)]
        steps.append(_empty_default(runtime, table, today - kept))
        for step in steps:
            try:
                while await _patiently(runtime, step):
                    pass
            except DBAPIError as error:
                failed = failed or error
    if failed is not None:
        raise failed


async def begin_partitions(runtime: Runtime[Any, Any]) -> None:
    """Today's partitions, where today's rows have not gone to the default one already.

    For a deployment: who inserts meanwhile waits for an instant, and then finds the partition.
    """
    today = utc_now().replace(hour=0, minute=0, second=0, microsecond=0)
    for table in KEPT:
        await _patiently(runtime, _attach(runtime, table, today, is_today=True))


async def _patiently(runtime: Runtime[Any, Any], step: Step) -> int:
    """One step in its transaction, tried a few times with pauses that grow."""
    schema = runtime.database.platform.schema
    pauses = iter(PAUSES_SECONDS)
    while True:
        try:
            async with runtime.database.engine.begin() as connection:
                # One process at a time; that much may be waited for, it is in nobody's way.
                await connection.execute(
                    text("SELECT pg_advisory_xact_lock(hashtext(:name))"),
                    {"name": f"partitions {schema}"},
                )
                await connection.execute(text(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'"))
                return await step(connection)
        except DBAPIError as error:
            pause = next(pauses, None)
            if pause is None or not is_collision(error):
                raise
            await asyncio.sleep(pause)


def _attach(
    runtime: Runtime[Any, Any], table: str, day: datetime, *, is_today: bool = False
) -> Step:
    schema = runtime.database.platform.schema
    name = f"{schema}.{table}_{day:%Y%m%d}"
    low, high = first_id(day), first_id(day + timedelta(days=1))
    in_range = f"{KEYS[table]} >= '{low}' AND {KEYS[table]} < '{high}'"

    async def step(connection: AsyncConnection) -> int:
        if await connection.scalar(text(EXISTS), {"name": name}):
            return 0
        if is_today:
            await connection.execute(
                text(f"LOCK TABLE ONLY {schema}.{table} IN ACCESS EXCLUSIVE MODE")
            )
        begun = f"SELECT EXISTS (SELECT 1 FROM {schema}.{table}_default WHERE {in_range})"  # noqa: S608
        if await connection.scalar(text(begun)):
            return 0  # they stay where they are; attaching would be refused
        await connection.execute(
            text(f"CREATE TABLE {name} (LIKE {schema}.{table} INCLUDING DEFAULTS)")
        )
        await connection.execute(
            text(
                f"ALTER TABLE {schema}.{table} ATTACH PARTITION {name}"
                f" FOR VALUES FROM ('{low}') TO ('{high}')"
            )
        )
        return 0

    return step


async def _old(runtime: Runtime[Any, Any], table: str, before: datetime) -> list[str]:
    schema = runtime.database.platform.schema
    async with runtime.database.engine.connect() as connection:
        names = await connection.scalars(
            text(DAYS),
            {
                "schema": schema,
                "pattern": f"^{table}_[0-9]{{8}}$",
                "first_kept": f"{table}_{before:%Y%m%d}",
            },
        )
        return list(names)


def _drop(runtime: Runtime[Any, Any], table: str, name: str) -> Step:
    schema = runtime.database.platform.schema
    # Two looks, since each has an index of its own.
    waits = " UNION ALL ".join(
        f"SELECT 1 FROM {schema}.{name} WHERE {which}"  # noqa: S608
        for which in ("sent_at IS NULL AND refused_at IS NULL", "refused_at IS NOT NULL")
    )

    async def step(connection: AsyncConnection) -> int:
        if not await connection.scalar(text(EXISTS), {"name": f"{schema}.{name}"}):
            return 0  # another process was first
        # First the parent, as everybody else does it; then nobody can hold the partition.
        await connection.execute(text(f"LOCK TABLE ONLY {schema}.{table} IN ACCESS EXCLUSIVE MODE"))
        if table == "outbox" and await connection.scalar(text(f"SELECT EXISTS ({waits})")):
            return 0
        await connection.execute(text(f"DROP TABLE {schema}.{name}"))
        return 0

    return step


def _empty_default(runtime: Runtime[Any, Any], table: str, before: datetime) -> Step:
    """What went there for want of a partition, batch by batch; how many rows it were."""
    schema = runtime.database.platform.schema
    sent = "AND sent_at IS NOT NULL" if table == "outbox" else ""

    async def step(connection: AsyncConnection) -> int:
        done = await connection.execute(
            text(
                f"DELETE FROM {schema}.{table}_default WHERE ctid = ANY (ARRAY("  # noqa: S608
                f"SELECT ctid FROM {schema}.{table}_default"
                f" WHERE {KEYS[table]} < '{first_id(before)}' {sent} LIMIT {BATCH}"
                " FOR UPDATE SKIP LOCKED))"
            )
        )
        return done.rowcount

    return step
