"""Messages of one handler: claimed, gated, handled, committed, then acknowledged."""

import asyncio
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import aio_pika
from aio_pika.abc import AbstractChannel, AbstractIncomingMessage
from prometheus_client import Counter, Histogram
from redis.exceptions import RedisError
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm.exc import StaleDataError

from shared.clock import utc_now
from shared.context import caused_by, handling
from shared.crashpoint import crashpoint
from shared.db import UnitOfWork
from shared.errors import DomainError
from shared.events import Event
from shared.messaging import envelope, gate
from shared.messaging.consumers import Handler
from shared.messaging.dead_letters import DeadLetter, park
from shared.messaging.envelope import Envelope, Malformed, UnknownEvent
from shared.observability import logger, redact_text
from shared.runtime import Runtime

log = logger(__name__)

EVENTS = Counter("consumer_events_total", "Messages by outcome.", ["consumer", "outcome"])
LAG = Histogram(
    "consumer_lag_seconds",
    "From publication to the committed effect.",
    ["consumer"],
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1, 5, 30, 120),
)

#: Messages that share a transaction, at most. Whatever waits is taken; nothing is waited for.
BATCH = 100
DONE_SECONDS = 24 * 3600
#: In place, before a message is put off: two writers met.
QUICK_TRIES = 5

CLAIM = """
INSERT INTO {schema}.inbox (consumer, event_id, processed_at)
SELECT :consumer, id, now() FROM unnest(CAST(:ids AS uuid[])) AS id ORDER BY id
    ON CONFLICT (consumer, event_id) DO UPDATE SET processed_at = now()
 WHERE inbox.processed_at IS NULL
RETURNING event_id
"""
COUNT_ATTEMPT = """
INSERT INTO {schema}.inbox (consumer, event_id, attempts) VALUES (:consumer, :id, 1)
    ON CONFLICT (consumer, event_id) DO UPDATE SET attempts = inbox.attempts + 1
RETURNING attempts
"""


@dataclass(frozen=True)
class Delivery:
    """A message in hand, read once."""

    message: AbstractIncomingMessage
    found: Envelope
    event: Event

    @property
    def id(self) -> UUID:
        return self.event.id


def is_outage(error: BaseException) -> bool:
    """Whether the database was out of reach: nobody's fault, and no attempt of the message."""
    if isinstance(error, DBAPIError) and error.connection_invalidated:
        return True
    return isinstance(error, OperationalError | InterfaceError | PoolTimeout | OSError)


def is_collision(error: BaseException) -> bool:
    """Whether two writers met: a deadlock, a serialization failure, a stale version."""
    if isinstance(error, StaleDataError):
        return True
    state = getattr(getattr(error, "orig", None), "sqlstate", None)
    return state in {"40001", "40P01", "55P03"}


