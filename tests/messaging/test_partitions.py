"""Partitions are made and dropped beside a traffic that never waits for it."""

import asyncio
from datetime import datetime, timedelta
from uuid import UUID

import asyncpg
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from shared.clock import utc_now
from shared.context import current_cause
from shared.db import UnitOfWork
from shared.messaging.envelope import outbox_row
from shared.messaging.inbox import Inbox
from shared.messaging.outbox import store
from shared.messaging.partitions import (
    AHEAD_DAYS,
    begin_partitions,
    first_id,
    keep_partitions,
)
from tests.messaging.events import ThingChanged, ThingNoticed, a_change, a_notice
from tests.messaging.probe import Probe, eventually, take_effect

LONG_AGO = datetime.fromisoformat("2020-01-01T00:00:00+00:00")


async def partitions(probe: Probe, table: str) -> set[str]:
    """The names of the days that have one."""
    rows = await probe.rows(
        "SELECT relname FROM pg_inherits JOIN pg_class c ON c.oid = inhrelid"  # noqa: S608
        f" WHERE inhparent = '{{s}}.{table}'::regclass AND relname <> '{table}_default'"
    )
    return {row[0].rpartition("_")[2] for row in rows}


def days(first: int, last: int) -> set[str]:
    return {f"{utc_now() + timedelta(days=ahead):%Y%m%d}" for ahead in range(first, last + 1)}


async def make_old(probe: Probe) -> None:
    """A partition of each table that is past its time, with a row in the outbox's."""
    for table in ("outbox", "inbox"):
        low, high = first_id(LONG_AGO), first_id(LONG_AGO + timedelta(days=1))
        async with probe.runtime.begin() as uow:
            await uow.session.execute(
                text(
                    f"CREATE TABLE {probe.name}.{table}_20200101 PARTITION OF {probe.name}.{table}"
                    f" FOR VALUES FROM ('{low}') TO ('{high}')"
                )
            )


async def test_partitions_are_made_ahead_and_dropped_when_old(probe: Probe) -> None:
    await make_old(probe)
    await begin_partitions(probe.runtime)
    await probe.emit(a_change())
    await keep_partitions(probe.runtime)
    await keep_partitions(probe.runtime)

    for table in ("outbox", "inbox"):
        assert await partitions(probe, table) == days(0, AHEAD_DAYS)
    assert await probe.scalar("SELECT count(*) FROM {s}.outbox") == 1
    assert await probe.scalar("SELECT count(*) FROM {s}.outbox_default") == 0


async def test_an_old_day_with_an_unsent_event_stays(probe: Probe) -> None:
    await make_old(probe)
    old = UUID(int=first_id(LONG_AGO).int + 1)
    await probe.emit(a_change(id=old))
    await keep_partitions(probe.runtime)
    assert await probe.scalar("SELECT count(*) FROM {s}.outbox_20200101") == 1

    await _exec(probe, "UPDATE {s}.outbox SET refused_at = now()")
    await keep_partitions(probe.runtime)
    assert "20200101" in await partitions(probe, "outbox")

    await _exec(probe, "UPDATE {s}.outbox SET refused_at = NULL, sent_at = now()")
    await keep_partitions(probe.runtime)
    assert "20200101" not in await partitions(probe, "outbox")


async def test_todays_rows_that_came_before_their_partition_stay_where_they_are(
    probe: Probe,
) -> None:
    await probe.emit(a_change())
    await begin_partitions(probe.runtime)
    await keep_partitions(probe.runtime)

    assert await partitions(probe, "outbox") == days(1, AHEAD_DAYS)
    assert await probe.scalar("SELECT count(*) FROM {s}.outbox_default") == 1

    long_ago = first_id(LONG_AGO)
    await _exec(probe, f"UPDATE {{s}}.outbox SET id = '{long_ago}'")  # noqa: S608
    await keep_partitions(probe.runtime)
    assert await probe.scalar("SELECT count(*) FROM {s}.outbox") == 1  # unsent
    await _exec(probe, "UPDATE {s}.outbox SET sent_at = now()")
    await keep_partitions(probe.runtime)
    assert await probe.scalar("SELECT count(*) FROM {s}.outbox") == 0


