"""The relay: publishes the outbox, in order per aggregate, with any number of processes."""

import asyncio
import contextlib
import math
import zlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any
from uuid import UUID

import aio_pika
import asyncpg
import orjson
from aio_pika.exceptions import AMQPError, DeliveryError, PublishError
from aiormq.abc import AbstractChannel
from prometheus_client import Counter

from shared.crashpoint import crashpoint
from shared.messaging.envelope import PARTS
from shared.messaging.publishing import CONFIRM_SECONDS, publish
from shared.observability import logger
from shared.tasks import end

log = logger(__name__)

PUBLISHED = Counter("outbox_published_total", "Rows that the broker confirmed.", ["service"])
REFUSED = Counter("outbox_refused_total", "Rows that the broker sent back.", ["service"])

BATCH = 500
#: No publish is begun later in a batch: what was confirmed is marked before the session that
#: marks it can be taken for dead, however slow the broker is.
BATCH_SECONDS = 5.0
#: A relay that froze for so long has lost its partitions; they go to the others.
FROZEN_SECONDS = 20.0
POLL_SECONDS = 1.0
REBALANCE_SECONDS = 2.0
NACKED = "nacked: a queue is full"

NEXT = """
SELECT o.id, o.exchange, o.routing_key, o.aggregate_id, o.body, o.headers
  FROM unnest($1::smallint[]) AS p(part)
 CROSS JOIN LATERAL (
       SELECT id, exchange, routing_key, aggregate_id, body, headers
         FROM {schema}.outbox
        WHERE part = p.part AND sent_at IS NULL AND refused_at IS NULL
        ORDER BY position
        LIMIT $2) AS o
"""
MARK_SENT = "UPDATE {schema}.outbox SET sent_at = now(), error = NULL WHERE id = ANY($1::uuid[])"
SET_ASIDE = """
UPDATE {schema}.outbox AS o SET refused_at = now(), error = refused.error
  FROM unnest($1::uuid[], $2::text[]) AS refused(id, error) WHERE o.id = refused.id
"""
#: What was refused is offered again after half a minute, and then after gaps that double.
TRY_AGAIN = """
UPDATE {schema}.outbox SET refused_at = NULL
 WHERE refused_at < now() - greatest(interval '30 seconds', refused_at - created_at)
"""
LIVE = """
SELECT count(DISTINCT pid) FROM pg_locks
 WHERE locktype = 'advisory' AND classid = $1 AND objid = 0 AND mode = 'ShareLock' AND granted
   AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""

#: What ends a session with the servers; another one is begun.
LOST = (
    OSError,
    AMQPError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncio.TimeoutError,
    RuntimeError,
)


class Relay:
    """Publishes one service's outbox until it is stopped; outages are waited out.

    Each process owns a share of the partitions by advisory locks on the connection that also
    reads and marks, so a process that lost its connection has lost the right to mark. A row
    counts as sent only after the broker's confirm: a crash repeats some and loses none.
    """

    def __init__(
        self,
        service: str,
        database_url: str,
        broker_url: str,
        *,
        confirm_seconds: float = CONFIRM_SECONDS,
        frozen_seconds: float = FROZEN_SECONDS,
    ) -> None:
        self._service = service
        self._database_url = database_url
        self._broker_url = broker_url
        self._confirm_seconds = confirm_seconds
        self._frozen_seconds = frozen_seconds
        # A class of advisory locks per service; signed, as Postgres wants it.
        self._locks = zlib.crc32(f"relay {service}".encode()) - 2**31
        self._stopping = asyncio.Event()
        self._woken = asyncio.Event()
        self._parts: set[int] = set()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name=f"relay {self._service}")

    async def stop(self, grace_seconds: float) -> None:
        """Finish the batch in hand and let go."""
        self._stopping.set()
        self._woken.set()
        if self._task is not None:
            _, late = await asyncio.wait([self._task], timeout=grace_seconds)
            await end(late)

    async def _run(self) -> None:
        pause = 0.1
        while not self._stopping.is_set():
            try:
                await self._session()
                pause = 0.1
            except LOST as error:
                log.warning("The relay lost a server", error=type(error).__name__)
            except Exception:
                # Whatever it was: a worker whose relay has ended looks well and sends nothing.
                log.exception("The relay stumbled")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), pause)
            pause = min(pause * 2, 2.0)

    async def _session(self) -> None:
        """Relay with one connection to each server, until one is lost or we stop."""
        connection = await asyncpg.connect(
            self._database_url,
            timeout=5,
            command_timeout=30,
            # A relay that hangs must not keep its partitions.
            server_settings={
                "application_name": f"perennial-relay-{self._service}",
                "idle_session_timeout": f"{round(1000 * self._frozen_seconds)}ms",
                "tcp_keepalives_idle": "10",
                "tcp_keepalives_interval": "5",
                "tcp_keepalives_count": "3",
            },
        )
        self._parts = set()
        try:
            await connection.add_listener(f"outbox_{self._service}", self._wake)
            connection.add_termination_listener(self._wake)
            broker = await aio_pika.connect(self._broker_url, timeout=5, heartbeat=20)
            async with broker:
                channel = await broker.channel(publisher_confirms=True, on_return_raises=True)
                await self._relay(connection, await channel.get_underlay_channel())
        finally:
            # One that cannot be closed in order is dropped, and with it its locks.
            with contextlib.suppress(Exception):
                await connection.close(timeout=2)

    async def _relay(self, connection: Any, channel: AbstractChannel) -> None:
        loop = asyncio.get_running_loop()
        await connection.execute("SELECT pg_advisory_lock_shared($1::int, 0)", self._locks)
        rebalance_at = 0.0
        while not self._stopping.is_set():
            if loop.time() >= rebalance_at:
                await self._rebalance(connection)
                rebalance_at = loop.time() + REBALANCE_SECONDS
            self._woken.clear()
            if not await self._relay_batch(connection, channel):
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._woken.wait(), POLL_SECONDS)
            if connection.is_closed() or channel.is_closed:
                raise ConnectionError("a server closed the connection")

    async def _relay_batch(self, connection: Any, channel: AbstractChannel) -> int:
        """Publish what waits, oldest first in each partition, and return how many left."""
        if not self._parts:
            return 0
        parts = sorted(self._parts)
        share = math.ceil(BATCH / len(parts))
        rows = await connection.fetch(self._sql(NEXT), parts, share)
        if not rows:
            return 0
        crashpoint("relay.fetched_not_published")
        confirmed, aside, lost = await self._publish(channel, rows)
        crashpoint("relay.published_not_marked")
        if confirmed:
            await connection.execute(self._sql(MARK_SENT), confirmed)
            PUBLISHED.labels(self._service).inc(len(confirmed))
            crashpoint("relay.marked")
        if aside:
            await self._set_aside(connection, aside)
        if lost is not None:
            raise lost
        return len(confirmed)

    async def _set_aside(self, connection: Any, aside: Sequence[tuple[UUID, str]]) -> None:
        """So that what the broker refuses for itself holds up nothing behind it."""
        ids, errors = [row_id for row_id, _ in aside], [error for _, error in aside]
        REFUSED.labels(self._service).inc(len(aside))
        log.error("The broker refused events", number=len(ids), first=str(ids[0]), error=errors[0])
        await connection.execute(self._sql(SET_ASIDE), ids, errors)

    async def _publish(
        self, channel: AbstractChannel, rows: Sequence[Any]
    ) -> tuple[list[UUID], list[tuple[UUID, str]], BaseException | None]:
        """Publish side by side, the events of one aggregate one after another.

        Returns what was confirmed, what was refused for itself, and what ended it early.
        """
        confirmed: list[UUID] = []
        aside: list[tuple[UUID, str]] = []
        loop = asyncio.get_running_loop()
        until = loop.time() + BATCH_SECONDS
        chains: defaultdict[UUID, list[Any]] = defaultdict(list)
        for row in rows:
            chains[row["aggregate_id"]].append(row)

        async def in_order(chain: Iterable[Any]) -> None:
            for row in chain:
                if loop.time() > until:
                    return
                try:
                    await publish(
                        channel,
                        row["exchange"],
                        row["routing_key"],
                        row["body"],
                        message_id=str(row["id"]),
                        headers=_headers(row),
                        confirm_seconds=self._confirm_seconds,
                    )
                except PublishError as error:  # returned: no queue for it
                    reason = getattr(error.frame, "reply_text", None) or "returned"
                    aside.append((row["id"], f"returned: {reason}"))
                except DeliveryError:
                    aside.append((row["id"], NACKED))
                else:
                    confirmed.append(row["id"])

        ended = await asyncio.gather(
            *(in_order(chain) for chain in chains.values()), return_exceptions=True
        )
        lost = next((error for error in ended if isinstance(error, BaseException)), None)
        return confirmed, aside, lost

    async def _rebalance(self, connection: Any) -> None:
        """Own a fair share of the partitions; give back only between batches."""
        live = max(1, await connection.fetchval(LIVE, self._locks % 2**32))
        fair = math.ceil(PARTS / live)
        for part in sorted(self._parts, reverse=True)[: max(0, len(self._parts) - fair)]:
            await connection.execute(
                "SELECT pg_advisory_unlock($1::int, $2)", self._locks, part + 1
            )
            self._parts.discard(part)
        for part in range(PARTS):
            if len(self._parts) >= fair:
                break
            if part not in self._parts and await connection.fetchval(
                "SELECT pg_try_advisory_lock($1::int, $2)", self._locks, part + 1
            ):
                self._parts.add(part)
        # A full queue is not the message's fault.
        await connection.execute(self._sql(TRY_AGAIN))

    def _sql(self, statement: str) -> str:
        return statement.format(schema=self._service)

    def _wake(self, *_: object) -> None:
        self._woken.set()


def _headers(row: Any) -> dict[str, Any] | None:
    headers: dict[str, Any] | None = orjson.loads(row["headers"]) if row["headers"] else None
    return headers
