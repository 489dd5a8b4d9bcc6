"""What the message path's tables need now and then: partitions, and a look at what waits."""

import asyncio
from typing import Any

from prometheus_client import Gauge
from sqlalchemy import text

from shared.messaging.partitions import keep_partitions
from shared.observability import logger
from shared.runtime import Runtime
from shared.tasks import end

log = logger(__name__)

PARTITION_SECONDS = 3600.0
PARTITION_RETRY_SECONDS = 60.0
LOOK_SECONDS = 5.0
#: An early event that waits longer than this has lost the one before it, or it is parked.
LONG_SECONDS = 300.0

WAITING = Gauge("outbox_unpublished", "Rows that wait to be published.", ["service"])
OLDEST = Gauge("outbox_oldest_unpublished_seconds", "Age of the oldest of them.", ["service"])
ASIDE = Gauge("outbox_set_aside", "Refused rows that are offered again later.", ["service"])
EARLY = Gauge("consumer_early_events", "Events that wait for an earlier one.", ["consumer"])
EARLY_OLDEST = Gauge(
    "consumer_early_oldest_seconds", "How long the oldest of them has waited.", ["consumer"]
)
PARKED = Gauge("dead_letters_parked", "Dead letters that wait for a person.", ["consumer"])
PARKED_OLDEST = Gauge("dead_letters_oldest_seconds", "Age of the oldest of them.", ["consumer"])

LOOK_WAITING = """
SELECT count(*), coalesce(extract(epoch FROM now() - min(created_at)), 0)::float
  FROM {schema}.outbox WHERE sent_at IS NULL AND refused_at IS NULL
"""
LOOK_ASIDE = "SELECT count(*) FROM {schema}.outbox WHERE refused_at IS NOT NULL"
LOOK_EARLY = """
SELECT consumer, count(*), extract(epoch FROM now() - min(received_at))::float
  FROM {schema}.early_events GROUP BY consumer
"""
LOOK_PARKED = """
SELECT consumer, count(*), extract(epoch FROM now() - min(first_failed_at))::float
  FROM {schema}.dead_letters WHERE status = 'parked' GROUP BY consumer
"""


class Upkeep:
    """Runs beside the relay until it is stopped. Trouble is logged and tried again."""

    def __init__(self, runtime: Runtime[Any, Any]) -> None:
        self._runtime = runtime
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        self._tasks = [
            asyncio.create_task(self._keep_partitions(), name="partitions"),
            asyncio.create_task(self._look(), name="message gauges"),
        ]

    async def stop(self) -> None:
        await end(self._tasks)

    async def _keep_partitions(self) -> None:
        while True:
            rest = PARTITION_SECONDS
            try:
                await keep_partitions(self._runtime)
            except Exception as error:  # noqa: BLE001  (the default partition takes the rows)
                log.warning("Partitions were not kept", error=str(error))
                rest = PARTITION_RETRY_SECONDS
            await asyncio.sleep(rest)

    async def _look(self) -> None:
        while True:
            try:
                await self.look()
            except Exception as error:  # noqa: BLE001  (the next look tells as much)
                log.info("What waits could not be looked at", error=type(error).__name__)
            await asyncio.sleep(LOOK_SECONDS)

    async def look(self) -> None:
        """Set the gauges of what waits. Only the database is asked: the broker may be away."""
        schema = self._runtime.database.platform.schema
        async with self._runtime.begin() as uow:
            waiting = (await uow.session.execute(text(LOOK_WAITING.format(schema=schema)))).one()
            aside = await uow.session.scalar(text(LOOK_ASIDE.format(schema=schema)))
            early = (await uow.session.execute(text(LOOK_EARLY.format(schema=schema)))).all()
            parked = (await uow.session.execute(text(LOOK_PARKED.format(schema=schema)))).all()
        WAITING.labels(schema).set(waiting[0])
        OLDEST.labels(schema).set(waiting[1])
        ASIDE.labels(schema).set(aside or 0)
        for gauges, rows in (((EARLY, EARLY_OLDEST), early), ((PARKED, PARKED_OLDEST), parked)):
            for gauge in gauges:
                gauge.clear()
            for consumer, number, age in rows:
                gauges[0].labels(consumer).set(number)
                gauges[1].labels(consumer).set(age)
        for consumer, number, age in early:
            if age > LONG_SECONDS:
                log.warning(
                    "Events have waited long for an earlier one",
                    consumer=consumer,
                    number=number,
                    seconds=round(age),
                )
