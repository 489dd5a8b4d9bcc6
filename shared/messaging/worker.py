"""The message side of a worker: its relay, its handlers' queues and the collector."""

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Any
from uuid import UUID

import aio_pika
from aio_pika.abc import AbstractIncomingMessage
from aio_pika.exceptions import AMQPError

from shared.messaging import gate
from shared.messaging.consumers import Consumers, Handler
from shared.messaging.dead_letters import DeadLetter, park
from shared.messaging.delivery import Deliveries, is_outage, plain
from shared.messaging.partitions import keep_partitions
from shared.messaging.relay import Relay
from shared.messaging.topology import RETRY_DELAYS_MS
from shared.observability import logger
from shared.runtime import Runtime

log = logger(__name__)

LOST = (OSError, AMQPError, asyncio.TimeoutError, RuntimeError)
SWEEP_SECONDS = 5.0
PARTITION_SECONDS = 3600.0


class MessageWorker:
    """Relay and consumers of one process; an outage of any server is waited out."""

    def __init__(
        self,
        service: str,
        consumers: Consumers,
        runtime: Runtime[Any, Any],
        delays_ms: Sequence[int] = RETRY_DELAYS_MS,
    ) -> None:
        settings = runtime.settings
        self._service = service
        self._handlers = list(consumers.handlers.values()) if settings.run_consumers else []
        self._runtime = runtime
        self._delays_ms = delays_ms
        self._url = settings.broker_url.get_secret_value()
        self._relay = (
            Relay(service, settings.database_url.get_secret_value(), self._url)
            if settings.run_relay
            else None
        )
        self._attached = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._deliveries: list[Deliveries] = []

    async def start(self) -> None:
        """Begin. Raises when the broker is away or its topology is not declared."""
        if self._relay is not None:
            self._relay.start()
            self._tasks.append(asyncio.create_task(self._keep_partitions(), name="partitions"))
        if self._handlers:
            first: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._tasks.append(asyncio.create_task(self._consume(first), name="consumers"))
            self._tasks.append(asyncio.create_task(self._sweep(), name="early events"))
            await first

    async def stop(self, grace_seconds: float) -> None:
        """Take nothing new, finish what is in hand, close channel and connection."""
        for task in self._tasks:
            task.cancel()
        await asyncio.wait(self._tasks, timeout=grace_seconds) if self._tasks else None
        if self._relay is not None:
            await self._relay.stop(grace_seconds)

    async def check(self) -> None:
        """Raises while the consumers are not attached."""
        if self._handlers and not self._attached.is_set():
            raise ConnectionError("the consumers are not attached")

    async def _consume(self, first: "asyncio.Future[None]") -> None:
        pause = 0.1
        while True:
            try:
                await self._session(first)
            except LOST as error:
                if not first.done():
                    first.set_exception(error)
                    return
                log.warning("The consumers lost the broker", error=type(error).__name__)
            finally:
                self._attached.clear()
            await asyncio.sleep(pause)
            pause = min(pause * 2, 2.0)

    async def _session(self, first: "asyncio.Future[None]") -> None:
        """Consume with one connection until it is lost."""
        connection = await aio_pika.connect(self._url, timeout=10, heartbeat=20)
        running: list[asyncio.Task[None]] = []
        closed = asyncio.Event()
        connection.close_callbacks.add(lambda *_: closed.set())
        try:
            for handler in self._handlers:
                channel = await connection.channel(on_return_raises=True)
                channel.close_callbacks.add(lambda *_: closed.set())
                await channel.set_qos(prefetch_count=self._runtime.settings.prefetch)
                deliveries = Deliveries(handler, self._runtime, channel, self._delays_ms)
                queue = await channel.get_queue(handler.queue, ensure=True)
                running.append(asyncio.create_task(deliveries.run(), name=handler.queue))
                await queue.consume(deliveries.receive)
            collecting = await connection.channel()
            await collecting.set_qos(prefetch_count=10)
            graveyard = await collecting.get_queue(f"{self._service}.dead", ensure=True)
            await graveyard.consume(self._collect)
            self._attached.set()
            if not first.done():
                first.set_result(None)
            lost = asyncio.create_task(closed.wait())
            try:
                await asyncio.wait([lost, *running], return_when=asyncio.FIRST_COMPLETED)
            finally:
                lost.cancel()
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)
            with contextlib.suppress(*LOST):
                await connection.close()

    async def _collect(self, message: AbstractIncomingMessage) -> None:
        """File what the broker gave up: too many deliveries, most likely by a dying consumer."""
        headers = plain(message.headers)
        letter = DeadLetter.of(
            str(headers.get("x-first-death-queue", self._service)),
            message.body,
            headers=headers,
            reason=f"broker:{headers.get('x-first-death-reason', 'unknown')}",
            cause="given up by the broker",
            error="The broker gave this message up before a handler finished it.",
            attempts=1,
        )
        pause = 0.1
        while True:
            try:
                async with self._runtime.begin() as uow:
                    await park(uow, letter)
            except Exception as error:
                if not is_outage(error):
                    raise
                await asyncio.sleep(pause)
                pause = min(pause * 2, 5.0)
            else:
                await message.ack()
                return

    async def _sweep(self) -> None:
        """Go on with early events whose turn has come and which nothing else will move."""
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            for handler in self._handlers:
                if handler.ordered:
                    try:
                        await self._advance(handler)
                    except Exception as error:  # noqa: BLE001  (the next sweep tries again)
                        log.warning("Early events wait", consumer=handler.queue, error=str(error))

    async def _advance(self, handler: Handler) -> None:
        async with self._runtime.begin() as uow:
            aggregates: list[UUID] = await gate.ready(uow, handler)
        for aggregate_id in aggregates:
            worker = Deliveries(handler, self._runtime, None, self._delays_ms)  # type: ignore[arg-type]
            async with self._runtime.begin() as uow:
                await gate.advance(uow, handler, aggregate_id, worker._handle)  # noqa: SLF001

    async def _keep_partitions(self) -> None:
        while True:
            try:
                await keep_partitions(self._runtime)
            except Exception as error:  # noqa: BLE001  (the default partition takes the rows)
                log.warning("Partitions were not kept", error=str(error))
            await asyncio.sleep(PARTITION_SECONDS)
