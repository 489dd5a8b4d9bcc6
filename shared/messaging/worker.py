"""The message side of a worker: its relay, its handlers' queues, the collector and the upkeep."""

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Any

import aio_pika
from aio_pika.abc import AbstractConnection
from aio_pika.exceptions import AMQPError, ChannelNotFoundEntity
from aiormq.abc import AbstractChannel, DeliveredMessage

from shared.db import UnitOfWork
from shared.messaging.consumers import Consumers, Handler
from shared.messaging.dead_letters import DeadLetter, park
from shared.messaging.delivery import BATCH, Deliveries, plain
from shared.messaging.marks import Marks
from shared.messaging.names import RETRY_DELAYS_MS, require
from shared.messaging.outages import Patience
from shared.messaging.publishing import Publisher
from shared.messaging.relay import Relay
from shared.messaging.upkeep import Upkeep
from shared.observability import logger
from shared.runtime import Runtime
from shared.tasks import end

log = logger(__name__)

LOST = (OSError, AMQPError, RuntimeError)
CLOSE_SECONDS = 5.0


class TopologyMissing(OSError):
    """The queues of this service are not declared: `migrate` has not run."""


class MessageWorker:
    """Relay and consumers of one process; an outage of any server is waited out."""

    def __init__(
        self,
        service: str,
        consumers: Consumers,
        runtime: Runtime[Any, Any],
        delays_ms: Sequence[int] = RETRY_DELAYS_MS,
        batch: int = BATCH,
    ) -> None:
        settings = runtime.settings
        self._service = service
        self._handlers = list(consumers.handlers.values()) if settings.run_consumers else []
        self._runtime = runtime
        self._delays_ms = delays_ms
        self._batch = batch
        self._url = settings.broker_url.get_secret_value()
        self._marks = Marks(runtime.redis)
        self._relay = (
            Relay(service, settings.database_url.get_secret_value(), self._url)
            if settings.run_relay
            else None
        )
        self._upkeep = Upkeep(runtime) if settings.run_relay else None
        self._session: _Session | None = None
        self._stopping = asyncio.Event()
        self._consuming: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin. Raises when the broker is away or its topology is not declared."""
        if self._handlers:
            self._session = await self._open()
            self._consuming = asyncio.create_task(self._consume(self._session), name="consumers")
        if self._relay is not None and self._upkeep is not None:
            self._relay.start()
            self._upkeep.start()

    async def stop(self, grace_seconds: float) -> None:
        """Take nothing new, finish what is in hand or give it back, close every connection."""
        self._stopping.set()
        stopping = []
        if self._consuming is not None:
            stopping.append(self._stop_consuming(self._consuming, grace_seconds))
        if self._relay is not None and self._upkeep is not None:
            stopping += [self._relay.stop(grace_seconds), self._upkeep.stop()]
        await asyncio.gather(*stopping)

    async def check(self) -> None:
        """Raises while the consumers are not attached."""
        if self._handlers and self._session is None:
            raise ConnectionError("the consumers are not attached")

    @property
    def is_idle(self) -> bool:
        """Whether no message is in hand."""
        return self._session is not None and self._session.is_idle

    async def _stop_consuming(self, consuming: asyncio.Task[None], grace_seconds: float) -> None:
        if self._session is not None:
            await self._session.finish(grace_seconds)
        # It closes the connection by itself, unless the broker does not answer.
        await asyncio.wait([consuming], timeout=2 * CLOSE_SECONDS)
        await end([consuming])

    async def _consume(self, session: "_Session") -> None:
        """Keep a session with the broker, for ever."""
        current: _Session | None = session
        pause = 0.1
        while not self._stopping.is_set():
            try:
                if current is None:
                    current = await self._open()
                self._session = current
                pause = 0.1
                await current.lost()
                if not self._stopping.is_set():
                    log.warning("The consumers lost the broker")
            except LOST as error:
                log.warning("The consumers cannot reach the broker", error=type(error).__name__)
            except Exception:
                # Whatever it was: a worker that consumes no more must not stay so.
                log.exception("The consumers stumbled")
            finally:
                self._session = None
                if current is not None:
                    with contextlib.suppress(Exception):
                        await current.close()
                    current = None
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), pause)
            pause = min(pause * 2, 2.0)

    async def _open(self) -> "_Session":
        connection = await aio_pika.connect(self._url, timeout=10, heartbeat=20)
        session = _Session(connection)
        try:
            await require(connection, self._service, self._handlers, self._delays_ms)
            publishing = await session.channel(confirms=True)
            publisher = Publisher(publishing)
            for handler in self._handlers:
                await self._attach(session, handler, publisher)
            graveyard = await session.channel()
            await graveyard.basic_qos(prefetch_count=10)
            await session.consume(graveyard, f"{self._service}.dead", self._collect)
        except ChannelNotFoundEntity as error:
            await session.close()
            raise TopologyMissing(
                f"the broker lacks queues of {self._service}; run its migrate first: {error}"
            ) from error
        except BaseException:
            await session.close()
            raise
        return session

    async def _attach(self, session: "_Session", handler: Handler, publisher: Publisher) -> None:
        channel = await session.channel()
        # Twice what a transaction takes, so that the next batch is here when one is done.
        await channel.basic_qos(prefetch_count=2 * self._runtime.settings.prefetch)
        deliveries = Deliveries(
            handler,
            self._runtime,
            publisher,
            self._delays_ms,
            self._marks,
            min(self._batch, self._runtime.settings.prefetch),
        )
        session.work(deliveries)
        await session.consume(channel, handler.queue, deliveries.receive)

    async def _collect(self, message: DeliveredMessage) -> None:
        """File what the broker gave up: delivered too often, most likely to dying consumers."""
        headers = plain(message.header.properties.headers)
        letter = DeadLetter.of(
            str(headers.get("x-first-death-queue", self._service)),
            message.body,
            headers=headers,
            reason=f"broker:{headers.get('x-first-death-reason', 'unknown')}",
            cause="given up by the broker",
            error="The broker gave this message up before a handler finished it.",
            attempts=1,
        )

        async def store(uow: UnitOfWork) -> None:
            if await park(uow, letter):
                log.error("A message was given up", consumer=letter.consumer, reason=letter.reason)

        patience = Patience(self._runtime)
        while True:
            try:
                async with self._runtime.begin() as uow:
                    await store(uow)
            except Exception as error:  # noqa: BLE001  (it stays with the broker)
                if await patience.waits_out(error):
                    continue
                log.warning("A dead letter was not filed", error=str(error))
                await message.channel.basic_nack(message.delivery_tag or 0, requeue=True)
                return
            await message.channel.basic_ack(message.delivery_tag or 0)
            return


class _Session:
    """One connection to the broker and everything that lives on it."""

    def __init__(self, connection: AbstractConnection) -> None:
        self._connection = connection
        self._closed = asyncio.Event()
        self._channels: list[tuple[AbstractChannel, str]] = []
        self._deliveries: list[Deliveries] = []
        self._tasks: list[asyncio.Task[None]] = []
        connection.close_callbacks.add(self._on_close)

    @property
    def is_idle(self) -> bool:
        return all(deliveries.is_idle for deliveries in self._deliveries)

    def _on_close(self, *_: object) -> None:
        self._closed.set()

    async def channel(self, *, confirms: bool = False) -> AbstractChannel:
        channel = await self._connection.channel(
            publisher_confirms=confirms, on_return_raises=confirms
        )
        channel.close_callbacks.add(self._on_close)
        underlay = await channel.get_underlay_channel()
        # A queue that is deleted or loses its leader cancels its consumers.
        underlay.on_consumer_cancel_callbacks.add(self._on_close)
        return underlay

    async def consume(self, channel: AbstractChannel, queue: str, callback: Any) -> None:
        attached = await channel.basic_consume(queue, callback)
        self._channels.append((channel, str(attached.consumer_tag)))

    def work(self, deliveries: Deliveries) -> None:
        self._deliveries.append(deliveries)
        self._tasks.append(asyncio.create_task(deliveries.run(), name=deliveries.handler.queue))

    async def lost(self) -> None:
        """Returns when the connection, a channel or a handler's loop has ended."""
        closed = asyncio.create_task(self._closed.wait())
        try:
            await asyncio.wait([closed, *self._tasks], return_when=asyncio.FIRST_COMPLETED)
        finally:
            closed.cancel()
        for task in self._tasks:
            if task.done() and not task.cancelled() and (error := task.exception()):
                log.warning("A handler's loop ended", queue=task.get_name(), exc_info=error)

    async def finish(self, grace_seconds: float) -> None:
        """Have the broker send nothing more, and give the batches in hand until the grace."""
        with contextlib.suppress(*LOST):
            async with asyncio.timeout(CLOSE_SECONDS):
                for channel, tag in self._channels:
                    await channel.basic_cancel(tag)
        for deliveries in self._deliveries:
            deliveries.stop()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=grace_seconds)

    async def close(self) -> None:
        """What is in hand and not committed goes back to the broker."""
        await end(self._tasks)
        with contextlib.suppress(*LOST):
            async with asyncio.timeout(CLOSE_SECONDS):
                await self._connection.close()
