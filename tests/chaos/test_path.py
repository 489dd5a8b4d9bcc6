"""The message path as a state machine: a real database, and a broker that does whatever it may.

The broker here is a list per queue. Rules publish, deliver in any order, deliver twice, lose
confirms and acknowledgements, forget all of Redis, and have a process die before and after its
commit. Whatever the order, each handler takes every committed event once, and in sequence where
it asked for that. A failure is shrunk to the shortest such story.
"""

import asyncio
import os
import secrets
from collections import defaultdict
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, ClassVar, TypeVar
from uuid import UUID

import asyncpg
import pytest
from aiormq.exceptions import ChannelClosed
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from infra.postgres.provision import with_database
from shared.context import current_cause
from shared.db import UnitOfWork
from shared.ids import new_id
from shared.messaging.consumers import Consumers
from shared.messaging.delivery import Deliveries
from shared.messaging.envelope import PARTS, outbox_row
from shared.messaging.marks import Marks
from shared.messaging.relay import Relay
from shared.runtime import Runtime
from tests.messaging.events import ThingChanged, a_change
from tests.messaging.probe import (
    metadata_of,
    open_runtime,
    settings_of,
    take_effect,
    unheard_of,
)
from tests.servers import Servers

pytestmark = pytest.mark.timeout(300)

SCHEMA = "path"
THINGS = 3
EXAMPLES = int(os.environ.get("CHAOS_EXAMPLES") or 12)
TABLES = ("outbox", "inbox", "cursors", "early_events", "dead_letters", "effects", "clock_activity")

T = TypeVar("T")


class Crash(BaseException):
    """The process dies here: nothing of ours may catch it."""


class Trouble(Exception):
    """A handler fails for now."""


@dataclass
class Broker:
    """Queues as lists; a message that was handed out is there until it is acknowledged."""

    queues: dict[str, list[bytes]] = field(default_factory=lambda: defaultdict(list))
    handlers: tuple[str, ...] = ()
    #: Of the next publishing: the message may be stored without its confirm, or neither.
    loses: str | None = None

    is_closed = False

    async def basic_publish(self, body: bytes, **_: Any) -> None:
        """As the relay's channel."""
        loses, self.loses = self.loses, None
        if loses != "message":
            for queue in self.handlers:
                self.queues[queue].append(body)
        if loses:
            raise ChannelClosed(0, "the broker went away")

    async def publish(self, exchange: str, queue: str, body: bytes, **_: Any) -> None:
        """As the publisher of what is put off: back to the queue when its time is over."""
        del exchange
        self.queues[queue].append(body)


@dataclass
class World:
    """The servers of the test, and the process under test on top of them."""

    loop: asyncio.AbstractEventLoop
    runtime: Runtime[Any, Any]
    database_url: str
    consumers: Consumers = field(default_factory=lambda: Consumers(SCHEMA))
    #: What the next handled event meets.
    meets: type[BaseException] | None = None

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(work)

    def add_handlers(self) -> None:
        @self.consumers.handler(on=[ThingChanged])
        async def note(uow: UnitOfWork, event: ThingChanged) -> None:
            await self._act(uow, event, "note")

        @self.consumers.handler(on=[ThingChanged], ordered="thing")
        async def follow(uow: UnitOfWork, event: ThingChanged) -> None:
            await self._act(uow, event, "follow")

    async def _act(self, uow: UnitOfWork, event: ThingChanged, name: str) -> None:
        await take_effect(uow, event, name)
        if self.meets is not None:
            meets, self.meets = self.meets, None
            raise meets

    async def sql(self, statement: str) -> list[Any]:
        async with self.runtime.begin() as uow:
            found = await uow.session.execute(text(statement.format(s=SCHEMA)))
            return list(found.all()) if found.returns_rows else []


class DyingConnection:
    """A connection of a relay that dies between the confirms and the marks."""

    def __init__(self, real: Any) -> None:
        self._real = real

    async def fetch(self, *given: Any) -> Any:
        return await self._real.fetch(*given)

    async def execute(self, *_: Any) -> None:
        raise Crash


