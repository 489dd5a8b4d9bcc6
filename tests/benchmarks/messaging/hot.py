"""The hot handler that is measured, and a worker process of nothing else.

`python -m tests.benchmarks.messaging.hot <schema> <database> <broker> <redis>` works until SIGTERM.
"""

import asyncio
import signal
import sys

import uvloop

from shared.db import UnitOfWork
from shared.messaging.consumers import Consumers
from shared.messaging.worker import MessageWorker
from tests.messaging.events import ThingChanged, a_notice
from tests.messaging.probe import DELAYS_MS, open_runtime, settings_of


def add_hot_handler(consumers: Consumers) -> None:
    """A row per event, and an event of its own for each."""
    insert = (
        f"INSERT INTO {consumers.service}.effects (event_id, thing_id, sequence, note)"  # noqa: S608
        " SELECT *, '' FROM unnest($1::uuid[], $2::uuid[], $3::int[])"
    )

    @consumers.handler(on=[ThingChanged], batch=True)
    async def note(uow: UnitOfWork, events: list[ThingChanged]) -> None:
        await uow.fetch(
            insert,
            [event.id for event in events],
            [event.thing_id for event in events],
            [event.sequence for event in events],
        )
        for event in events:
            uow.emit(a_notice(event))


async def main(schema: str, database_url: str, broker_url: str, redis_url: str) -> None:
    settings = settings_of(database_url, broker_url, redis_url, test_clocks=False, run_relay=False)
    runtime = open_runtime(schema, settings)
    consumers = Consumers(schema)
    add_hot_handler(consumers)
    worker = MessageWorker(schema, consumers, runtime, DELAYS_MS)
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    await worker.start()
    await stopping.wait()
    await worker.stop(5)
    await runtime.redis.aclose()
    await runtime.database.close()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main(*sys.argv[1:]))
