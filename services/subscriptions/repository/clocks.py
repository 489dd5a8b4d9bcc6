"""Test clocks and what the services report of them."""

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.ext.asyncio import AsyncSession

from services.subscriptions import tables
from services.subscriptions.domain.testclock import ClockNotFound, SimulatedClock
from shared.events.clocks import TestClockReported


class Clocks:
    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    def add(self, clock: SimulatedClock) -> None:
        self._session.add(clock)

    async def get(self, clock_id: UUID) -> SimulatedClock:
        clock = await self.find(clock_id)
        if clock is None:
            raise ClockNotFound(f"There is no test clock {clock_id}.")
        return clock

    async def find(self, clock_id: UUID) -> SimulatedClock | None:
        return await self._session.get(
            SimulatedClock, clock_id, with_for_update=True, populate_existing=True
        )

    async def waiting(self) -> Sequence[SimulatedClock]:
        """Those whose next round waits for a moment to pass."""
        statement = (
            select(SimulatedClock)
            .where(tables.test_clocks.c.looks_again)
            .with_for_update(skip_locked=True)
        )
        return (await self._session.scalars(statement)).all()

    async def exists_for(self, account_id: UUID) -> bool:
        found = await self._session.scalar(
            select(tables.test_clocks.c.id).where(tables.test_clocks.c.account_id == account_id)
        )
        return found is not None

    async def store_report(self, report: TestClockReported) -> None:
        """Keep a service's newest report of a clock."""
        statement = upsert(tables.test_clock_reports).values(
            clock_id=report.clock_id,
            service=report.service,
            revision=report.revision,
            body=report.model_dump(mode="json"),
        )
        await self._session.execute(
            statement.on_conflict_do_update(
                index_elements=["clock_id", "service"],
                set_={"revision": statement.excluded.revision, "body": statement.excluded.body},
                where=tables.test_clock_reports.c.revision < statement.excluded.revision,
            )
        )

    async def reports(self, clock: SimulatedClock) -> list[TestClockReported]:
        """Those of the running round."""
        table = tables.test_clock_reports
        statement = select(table.c.body).where(
            table.c.clock_id == clock.id, table.c.revision == clock.revision
        )
        found = (await self._session.scalars(statement)).all()
        return [TestClockReported.model_validate(body) for body in found]

    async def delete(self, clock: SimulatedClock) -> None:
        await self._session.delete(clock)