class Deliveries:
    """The consumer path of one handler in one process.

    Effects happen once: the inbox row commits with them, and a message is acknowledged after.
    A batch that fails is done again one by one, so that one bad message spoils none beside it.
    """

    def __init__(
        self,
        handler: Handler,
        runtime: Runtime[Any, Any],
        channel: AbstractChannel,
        delays_ms: Sequence[int],
    ) -> None:
        self._handler = handler
        self._runtime = runtime
        self._channel = channel
        self._delays_ms = delays_ms
        self._service = runtime.database.platform.schema
        self._waiting: asyncio.Queue[AbstractIncomingMessage] = asyncio.Queue()

    async def receive(self, message: AbstractIncomingMessage) -> None:
        """Take a message in hand; the channel's prefetch bounds how many."""
        self._waiting.put_nowait(message)

    async def run(self) -> None:
        """Work until canceled. What is then in hand and not committed goes back to the broker."""
        while True:
            batch = [await self._waiting.get()]
            while len(batch) < BATCH and not self._waiting.empty():
                batch.append(self._waiting.get_nowait())
            await asyncio.shield(asyncio.ensure_future(self.process(batch)))

    async def process(self, messages: Sequence[AbstractIncomingMessage]) -> None:
        """See every message through: committed, put off or parked; then acknowledge it."""
        deliveries = await self._not_yet_done(await self._read(messages))
        if not deliveries:
            return
        try:
            await self._commit(deliveries)
        except Exception:  # noqa: BLE001  (whose fault it was shows one by one)
            for delivery in deliveries:
                await self._process_alone(delivery)
            return
        await self._finish(deliveries)

    async def _read(self, messages: Sequence[AbstractIncomingMessage]) -> list[Delivery]:
        read = []
        for message in messages:
            try:
                found = envelope.read(message.body)
                read.append(Delivery(message, found, found.event()))
            except (Malformed, UnknownEvent) as error:
                reason = "unknown-event" if isinstance(error, UnknownEvent) else "malformed"
                await self._park(message, reason, error, attempts=1)
        return read

    async def _not_yet_done(self, deliveries: list[Delivery]) -> list[Delivery]:
        """Leave out what Redis remembers as done. It only saves work: the inbox decides."""
        if not deliveries:
            return deliveries
        try:
            marks = await self._runtime.redis.mget([self._mark(one.id) for one in deliveries])
        except (RedisError, OSError):
            return deliveries
        left = []
        for delivery, mark in zip(deliveries, marks, strict=True):
            if mark:
                await delivery.message.ack()
                EVENTS.labels(self._handler.queue, "duplicate").inc()
            else:
                left.append(delivery)
        return left

    async def _commit(self, deliveries: Sequence[Delivery]) -> None:
        """One transaction for all of them."""
        async with self._runtime.begin() as uow:
            first = await self._claim(uow, deliveries)
            if self._handler.ordered:
                await gate.apply(uow, self._handler, first, self._handle)
            else:
                await self._handle(uow, first)
            await uow.session.flush()
            crashpoint("consumer.before_commit")
        crashpoint("consumer.committed_not_acknowledged")

    async def _claim(self, uow: UnitOfWork, deliveries: Sequence[Delivery]) -> list[Delivery]:
        """Those that this handler sees for the first time; the claim commits with the effect."""
        by_id = {delivery.id: delivery for delivery in deliveries}
        claimed = await uow.session.scalars(
            text(CLAIM.format(schema=self._service)),
            {"consumer": self._handler.queue, "ids": list(by_id)},
        )
        mine = set(claimed)
        return [delivery for delivery in by_id.values() if delivery.id in mine]

    async def _handle(self, uow: UnitOfWork, deliveries: Sequence[Delivery]) -> None:
        acted_on = [
            one
            for one in deliveries
            if not self._handler.events or isinstance(one.event, self._handler.events)
        ]
        if self._handler.batch and acted_on:
            with caused_by(handling(acted_on[0].found.cause, str(acted_on[0].id))):
                await self._handler.handle(uow, [one.event for one in acted_on])
        elif not self._handler.batch:
            for one in acted_on:
                with caused_by(handling(one.found.cause, str(one.id))):
                    await self._handler.handle(uow, one.event)
        for one in deliveries:
            uow.handled(self._handler.queue, one.event.name, one.event.account_id)

    async def _process_alone(self, delivery: Delivery) -> None:
        """One message, to its end: committed, put off, or parked."""
        tries, pause = 0, 0.1
        while True:
            try:
                await self._commit([delivery])
            except DomainError as refusal:
                await self._park(delivery.message, f"refused:{refusal.code}", refusal, attempts=1)
                return
            except Exception as error:  # noqa: BLE001  (sorted below)
                if is_outage(error):
                    log.warning("The database is out of reach", consumer=self._handler.queue)
                    await asyncio.sleep(pause)
                    pause = min(pause * 2, 5.0)
                    continue
                tries += 1
                if is_collision(error) and tries < QUICK_TRIES:
                    continue
                await self._put_off(delivery, error)
                return
            await self._finish([delivery])
            return

    async def _put_off(self, delivery: Delivery, error: Exception) -> None:
        """Have it come back later, or park it when it came often enough."""
        attempts = await self._count_attempt(delivery)
        log.warning(
            "A handler failed",
            consumer=self._handler.queue,
            event_id=str(delivery.id),
            attempts=attempts,
            error=f"{type(error).__name__}: {error}",
        )
        if attempts > len(self._delays_ms):
            await self._park(delivery.message, type(error).__name__, error, attempts=attempts)
            return
        exchange = await self._channel.get_exchange(
            f"{self._service}.retry.{self._delays_ms[attempts - 1]}", ensure=False
        )
        again = aio_pika.Message(
            delivery.message.body,
            content_type=delivery.message.content_type,
            delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
            message_id=delivery.message.message_id,
        )
        await exchange.publish(again, routing_key=self._handler.queue, mandatory=True, timeout=10)
        await delivery.message.ack()
        EVENTS.labels(self._handler.queue, "retried").inc()

    async def _count_attempt(self, delivery: Delivery) -> int:
        async with self._runtime.begin() as uow:
            attempts = await uow.session.scalar(
                text(COUNT_ATTEMPT.format(schema=self._service)),
                {"consumer": self._handler.queue, "id": delivery.id},
            )
        return int(attempts or 1)

    async def _park(
        self, message: AbstractIncomingMessage, reason: str, error: BaseException, *, attempts: int
    ) -> None:
        letter = DeadLetter.of(
            self._handler.queue,
            message.body,
            headers=plain(message.headers),
            reason=reason,
            error=redact_text(f"{type(error).__name__}: {error}"),
            traceback=redact_text("".join(traceback.format_exception(error))),
            cause=_cause(error),
            attempts=attempts,
        )
        async with self._runtime.begin() as uow:
            await park(uow, letter)
        await message.ack()
        log.error("A message was parked", consumer=self._handler.queue, reason=reason)
        EVENTS.labels(self._handler.queue, "parked").inc()

    async def _finish(self, deliveries: Sequence[Delivery]) -> None:
        """Acknowledge, and have Redis remember; losing either only repeats a look."""
        now = utc_now()
        for delivery in deliveries:
            await delivery.message.ack()
            made = delivery.id.int >> 80  # milliseconds, by RFC 9562
            LAG.labels(self._handler.queue).observe(max(0.0, now.timestamp() - made / 1000))
        EVENTS.labels(self._handler.queue, "handled").inc(len(deliveries))
        try:
            async with self._runtime.redis.pipeline(transaction=False) as pipe:
                for delivery in deliveries:
                    pipe.set(self._mark(delivery.id), b"1", ex=DONE_SECONDS)
                await pipe.execute()
        except (RedisError, OSError):
            return

    def _mark(self, event_id: UUID) -> str:
        return f"done:{self._handler.queue}:{event_id}"


def _cause(error: BaseException) -> str:
    """The kind of error and where it was raised: what many letters have in common."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" in {frames[-1].name}" if frames else ""
    return f"{type(error).__name__}{place}"


def plain(headers: Any) -> dict[str, Any]:
    """A message's headers as JSON can hold them."""
    return {str(key): _json(value) for key, value in (headers or {}).items()}


def _json(value: Any) -> Any:
    if isinstance(value, dict):
        return plain(value)
    if isinstance(value, list | tuple):
        return [_json(inner) for inner in value]
    return value if isinstance(value, str | int | float | bool | None) else str(value)
