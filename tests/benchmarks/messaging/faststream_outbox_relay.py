"""`faststream-outbox` relaying a full table to RabbitMQ: a program for an environment of its own.

Imports nothing of Perennial, and is started by `measure.py` with what it needs as JSON on standard
input: `database_url`, `broker_url`, `exchange`, `routing_key`, `bodies`, and `settings` of the
subscriber. It prints the rate, in events per second, from the start until its table is empty.
"""

import asyncio
import json
import sys
import time
from typing import Any

import uvloop
from faststream import AckPolicy
from faststream.rabbit import Channel, RabbitBroker, RabbitExchange
from faststream_outbox import OutboxBroker, make_outbox_table
from sqlalchemy import MetaData, func, insert, select
from sqlalchemy.ext.asyncio import create_async_engine


async def main(given: dict[str, Any]) -> float:
    engine = create_async_engine(
        given["database_url"], pool_size=given["settings"]["max_workers"] + 5
    )
    metadata = MetaData()
    table = make_outbox_table(metadata, table_name="peer_outbox")
    async with engine.begin() as connection:
        await connection.run_sync(metadata.drop_all)
        await connection.run_sync(metadata.create_all)
        rows = [{"queue": "relayed", "payload": body.encode()} for body in given["bodies"]]
        for start in range(0, len(rows), 1000):
            await connection.execute(insert(table), rows[start : start + 1000])
    rabbit = RabbitBroker(
        given["broker_url"],
        logger=None,
        default_channel=Channel(publisher_confirms=True, on_return_raises=True),
    )
    outbox = OutboxBroker(engine, outbox_table=table, logger=None)
    exchange = RabbitExchange(given["exchange"], declare=False)

    async def relay(body: bytes) -> None:
        await rabbit.publish(
            body,
            exchange=exchange,
            routing_key=given["routing_key"],
            mandatory=True,
            persist=True,
            timeout=10,
        )

    async def as_it_is(message: Any) -> bytes:
        """Nothing is decoded on the way: that is the fastest."""
        body: bytes = message.body
        return body

    outbox.subscriber(
        "relayed", ack_policy=AckPolicy.NACK_ON_ERROR, decoder=as_it_is, **given["settings"]
    )(relay)
    await rabbit.connect()
    started = time.perf_counter()
    await outbox.start()
    async with engine.connect() as watching:
        await watching.execution_options(isolation_level="AUTOCOMMIT")
        while await watching.scalar(select(func.count()).select_from(table)):  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    took = time.perf_counter() - started
    await outbox.stop()
    await rabbit.stop()
    async with engine.begin() as connection:
        await connection.run_sync(metadata.drop_all)
    await engine.dispose()
    return len(rows) / took


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        rate = runner.run(main(json.load(sys.stdin)))
    sys.stdout.write(f"{rate}\n")
