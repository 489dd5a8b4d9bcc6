"""A worker as a process of its own, which a test kills at a named place.

`python -m tests.messaging.crashing <schema> <database> <broker> <redis>` works until SIGTERM.
"""

import asyncio
import signal
import sys

from shared.db import UnitOfWork
from shared.errors import Conflict
from shared.messaging.consumers import Consumers
from shared.messaging.worker import MessageWorker
from tests.messaging.events import ThingChanged
from tests.messaging.probe import DELAYS_MS, open_runtime, settings_of, take_effect


def add_handlers(consumers: Consumers) -> None:
    """One that fails at first, one that refuses, and one that needs order."""

    @consumers.handler(on=[ThingChanged])
    async def stumble(uow: UnitOfWork, event: ThingChanged) -> None:
        await take_effect(uow, event, "stumble")
        inbox = uow.platform.table("inbox")
        found = await uow.session.execute(
            inbox.select().where(
                inbox.c.consumer == f"{consumers.service}.stumble", inbox.c.event_id == event.id
            )
        )
        if event.number == 5 and found.one().attempts == 0:
            raise ValueError("not at the first try")

    @consumers.handler(on=[ThingChanged])
    async def refuse(uow: UnitOfWork, event: ThingChanged) -> None:
        if event.number == 6:
            raise Conflict("not the sixth")
        await take_effect(uow, event, "refuse")

    @consumers.handler(on=[ThingChanged], ordered="thing")
    async def follow(uow: UnitOfWork, event: ThingChanged) -> None:
        await take_effect(uow, event, "follow")


async def main(schema: str, database_url: str, broker_url: str, redis_url: str) -> None:
    runtime = open_runtime(schema, settings_of(database_url, broker_url, redis_url))
    consumers = Consumers(schema)
    add_handlers(consumers)
    worker = MessageWorker(schema, consumers, runtime, DELAYS_MS)
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    await worker.start()
    await stopping.wait()
    await worker.stop(5)
    await runtime.redis.aclose()
    await runtime.database.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
