"""How a service hears of test clocks, and does, account by account, what they make due."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import insert

from shared.clock import utc_now
from shared.events.subscriptions import TestClockAdvanced, TestClockDeleted
from shared.ids import new_id
from shared.runtime import Runtime
from shared.schedule import Due, Job
from shared.testclock import clock_job, record_clock
from tests.messaging.probe import Probe


async def move(probe: Probe, *accounts: UUID) -> None:
    """Their clocks have moved, and the service is still to report."""
    clocks = probe.runtime.database.platform.account_clocks
    now = utc_now() + timedelta(days=1)
    async with probe.runtime.begin() as uow:
        for account in accounts:
            await uow.session.execute(
                insert(clocks).values(account_id=account, clock_id=new_id(), now=now, revision=1)
            )


async def drive(probe: Probe, work: Callable[[Runtime[Any, Any], Due], Awaitable[int]]) -> None:
    """One run of the job, with this as all that the service does."""
    job = clock_job("payments", probe.consumers, [Job("work", 1.0, work)])
    await job.run(probe.runtime, Due(utc_now(), probe.runtime.database.platform))


async def reported(probe: Probe) -> set[UUID]:
    rows = await probe.rows(
        "SELECT account_id FROM {s}.account_clocks WHERE reported_revision = revision"
    )
    return {row.account_id for row in rows}


async def test_an_account_that_cannot_be_driven_keeps_no_other_from_its_turn(probe: Probe) -> None:
    await probe.deploy()
    broken, *others = [new_id() for _ in range(6)]
    await move(probe, broken, *others)

    async def work(runtime: Runtime[Any, Any], due: Due) -> int:
        del runtime
        if due.account_id == broken:
            raise ZeroDivisionError
        return 0

    with pytest.raises(ZeroDivisionError):
        await drive(probe, work)

    assert await reported(probe) == set(others)
    names = await probe.rows("SELECT routing_key FROM {s}.outbox")
    assert [row.routing_key for row in names] == ["test_clock.reported"] * len(others)


async def test_nobody_waits_for_one_that_needs_long(probe: Probe) -> None:
    """It ends only when all the others have reported."""
    await probe.deploy()
    slow, *others = [new_id() for _ in range(6)]
    await move(probe, slow, *others)

    async def work(runtime: Runtime[Any, Any], due: Due) -> int:
        del runtime
        return int(due.account_id == slow and await reported(probe) != set(others))

    await drive(probe, work)

    assert await reported(probe) == {slow, *others}


class Clock:
    """What is published of one account's clock."""

    def __init__(self, account_id: UUID | None = None) -> None:
        self.account_id, self.id = account_id or new_id(), new_id()

    def advanced(self, revision: int, now: datetime) -> TestClockAdvanced:
        return TestClockAdvanced(
            account_id=self.account_id,
            occurred_at=now,
            sequence=revision,
            clock_id=self.id,
            revision=revision,
            now=now,
            target=now + timedelta(days=1),
        )

    def deleted(self, revision: int) -> TestClockDeleted:
        return TestClockDeleted(
            account_id=self.account_id,
            occurred_at=utc_now(),
            sequence=revision + 1,
            clock_id=self.id,
            revision=revision,
        )


async def hear(probe: Probe, *events: TestClockAdvanced | TestClockDeleted) -> None:
    for event in events:
        async with probe.runtime.begin() as uow:
            await record_clock(uow, event)


async def known(probe: Probe) -> list[tuple[UUID, datetime, int]]:
    rows = await probe.rows("SELECT clock_id, now, revision FROM {s}.account_clocks")
    return [(row.clock_id, row.now, row.revision) for row in rows]


async def test_rounds_that_come_in_another_order_leave_the_latest(probe: Probe) -> None:
    clock, now = Clock(), utc_now()
    later = now + timedelta(days=1)

    await hear(probe, clock.advanced(2, later), clock.advanced(1, now), clock.advanced(2, later))

    assert await known(probe) == [(clock.id, later, 2)]


async def test_a_round_that_is_heard_of_late_does_not_bring_back_a_clock_that_is_gone(
    probe: Probe,
) -> None:
    clock, now = Clock(), utc_now()

    await hear(probe, clock.advanced(1, now), clock.deleted(2), clock.advanced(2, now))

    assert await known(probe) == []


@pytest.mark.parametrize("deletion_first", [False, True])
async def test_a_round_and_the_deletion_that_are_heard_of_at_once_leave_no_clock(
    probe: Probe, deletion_first: bool
) -> None:
    clock = Clock()
    events: list[TestClockAdvanced | TestClockDeleted] = [
        clock.advanced(1, utc_now()),
        clock.deleted(1),
    ]
    first, second = reversed(events) if deletion_first else events
    waiting = (
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE wait_event_type = 'Lock' AND datname = current_database()"
    )

    async with probe.runtime.begin() as uow:
        await record_clock(uow, first)
        other = asyncio.create_task(hear(probe, second))
        while not await probe.scalar(waiting):
            assert not other.done()
    await other

    assert await known(probe) == []


async def test_an_accounts_next_clock_is_followed_before_the_end_of_the_last_is_heard_of(
    probe: Probe,
) -> None:
    await probe.deploy()
    now = utc_now()
    last = Clock()
    following = Clock(last.account_id)
    await hear(probe, last.advanced(7, now))
    await drive(probe, nothing_due)

    await hear(probe, following.advanced(1, now))
    before = await reported(probe)
    await hear(probe, last.deleted(7))

    assert before == set()
    assert await known(probe) == [(following.id, now, 1)]


async def nothing_due(_runtime: Runtime[Any, Any], _due: Due) -> int:
    return 0
