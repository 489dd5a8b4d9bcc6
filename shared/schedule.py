"""The edge of time: jobs that do what is due, in every worker at once."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar
from uuid import UUID

import asyncpg
from prometheus_client import Counter
from sqlalchemy import ColumnElement, and_, func, select
from sqlalchemy.orm import InstrumentedAttribute

from shared.clock import utc_now
from shared.context import a_new_chain
from shared.db import Platform, UnitOfWork
from shared.observability import logger
from shared.runtime import Runtime
from shared.tasks import end

log = logger(__name__)

DONE = Counter("job_rows_total", "What the jobs of the schedule did.", ["job"])
FAILED = Counter("job_failures_total", "Runs of a job that raised.", ["job"])

R = TypeVar("R", bound=Runtime[Any, Any])
Column = ColumnElement[Any] | InstrumentedAttribute[Any]

#: Rest after a job raised, so that a fault does not become a storm.
REST_SECONDS = 1.0


@dataclass(frozen=True)
class Due:
    """What counts as due in this run: everybody's at their own time, or one account's."""

    now: datetime
    platform: Platform
    account_id: UUID | None = None

    def matches(self, due_at: Column, account_id: Column) -> ColumnElement[bool]:
        """The criterion for rows that are due, by each account's own clock."""
        if self.account_id is not None:
            return and_(account_id == self.account_id, due_at <= self.now)
        if not self.platform.test_clocks:
            return due_at <= self.now
        clocks = self.platform.account_clocks
        simulated = select(clocks.c.now).where(clocks.c.account_id == account_id).scalar_subquery()
        return due_at <= func.coalesce(simulated, self.now)

    async def now_for(self, uow: UnitOfWork, account_id: UUID) -> datetime:
        """The instant at which a row of this account is acted on."""
        if self.account_id is not None or not self.platform.test_clocks:
            return self.now
        return await uow.now(account_id)


Run = Callable[[Any, Due], Awaitable[int]]
NextDue = Callable[[Any, UUID], Awaitable[datetime | None]]
Busy = Callable[[Any, UUID], Awaitable[bool]]


@dataclass(frozen=True)
class Job:
    """`run(runtime, due)` does some of what is due and returns how much; 0 means all is done.

    `next_due(uow, account_id)` is the account's earliest instant still to come, and
    `busy(uow, account_id)` whether something of it is under way outside the database; both serve
    test clocks. Any number of workers run the same job: it claims rows with SKIP LOCKED.
    """

    name: str
    every: float
    run: Run
    next_due: NextDue | None = None
    busy: Busy | None = None


class Schedule:
    """A service's jobs."""

    def __init__(self) -> None:
        self.jobs: list[Job] = []

    def job(
        self, *, every: float, next_due: NextDue | None = None, busy: Busy | None = None
    ) -> Callable[[Run], Run]:
        """Have the decorated function run each `every` seconds, and at once when woken."""

        def add(run: Run) -> Run:
            self.jobs.append(Job(run.__name__, every, run, next_due, busy))
            return run

        return add


class ScheduleRunner:
    """Runs the jobs side by side until it is stopped; `uow.wake(job)` runs one at once."""

    def __init__(self, runtime: Runtime[Any, Any], jobs: list[Job]) -> None:
        self._runtime = runtime
        self._jobs = jobs
        self._wakes = {job.name: asyncio.Event() for job in jobs}
        self._stopping = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        self._tasks = [asyncio.create_task(self._repeat(job), name=job.name) for job in self._jobs]
        self._tasks.append(asyncio.create_task(self._listen(), name="wakes"))

    async def stop(self, grace_seconds: float) -> None:
        """Take up nothing new, and give what runs until the grace is over."""
        self._stopping.set()
        for wake in self._wakes.values():
            wake.set()
        *jobs, listening = self._tasks
        await end([listening])
        _, late = await asyncio.wait(jobs, timeout=grace_seconds)
        await end(late)

    async def _repeat(self, job: Job) -> None:
        wake = self._wakes[job.name]
        while not self._stopping.is_set():
            wake.clear()
            rest = job.every
            try:
                with a_new_chain():
                    due = Due(utc_now(), self._runtime.database.platform)
                    while not self._stopping.is_set() and (
                        done := await job.run(self._runtime, due)
                    ):
                        DONE.labels(job.name).inc(done)
                        due = Due(utc_now(), self._runtime.database.platform)
            except Exception:
                # One job's trouble is not the others'; what is due stays due.
                FAILED.labels(job.name).inc()
                log.exception("A job failed", job=job.name)
                rest = max(rest, REST_SECONDS)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(wake.wait(), rest)

    async def _listen(self) -> None:
        """Hear `uow.wake`. Polling finds the same work later when this connection is down."""
        url = self._runtime.settings.database_url.get_secret_value()
        channel = f"jobs_{self._runtime.database.platform.schema}"
        while True:
            lost = asyncio.Event()
            connection: Any = None
            try:
                connection = await asyncpg.connect(url, timeout=5)
                connection.add_termination_listener(lambda _c, lost=lost: lost.set())
                await connection.add_listener(channel, self._woken)
                for wake in self._wakes.values():
                    wake.set()  # whatever was missed while nobody listened
                await lost.wait()
            except Exception as error:  # noqa: BLE001  (whatever it was, it listens again)
                log.warning("Cannot listen for wakes", error=type(error).__name__)
            finally:
                if connection is not None and not connection.is_closed():
                    connection.terminate()
            await asyncio.sleep(REST_SECONDS)

    def _woken(self, _connection: Any, _pid: int, _channel: str, payload: object) -> None:
        wake = self._wakes.get(str(payload))
        if wake is not None:
            wake.set()