class Path(RuleBasedStateMachine):
    """The rules."""

    world: ClassVar[World]

    @initialize()
    def begin(self) -> None:
        names = tuple(self.world.consumers.handlers)
        self.broker = Broker(handlers=names)
        self.things = [new_id() for _ in range(THINGS)]
        self.sequences: dict[UUID, int] = dict.fromkeys(self.things, 0)
        #: Of those, what handlers act on: the others are of types that only a later release knows.
        self.known: dict[UUID, list[int]] = {thing: [] for thing in self.things}
        tables = ", ".join(f"{SCHEMA}.{table}" for table in TABLES)
        self.world.run(self.world.sql(f"TRUNCATE {tables}"))

    def _new_process(self, queue: str) -> Deliveries:
        """What a worker makes for one handler."""
        runtime = self.world.runtime
        return Deliveries(
            self.world.consumers.handlers[queue],
            runtime,
            self.broker,  # type: ignore[arg-type]
            # As often as it fails here, it is tried again.
            [1] * 1000,
            Marks(runtime.redis),
        )

    # ---- publishing -------------------------------------------------------------------------

    @rule(
        thing=st.integers(0, THINGS - 1),
        are_known=st.lists(st.booleans(), min_size=1, max_size=3),
        commits=st.booleans(),
    )
    def something_happens(self, thing: int, are_known: list[bool], commits: bool) -> None:
        """A command emits; with a crash before its commit, it never was."""
        one = self.things[thing]
        events = list(enumerate(are_known, self.sequences[one] + 1))

        async def act() -> None:
            async with self.world.runtime.begin() as uow:
                for sequence, is_known in events:
                    event = a_change(one, sequence)
                    if is_known:
                        uow.emit(event)
                    else:
                        body, name = unheard_of(event)
                        row = outbox_row(event, current_cause())
                        uow.send({**row, "routing_key": name, "body": body})
                if not commits:
                    await uow.write()
                    raise Crash

        try:
            self.world.run(act())
        except Crash:
            return
        self.sequences[one] += len(events)
        self.known[one] += [sequence for sequence, is_known in events if is_known]

    @rule(loses=st.sampled_from([None, None, "confirm", "message"]), dies=st.booleans())
    def the_relay_works(self, loses: str | None, dies: bool) -> None:
        """It may lose the broker at the first message, or die before it marks."""
        self.broker.loses = loses
        self.world.run(self._relay(dies=dies))
        self.broker.loses = None

    async def _relay(self, *, dies: bool = False) -> int:
        relay = Relay(SCHEMA, self.world.database_url, "")
        relay._parts = set(range(PARTS))
        connection = await asyncpg.connect(self.world.database_url)
        used = DyingConnection(connection) if dies else connection
        try:
            return int(await relay._relay_batch(used, self.broker))  # type: ignore[arg-type]
        except (Crash, ChannelClosed):
            return 0
        finally:
            await connection.close()

    # ---- delivering -------------------------------------------------------------------------

    @rule(
        ordered=st.booleans(),
        picks=st.lists(st.integers(0, 30), min_size=1, max_size=6),
        meets=st.sampled_from([None, None, None, Trouble, Crash]),
        dies_before_acknowledging=st.booleans(),
    )
    def messages_arrive(
        self,
        ordered: bool,
        picks: list[int],
        meets: type[BaseException] | None,
        dies_before_acknowledging: bool,
    ) -> None:
        """Some of them, in any order; what is not acknowledged stays in the queue."""
        queue = self.broker.handlers[ordered]
        waiting = self.broker.queues[queue]
        chosen = [waiting.pop(pick % len(waiting)) for pick in picks[: len(waiting)]]
        if chosen:
            self.world.meets = meets
            if not self._deliver(queue, chosen, acknowledges=not dies_before_acknowledging):
                waiting.extend(chosen)
            self.world.meets = None

    def _deliver(self, queue: str, bodies: list[bytes], *, acknowledges: bool = True) -> bool:
        """Whether they were acknowledged; else the process died, and another one begins."""

        async def basic_ack(*_: Any, **__: Any) -> None:
            if not acknowledges:
                raise Crash

        messages: Any = [
            SimpleNamespace(
                body=body,
                header=SimpleNamespace(properties=SimpleNamespace(headers={})),
                channel=SimpleNamespace(basic_ack=basic_ack),
                delivery_tag=number,
            )
            for number, body in enumerate(bodies, 1)
        ]
        try:
            self.world.run(self._process(queue, messages))
        except Crash:
            return False
        return True

    async def _process(self, queue: str, messages: Any) -> None:
        process = self._new_process(queue)
        for message in messages:
            await process.receive(message)
        working = asyncio.create_task(process.run())
        while not process.is_idle and not working.done():  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        process.stop()
        await working

    @rule(ordered=st.booleans(), pick=st.integers(0, 30))
    def a_message_is_doubled(self, ordered: bool, pick: int) -> None:
        waiting = self.broker.queues[self.broker.handlers[ordered]]
        if waiting:
            waiting.append(waiting[pick % len(waiting)])

    @rule()
    def redis_forgets(self) -> None:
        self.world.run(self._forget())

    async def _forget(self) -> None:
        await self.world.runtime.redis.flushdb()

    # ---- what has to hold -------------------------------------------------------------------

    def _effects(self, name: str) -> dict[UUID, list[int]]:
        rows = self.world.run(
            self.world.sql(
                f"SELECT thing_id, sequence FROM {SCHEMA}.effects"  # noqa: S608  (names are ours)
                f" WHERE note = '{name}' ORDER BY id"
            )
        )
        effects: defaultdict[UUID, list[int]] = defaultdict(list)
        for thing, sequence in rows:
            effects[thing].append(sequence)
        return effects

    @invariant()
    def nothing_is_doubled_or_overtaken(self) -> None:
        if not hasattr(self, "broker"):
            return
        for thing, found in self._effects("note").items():
            assert len(found) == len(set(found)), f"twice: {thing} {found}"
        for thing, found in self._effects("follow").items():
            assert found == self.known[thing][: len(found)], f"out of order: {thing} {found}"

    def teardown(self) -> None:
        """With nothing in the way any more, all of it arrives."""
        if not hasattr(self, "broker"):
            return
        while self.world.run(self._relay()):
            pass
        for queue in self.broker.handlers:
            waiting = self.broker.queues[queue]
            while waiting:
                bodies = waiting[:]
                waiting.clear()
                self._deliver(queue, bodies)
        expected = {thing: sequences for thing, sequences in self.known.items() if sequences}
        for name in ("note", "follow"):
            found = {thing: sorted(rows) for thing, rows in self._effects(name).items()}
            assert found == expected, f"lost by {name}: {found} of {expected}"
        for what in ("early_events", "dead_letters"):
            left = self.world.run(self.world.sql(f"SELECT count(*) FROM {{s}}.{what}"))  # noqa: S608
            assert left[0][0] == 0, f"{what} are left"


