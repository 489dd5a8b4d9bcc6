"""A service as its `main.py` declares it, and the processes that are made of it."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from sqlalchemy import MetaData
from sqlalchemy.ext.asyncio import AsyncSession

from shared.db import Database, Platform, Scope, UnitOfWork
from shared.housekeeping import housekeeping
from shared.locks import connect
from shared.messaging.commands import COMMANDS
from shared.messaging.consumers import Consumers
from shared.messaging.worker import MessageWorker
from shared.runtime import Runtime
from shared.schedule import Schedule, ScheduleRunner
from shared.settings import Settings
from shared.testclock import clock_job, follow

if TYPE_CHECKING:
    from fastapi import APIRouter, FastAPI

    from shared.security import Verifier
    from shared.web.key_rules import KeyRules

U = TypeVar("U", bound=UnitOfWork)
S = TypeVar("S", bound=Settings)


def _nothing(_runtime: Any) -> AbstractAsyncContextManager[None]:
    return nullcontext()


@dataclass(kw_only=True)
class Service(Generic[U, S]):
    """Everything a service is made of; the only place that wires it together.

    `routers()` imports and returns the API's routers, `key_rules()` what keys may ask of them; a
    worker never asks for them.
    `resources(runtime)` fills `runtime.own` for the time that a process runs. `verifier` is
    for auth, which checks tokens without asking itself over HTTP. `commands` are further verbs of
    `python -m services.<name>`: each gets the runtime and the rest of the command line, and
    returns the exit code.
    """

    name: str
    description: str
    settings: type[S]
    metadata: MetaData
    unit_of_work: Callable[[AsyncSession, Scope, Platform], U]
    routers: Callable[[], "Sequence[APIRouter]"]
    consumers: Consumers
    schedule: Schedule
    key_rules: Callable[[], "KeyRules"] = dict
    resources: Callable[[Runtime[U, S]], AbstractAsyncContextManager[None]] = _nothing
    verifier: Callable[[Runtime[U, S]], "Verifier"] | None = None
    commands: Mapping[str, Callable[[Runtime[U, S], list[str]], Awaitable[int]]] = field(
        default_factory=dict
    )
    #: Runs after the migrations, at each deployment: seeds that the service cannot be without.
    after_migrate: Callable[[Runtime[U, S]], Awaitable[None]] | None = None

    def __post_init__(self) -> None:
        follow(self.consumers)
        self.commands = {**COMMANDS, **self.commands}

    @asynccontextmanager
    async def open(self, settings: S) -> AsyncIterator[Runtime[U, S]]:
        """The service's connections, closed when the block ends. Nothing is contacted yet."""
        database = Database.open(settings, self.metadata, self.unit_of_work)
        redis = connect(settings.redis_url.get_secret_value())
        runtime = Runtime(settings, database, redis)
        try:
            async with self.resources(runtime):
                yield runtime
        finally:
            await redis.aclose()
            await database.close()

    def create_api(self, runtime: Runtime[U, S]) -> "FastAPI":
        """The HTTP application. Only here is loaded what a worker does without: it is light."""
        from shared.messaging.ops import ops_router  # noqa: PLC0415
        from shared.security import verifier_over_http  # noqa: PLC0415
        from shared.web.app import create_app  # noqa: PLC0415

        if runtime.verifier is None:
            make = self.verifier or verifier_over_http
            runtime.verifier = make(runtime)
        routers = [*self.routers(), ops_router(self.name)]
        return create_app(self.name, self.description, runtime, routers, self.key_rules())

    def create_worker(self, runtime: Runtime[U, S]) -> "Worker":
        """Consumers, relay and schedule, as the settings switch them."""
        return Worker(self, runtime)


class Worker:
    """The process beside the API: handles events, publishes the outbox, does what is due."""

    def __init__(self, service: Service[Any, Any], runtime: Runtime[Any, Any]) -> None:
        self._grace = runtime.settings.shutdown_grace_seconds
        jobs = service.schedule.jobs
        self._schedule = ScheduleRunner(
            runtime,
            [*jobs, *housekeeping(), clock_job(service.name, service.consumers, jobs)],
        )
        self._messages = MessageWorker(service.name, service.consumers, runtime)
        self._runs_schedule = runtime.settings.run_schedule

    async def start(self) -> None:
        """Begin; returns once consumers are attached, or raises when the topology is missing."""
        await self._messages.start()
        if self._runs_schedule:
            await self._schedule.start()

    async def stop(self) -> None:
        """Take nothing new, finish what is in hand within the grace, close."""
        stopping = [self._messages.stop(self._grace)]
        if self._runs_schedule:
            stopping.append(self._schedule.stop(self._grace))
        await asyncio.gather(*stopping)

    async def check(self) -> None:
        """Raises when the worker cannot do its part: no broker, no consumer attached."""
        await self._messages.check()
