"""How a service does, account by account, what their test clocks make due."""

from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import insert

from shared.clock import utc_now
from shared.ids import new_id
from shared.runtime import Runtime
from shared.schedule import Due, Job
from shared.testclock import clock_job
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