async def test_a_day_is_made_beside_an_open_transaction_and_dropped_after_it(
    probe: Probe,
) -> None:
    """A consumer's: it has written to both tables and takes its time."""
    await make_old(probe)
    await begin_partitions(probe.runtime)
    inbox = Inbox(probe.name, "handler")
    async with probe.runtime.begin() as uow:
        # However slow the machine is: this transaction stays.
        await uow.session.execute(text("SET LOCAL idle_in_transaction_session_timeout = 0"))
        await inbox.claim(uow, [a_change().id])
        await store(uow, [outbox_row(a_change(), current_cause())])
        keeping = asyncio.create_task(keep_until_kept(probe))
        await eventually(lambda: _has(probe, days(1, AHEAD_DAYS)), within=60)
        for _ in range(5):  # others are not held up while it waits to drop
            await probe.emit(a_change())
        await inbox.claim(uow, [a_change().id])
        for table in ("outbox", "inbox"):
            assert "20200101" in await partitions(probe, table)

    await keeping
    for table in ("outbox", "inbox"):
        assert await partitions(probe, table) == days(0, AHEAD_DAYS)


async def test_consumers_and_relay_go_on_while_partitions_come_and_go(probe: Probe) -> None:
    failures: list[BaseException] = []

    @probe.consumers.handler(on=[ThingNoticed])
    async def hear(_uow: UnitOfWork, _event: ThingNoticed) -> None:
        """Somebody does."""

    @probe.consumers.handler(on=[ThingChanged])
    async def note(uow: UnitOfWork, event: ThingChanged) -> None:
        try:
            await take_effect(uow, event)
        except BaseException as error:
            failures.append(error)
            raise
        uow.emit(a_notice(event))

    await probe.deploy()
    await begin_partitions(probe.runtime)
    database = await asyncpg.connect(probe.settings.database_url.get_secret_value())
    rounds = 8
    made = dropped = 0
    async with probe.worker(relay=True, batch=10), probe.worker(relay=True, batch=10):
        for number in range(rounds):
            await probe.emit(*(a_change() for _ in range(60)))
            keeping = asyncio.gather(keep_until_kept(probe), keep_until_kept(probe))
            await probe.emit(*(a_change() for _ in range(60)))
            await keeping
            made += len(await partitions(probe, "inbox") & days(AHEAD_DAYS, AHEAD_DAYS))
            # As if days had passed: the newest is to be made again, an old one to be dropped.
            newest = f"{utc_now() + timedelta(days=AHEAD_DAYS):%Y%m%d}"
            for table in ("outbox", "inbox"):
                await database.execute(f"DROP TABLE {probe.name}.{table}_{newest}")
                low = first_id(LONG_AGO + timedelta(days=number))
                high = first_id(LONG_AGO + timedelta(days=number + 1))
                await database.execute(
                    f"CREATE TABLE {probe.name}.{table}_202001{number + 1:02}"
                    f" PARTITION OF {probe.name}.{table} FOR VALUES FROM ('{low}') TO ('{high}')"
                )
        await keep_until_kept(probe)
        dropped = rounds if await partitions(probe, "outbox") == days(0, AHEAD_DAYS) else 0
        await eventually(lambda: _effects(probe, 120 * rounds), within=60)
    await database.close()

    assert (made, dropped) == (rounds, rounds)
    assert failures == []
    assert await probe.letters() == []
    assert await probe.scalar("SELECT coalesce(sum(attempts), 0) FROM {s}.inbox") == 0


async def keep_until_kept(probe: Probe) -> None:
    """As a worker does it: what does not get its lock in time is tried again later."""
    while True:
        try:
            await keep_partitions(probe.runtime)
        except DBAPIError as error:
            assert "lock timeout" in str(error)  # noqa: PT017  (what else it is, is a failure)
        else:
            return


async def _exec(probe: Probe, statement: str) -> None:
    async with probe.runtime.begin() as uow:
        await uow.session.execute(text(statement.format(s=probe.name)))


async def _has(probe: Probe, wanted: set[str]) -> bool:
    return wanted <= await partitions(probe, "outbox") & await partitions(probe, "inbox")


async def _effects(probe: Probe, number: int) -> bool:
    return len(await probe.effects()) == number