@pytest.fixture
def world(servers: Servers) -> Iterator[World]:
    """A database, a schema and the handlers; one for all examples."""
    name = f"perennial_path_{secrets.token_hex(4)}"
    url = with_database(servers.postgres_admin_url, name)
    loop = asyncio.new_event_loop()

    async def make() -> Runtime[Any, Any]:
        server = await asyncpg.connect(servers.postgres_admin_url)
        await server.execute(f"CREATE DATABASE {name}")
        await server.close()
        engine = create_async_engine(url.replace("postgresql://", "postgresql+asyncpg://"))
        async with engine.begin() as connection:
            await connection.execute(text(f"CREATE SCHEMA {SCHEMA}"))
            await connection.run_sync(metadata_of(SCHEMA).create_all)
        await engine.dispose()
        return open_runtime(SCHEMA, settings_of(url, servers.rabbitmq_url, servers.redis_url))

    async def remove(runtime: Runtime[Any, Any]) -> None:
        await runtime.redis.aclose()
        await runtime.database.close()
        server = await asyncpg.connect(servers.postgres_admin_url)
        await server.execute(f"DROP DATABASE {name} WITH (FORCE)")
        await server.close()

    runtime = loop.run_until_complete(make())
    made = World(loop, runtime, url)
    made.add_handlers()
    try:
        yield made
    finally:
        loop.run_until_complete(remove(runtime))
        loop.close()


def test_every_story_ends_well(world: World) -> None:
    Path.world = world
    case = Path.TestCase
    case.settings = settings(
        max_examples=EXAMPLES,
        stateful_step_count=25,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        print_blob=True,
    )
    case().runTest()
