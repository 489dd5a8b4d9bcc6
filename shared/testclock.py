"""How a service follows a test clock: do what is due at the account's time, then report."""

import asyncio
from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Table, case, delete, select, tuple_, update
from sqlalchemy.dialects.postgresql import insert as upsert

from shared.db import UnitOfWork
from shared.events.clocks import TestClockReported
from shared.events.subscriptions import TestClockAdvanced, TestClockDeleted
from shared.ids import new_id
from shared.messaging.consumers import Consumers
from shared.runtime import Runtime
from shared.schedule import Due, Job

#: More rounds than this over one account at one instant means that its work never ends.
MOST_ROUNDS = 1000
#: Accounts that are driven side by side. Each takes two connections of the pool.
AT_ONCE = 3


def follow(consumers: Consumers) -> None:
    """Have the service take part in test clocks, in whatever order it hears of them."""

    @consumers.handler(on=[TestClockAdvanced, TestClockDeleted])
    async def follow_test_clock(
        uow: UnitOfWork, event: TestClockAdvanced | TestClockDeleted
    ) -> None:
        """The account's time moved, or is real again."""
        await record_clock(uow, event)


async def record_clock(uow: UnitOfWork, event: TestClockAdvanced | TestClockDeleted) -> None:
    """Know of an account's clock what this round says, unless something later is known."""
    clocks, deleted = uow.platform.account_clocks, uow.platform.table("deleted_clocks")
    advanced = event if isinstance(event, TestClockAdvanced) else None
    if advanced is None:
        statement = upsert(deleted).values(clock_id=event.clock_id)
        await uow.session.execute(statement.on_conflict_do_nothing())
    # A deletion writes the row too: so the one waits for the other, whichever comes first.
    statement = upsert(clocks).values(
        account_id=event.account_id,
        clock_id=event.clock_id,
        now=advanced.now if advanced else event.occurred_at,
        target=advanced.target if advanced else None,
        revision=event.revision,
    )
    new = statement.excluded
    reported = case((clocks.c.clock_id == new.clock_id, clocks.c.reported_revision), else_=0)
    await uow.session.execute(
        statement.on_conflict_do_update(
            index_elements=["account_id"],
            set_={name: new[name] for name in ("clock_id", "now", "target", "revision")}
            | {"reported_revision": reported},
            # Ids rise with time: of an account's two clocks, the later one's is the greater.
            where=tuple_(clocks.c.clock_id, clocks.c.revision) < tuple_(new.clock_id, new.revision),
        )
    )
    await uow.session.execute(
        delete(clocks).where(
            clocks.c.clock_id == event.clock_id,
            clocks.c.clock_id.in_(select(deleted.c.clock_id)),
        )
    )
    uow.wake("run_test_clocks")


def clock_job(service: str, consumers: Consumers, jobs: Sequence[Job]) -> Job:
    """The job that runs all others for an account whose clock moved, and then reports."""

    async def run_test_clocks(runtime: Runtime[Any, Any], due: Due) -> int:
        """Each account that waits gets one turn; none waits for another that needs many."""
        if not due.platform.test_clocks:
            return 0
        clocks = due.platform.account_clocks
        async with runtime.begin() as uow:
            waiting = await uow.session.scalars(select(clocks.c.account_id).where(_waits(clocks)))
        side_by_side = asyncio.Semaphore(AT_ONCE)

        async def take_turn(account_id: UUID) -> int:
            async with side_by_side:
                return await run_test_clock(runtime, account_id)

        turns = await asyncio.gather(*map(take_turn, waiting), return_exceptions=True)
        for turn in turns:
            if isinstance(turn, BaseException):
                raise turn  # once the others have had theirs
        return sum(turn for turn in turns if isinstance(turn, int))

    async def run_test_clock(runtime: Runtime[Any, Any], account_id: UUID) -> int:
        platform = runtime.database.platform
        clocks = platform.account_clocks
        # The row stays locked while its jobs run in transactions of their own, so that one
        # worker alone drives an account. Test clocks exist in development only.
        async with runtime.begin() as uow:
            row = (
                await uow.session.execute(
                    select(clocks)
                    .where(clocks.c.account_id == account_id, _waits(clocks))
                    .with_for_update(skip_locked=True)
                )
            ).one_or_none()
            if row is None:
                return 0
            await _run_all(runtime, jobs, Due(row.now, platform, account_id))
            uow.emit(await _report(uow, row, service, consumers, jobs))
            await uow.session.execute(
                update(clocks)
                .where(clocks.c.account_id == account_id)
                .values(reported_revision=row.revision)
            )
        return 1

    return Job("run_test_clocks", 1.0, run_test_clocks)


def _waits(clocks: Table) -> ColumnElement[bool]:
    return clocks.c.reported_revision < clocks.c.revision


async def _run_all(runtime: Runtime[Any, Any], jobs: Sequence[Job], due: Due) -> None:
    for _ in range(MOST_ROUNDS):
        if not sum([await job.run(runtime, due) for job in jobs]):
            return
    raise RuntimeError(f"account {due.account_id} still has work after {MOST_ROUNDS} rounds")


async def _report(
    uow: UnitOfWork, row: Any, service: str, consumers: Consumers, jobs: Sequence[Job]
) -> TestClockReported:
    activity = uow.platform.clock_activity
    counts = (
        await uow.session.execute(
            select(activity.c.direction, activity.c.name, activity.c.count).where(
                activity.c.account_id == row.account_id
            )
        )
    ).all()
    return TestClockReported.model_validate(
        {
            "occurred_at": row.now,
            "account_id": row.account_id,
            "sequence": 1,
            "report_id": new_id(),
            "clock_id": row.clock_id,
            "service": service,
            "revision": row.revision,
            "busy": any([await _is_busy(job, uow, row.account_id) for job in jobs]),
            "emitted": {name: count for way, name, count in counts if way == "emitted"},
            "handled": {name: count for way, name, count in counts if way == "handled"},
            "bindings": consumers.bindings(),
            "next_due": await _next_due(jobs, uow, row.account_id),
        }
    )


async def _is_busy(job: Job, uow: UnitOfWork, account_id: UUID) -> bool:
    return job.busy is not None and await job.busy(uow, account_id)


async def _next_due(jobs: Sequence[Job], uow: UnitOfWork, account_id: UUID) -> datetime | None:
    found = [await job.next_due(uow, account_id) for job in jobs if job.next_due is not None]
    return min((instant for instant in found if instant is not None), default=None)
