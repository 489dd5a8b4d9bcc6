"""A service of nothing but a message path: its own schema and queues, made for one test."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aio_pika
import orjson
from pydantic import SecretStr
from sqlalchemy import Column, Integer, MetaData, Table, Text, Uuid, insert, select, text
from sqlalchemy.ext.asyncio import create_async_engine

from shared.context import Cause, new_traceparent
from shared.db import Database, UnitOfWork, service_metadata
from shared.events import Event
from shared.locks import connect
from shared.messaging import envelope
from shared.messaging.consumers import Consumers
from shared.messaging.topology import declare
from shared.messaging.worker import MessageWorker
from shared.runtime import Runtime
from shared.security import Verifier
from shared.settings import Settings
from tests.messaging.events import ThingEvent

#: Retries of tests wait for milliseconds.
DELAYS_MS = (20, 40)


def metadata_of(schema: str) -> MetaData:
    """The platform's tables and one for what handlers do."""
    metadata = service_metadata(schema)
    Table(
        "effects",
        metadata,
        Column("id", Integer, primary_key=True, autoincrement=True),
        Column("event_id", Uuid, nullable=False),
        Column("thing_id", Uuid, nullable=False),
        Column("sequence", Integer, nullable=False),
        Column("note", Text, nullable=False),
    )
    return metadata


async def take_effect(uow: UnitOfWork, event: ThingEvent, note: str = "") -> None:
    """What handlers of tests do: a row per event."""
    await uow.session.execute(
        insert(uow.platform.table("effects")).values(
            event_id=event.id, thing_id=event.thing_id, sequence=event.sequence, note=note
        )
    )


def settings_of(database_url: str, broker_url: str, redis_url: str, **more: Any) -> Settings:
    return Settings(
        database_url=SecretStr(database_url),
        broker_url=SecretStr(broker_url),
        redis_url=SecretStr(redis_url),
        **{"test_clocks": True, **more},
    )


def open_runtime(schema: str, settings: Settings) -> Runtime[Any, Any]:
    async def no_keys() -> dict[str, Any]:
        return {"keys": []}

    return Runtime(
        settings,
        Database.open(settings, metadata_of(schema), UnitOfWork),
        connect(settings.redis_url.get_secret_value()),
        Verifier(no_keys, issuer="perennial", audience="perennial"),
    )


@dataclass
class Probe:
    """The service under test: handlers are added to `consumers` before `deploy`."""

    name: str
    runtime: Runtime[Any, Any]
    consumers: Consumers
    connection: Any
    channel: Any = None
    queues: list[str] = field(default_factory=list)
    workers: list[MessageWorker] = field(default_factory=list)

    @property
    def settings(self) -> Settings:
        settings: Settings = self.runtime.settings
        return settings

    async def deploy(self) -> None:
        await declare(self.name, self.consumers, self.settings, DELAYS_MS)
        self.channel = await self.connection.channel(on_return_raises=True)
        self.queues = [
            *self.consumers.handlers,
            f"{self.name}.dead",
            *(f"{self.name}.retry.{delay}" for delay in DELAYS_MS),
        ]

    @asynccontextmanager
    async def worker(
        self,
        *,
        relay: bool = False,
        runtime: Runtime[Any, Any] | None = None,
        batch: int = 100,
    ) -> AsyncIterator[MessageWorker]:
        chosen = runtime or self.runtime
        used = Runtime(
            chosen.settings.model_copy(update={"run_relay": relay}),
            chosen.database,
            chosen.redis,
            chosen.verifier,
        )
        worker = MessageWorker(self.name, self.consumers, used, DELAYS_MS, batch)
        await worker.start()
        self.workers.append(worker)
        try:
            yield worker
        finally:
            self.workers.remove(worker)
            await worker.stop(5)

    async def deliver(self, *events: Event, queue: str | None = None) -> None:
        """Put events before the handlers as a relay would, or before one of them."""
        for event in events:
            await self.deliver_raw(body_of(event), event.name, queue)

    async def deliver_raw(self, body: bytes, name: str, queue: str | None = None) -> None:
        exchange = await self.channel.get_exchange(
            f"{self.name}.deliver" if queue else "billing.events", ensure=False
        )
        message = aio_pika.Message(body, delivery_mode=aio_pika.DeliveryMode.PERSISTENT)
        await exchange.publish(message, routing_key=queue or name)

    async def emit(self, *events: Event) -> None:
        async with self.runtime.begin() as uow:
            for event in events:
                uow.emit(event)

    async def effects(self) -> list[Any]:
        """What handlers did, in order of commit."""
        effects = self.runtime.database.platform.table("effects")
        async with self.runtime.begin() as uow:
            return list((await uow.session.execute(select(effects).order_by(effects.c.id))).all())

    async def rows(self, statement: str) -> list[Any]:
        """Rows of the probe's schema, which `{s}` stands for."""
        async with self.runtime.begin() as uow:
            found = await uow.session.execute(text(statement.format(s=self.name)))
            return list(found.all())

    async def scalar(self, statement: str) -> Any:
        return (await self.rows(statement))[0][0]

    async def letters(self) -> list[Any]:
        return await self.rows("SELECT * FROM {s}.dead_letters ORDER BY id")

    async def handled(self) -> dict[str, int]:
        """How often each handler counted an event for test clocks."""
        rows = await self.rows(
            "SELECT name, sum(count)::int FROM {s}.clock_activity WHERE direction = 'handled'"
            " GROUP BY name"
        )
        return {row[0]: row[1] for row in rows}

    async def is_quiet(self) -> bool:
        """Whether nothing waits anywhere on the way."""
        waiting = await self.scalar(
            "SELECT count(*) FROM {s}.outbox WHERE sent_at IS NULL AND refused_at IS NULL"
        )
        return not waiting and await self.is_quiet_but_outbox()

    async def is_quiet_but_outbox(self) -> bool:
        """Whether no message waits or is in hand: for tests that run no relay."""
        return await self._is_at_rest() and await self._is_at_rest(after=0.03)

    async def _is_at_rest(self, after: float = 0) -> bool:
        # A message on its way from the broker to us is seen by neither look alone.
        await asyncio.sleep(after)
        if not all(worker.is_idle for worker in self.workers):
            return False
        for queue in self.queues:
            declared = await self.channel.declare_queue(queue, passive=True)
            if declared.declaration_result.message_count:
                return False
        return True


def body_of(event: Event) -> bytes:
    traceparent = new_traceparent()
    return envelope.write(event, Cause(traceparent.split("-")[1], traceparent))


def unheard_of(event: Event) -> tuple[bytes, str]:
    """The body and the name of an event in the place of this one, of a type nobody here knows."""
    name = f"{event.name.partition('.')[0]}.unheard_of"
    raw = orjson.loads(body_of(event))
    raw |= {"type": name, "data": {**raw["data"], "news": {"of": ["the next release"]}}}
    return orjson.dumps(raw), name


async def eventually(fact: Callable[[], Awaitable[bool]], within: float = 10) -> None:
    """Wait for a fact, and fail when it does not come true."""
    async with asyncio.timeout(within):
        while not await fact():  # noqa: ASYNC110  (facts live in servers)
            await asyncio.sleep(0.02)


@asynccontextmanager
async def probing(
    database_url: str, broker_url: str, redis_url: str, name: str | None = None, **more: Any
) -> AsyncIterator[Probe]:
    """A probe with a schema of its own in the database that the URL names."""
    name = name or f"probe_{secrets.token_hex(4)}"
    engine = create_async_engine(database_url.replace("postgresql://", "postgresql+asyncpg://"))
    async with engine.begin() as connection:
        await connection.execute(text(f"CREATE SCHEMA {name}"))
        await connection.run_sync(metadata_of(name).create_all)
    await engine.dispose()
    runtime = open_runtime(name, settings_of(database_url, broker_url, redis_url, **more))
    broker = await aio_pika.connect(broker_url)
    probe = Probe(name, runtime, Consumers(name), broker)
    try:
        yield probe
    finally:
        await remove(probe)
        await broker.close()
        await runtime.redis.aclose()
        await runtime.database.close()


async def remove(probe: Probe) -> None:
    """Its queues and exchanges, which no other test will name."""
    channel = await probe.connection.channel()
    for queue in probe.queues:
        await channel.queue_delete(queue)
    exchanges = ["dead", "deliver", *(f"retry.{delay}" for delay in DELAYS_MS)]
    for exchange in exchanges if probe.queues else ():
        await channel.exchange_delete(f"{probe.name}.{exchange}")
