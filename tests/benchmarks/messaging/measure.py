"""How fast the message path is, beside the same work done by hand, in one run.

`python -m tests.benchmarks.messaging.measure` (`make bench`) prints what it finds, and writes it
to `tests/benchmarks/results/messaging.json` and `docs/performance-messaging.md`. A and B take
turns, three times, and medians count.
"""

import argparse
import asyncio
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

import aio_pika
import asyncpg
import orjson
import uvloop

from infra.postgres.provision import with_database
from shared.clock import utc_now
from shared.context import Cause, new_traceparent
from shared.db import UnitOfWork
from shared.ids import new_id
from shared.messaging import envelope
from shared.messaging.relay import Relay
from shared.messaging.worker import MessageWorker
from tests.messaging.events import ThingChanged, a_change, a_notice
from tests.messaging.probe import DELAYS_MS, Probe, eventually, probing
from tests.servers import servers

ROOT = Path(__file__).parents[3]
RESULTS = ROOT / "tests" / "benchmarks" / "results" / "messaging.json"
PAGE = ROOT / "docs" / "performance-messaging.md"
REPEATS = 3
IN_FLIGHT = 500
BATCH = 100
#: Makes a body of about 500 bytes.
PADDING = 40


@dataclass
class Line:
    """One row of the table: events per second, ours and by hand."""

    what: str
    goal: float | None
    ours: list[float] = field(default_factory=list)
    by_hand: list[float] = field(default_factory=list)

    @property
    def ratio(self) -> float:
        return statistics.median(self.ours) / statistics.median(self.by_hand)


def bodies(number: int) -> list[tuple[ThingChanged, bytes]]:
    cause = Cause("0" * (32 + PADDING), new_traceparent())
    made = [a_change(number=index) for index in range(number)]
    return [(event, envelope.write(event, cause)) for event in made]


async def fill_outbox(probe: Probe, made: Sequence[tuple[ThingChanged, bytes]]) -> None:
    connection = await asyncpg.connect(probe.settings.database_url.get_secret_value())
    await connection.execute(f"TRUNCATE {probe.name}.outbox")
    await connection.copy_records_to_table(
        "outbox",
        schema_name=probe.name,
        columns=[
            "id", "part", "exchange", "routing_key", "aggregate_id", "account_id", "sequence",
            "body",
        ],
        records=[
            (
                event.id,
                envelope.part_of(event.thing_id),
                envelope.EVENTS_EXCHANGE,
                event.name,
                event.thing_id,
                event.account_id,
                event.sequence,
                body,
            )
            for event, body in made
        ],
    )  # fmt: skip
    await connection.execute(f"ANALYZE {probe.name}.outbox")
    await connection.close()


async def publish_by_hand(probe: Probe, made: Sequence[tuple[ThingChanged, bytes]]) -> None:
    """aio-pika, confirms pipelined: as fast as it gets without a database."""
    connection = await aio_pika.connect(probe.settings.broker_url.get_secret_value())
    channel = await connection.channel(on_return_raises=True)
    exchange = await channel.get_exchange("billing.events", ensure=False)
    for start in range(0, len(made), IN_FLIGHT):
        await asyncio.gather(
            *(
                exchange.publish(
                    aio_pika.Message(body, delivery_mode=aio_pika.DeliveryMode.PERSISTENT),
                    event.name,
                    timeout=10,
                )
                for event, body in made[start : start + IN_FLIGHT]
            )
        )
    await connection.close()


async def relay(probe: Probe, number: int) -> float:
    settings = probe.settings
    relaying = Relay(
        probe.name,
        settings.database_url.get_secret_value(),
        settings.broker_url.get_secret_value(),
    )
    await fill_outbox(probe, bodies(number))
    connection = await asyncpg.connect(settings.database_url.get_secret_value())
    waiting = f"SELECT count(*) FROM {probe.name}.outbox WHERE sent_at IS NULL"  # noqa: S608
    started = time.perf_counter()
    relaying.start()
    while await connection.fetchval(waiting):  # noqa: ASYNC110  (the database knows)
        await asyncio.sleep(0.02)
    took = time.perf_counter() - started
    await relaying.stop(5)
    await connection.close()
    return number / took


async def publish(probe: Probe, number: int) -> float:
    made = bodies(number)
    started = time.perf_counter()
    await publish_by_hand(probe, made)
    return number / (time.perf_counter() - started)


async def purge(probe: Probe) -> None:
    for queue in probe.queues:
        found = await probe.channel.get_queue(queue)
        await found.purge()


async def clear(probe: Probe) -> None:
    await purge(probe)
    connection = await asyncpg.connect(probe.settings.database_url.get_secret_value())
    for table in ("outbox", "inbox", "effects", "clock_activity"):
        await connection.execute(f"TRUNCATE {probe.name}.{table}")
    await connection.close()


async def consume(probe: Probe, number: int, batch: int) -> float:
    """The handler of `hot_probe` through the message path."""
    await clear(probe)
    await publish_by_hand(probe, bodies(number))
    worker = MessageWorker(
        probe.name,
        probe.consumers,
        probe.runtime,
        DELAYS_MS,
        batch,
    )
    connection = await asyncpg.connect(probe.settings.database_url.get_secret_value())
    started = time.perf_counter()
    await worker.start()
    await until_effects(connection, probe, number)
    took = time.perf_counter() - started
    await worker.stop(5)
    await connection.close()
    return number / took


async def until_effects(connection: Any, probe: Probe, number: int) -> None:
    done = f"SELECT count(*) FROM {probe.name}.effects"  # noqa: S608
    while await connection.fetchval(done) < number:  # noqa: ASYNC110  (the database knows)
        await asyncio.sleep(0.02)


async def consume_by_hand(probe: Probe, number: int, batch: int) -> float:
    """The same statements and the same body to send on, written for this one purpose."""
    await clear(probe)
    await publish_by_hand(probe, bodies(number))
    queue_name = f"{probe.name}.note"
    database = await asyncpg.connect(probe.settings.database_url.get_secret_value())
    broker = await aio_pika.connect(probe.settings.broker_url.get_secret_value())
    channel = await broker.channel()
    await channel.set_qos(prefetch_count=2 * BATCH)
    queue = await channel.get_queue(queue_name)
    arrived: asyncio.Queue[Any] = asyncio.Queue()
    done = 0
    started = time.perf_counter()
    await queue.consume(arrived.put)
    while done < number:
        messages = [await arrived.get()]
        while len(messages) < batch and not arrived.empty():
            messages.append(arrived.get_nowait())
        await handle_by_hand(database, probe.name, queue_name, messages)
        await messages[-1].ack(multiple=True)
        done += len(messages)
    took = time.perf_counter() - started
    await broker.close()
    await database.close()
    return number / took


async def handle_by_hand(
    database: Any, schema: str, queue_name: str, messages: Sequence[Any]
) -> None:
    read = {UUID(found["id"]): found for found in (orjson.loads(one.body) for one in messages)}
    async with database.transaction():
        claimed = await database.fetch(
            f"INSERT INTO {schema}.inbox (consumer, event_id, processed_at)"  # noqa: S608
            " SELECT $1, id, now() FROM unnest($2::uuid[]) AS id"
            " ON CONFLICT DO NOTHING RETURNING event_id",
            queue_name,
            list(read),
        )
        mine = [read[row[0]] for row in claimed]
        things = [UUID(one["subject"]) for one in mine]
        await database.execute(
            f"INSERT INTO {schema}.effects (event_id, thing_id, sequence, note)"  # noqa: S608
            " SELECT *, '' FROM unnest($1::uuid[], $2::uuid[], $3::int[])",
            [row[0] for row in claimed],
            things,
            [one["sequence"] for one in mine],
        )
        ids = [new_id() for _ in mine]
        await database.execute(
            f"INSERT INTO {schema}.outbox (id, part, exchange, routing_key, aggregate_id,"  # noqa: S608
            " account_id, sequence, body)"
            " SELECT id, 1, 'billing.events', 'notice.taken', id, account, 1, body"
            " FROM unnest($1::uuid[], $2::uuid[], $3::bytea[]) AS new(id, account, body)",
            ids,
            [UUID(one["accountid"]) for one in mine],
            [
                orjson.dumps(
                    {
                        **one,
                        "id": ident,
                        "type": "notice.taken",
                        "subject": ident,
                        "sequence": 1,
                        "causationid": one["id"],
                        "data": {"thing_id": ident, "number": one["data"]["number"]},
                    }
                )
                for ident, one in zip(ids, mine, strict=True)
            ],
        )


def add_hot_handler(probe: Probe) -> None:
    insert = (
        f"INSERT INTO {probe.name}.effects (event_id, thing_id, sequence, note)"  # noqa: S608
        " SELECT *, '' FROM unnest($1::uuid[], $2::uuid[], $3::int[])"
    )

    @probe.consumers.handler(on=[ThingChanged], batch=True)
    async def note(uow: UnitOfWork, events: list[ThingChanged]) -> None:
        connection = await uow.session.connection()
        await connection.exec_driver_sql(
            insert,
            (
                [event.id for event in events],
                [event.thing_id for event in events],
                [event.sequence for event in events],
            ),
        )
        for event in events:
            uow.emit(a_notice(event))


async def latency(probe: Probe, seconds: float, rate: float) -> dict[str, float]:
    """Milliseconds from the commit of an event to the commit of its effect elsewhere."""
    await clear(probe)
    runtime = probe.runtime
    settings = runtime.settings.model_copy(update={"run_relay": True})
    runtime = type(runtime)(settings, runtime.database, runtime.redis, runtime.verifier)
    worker = MessageWorker(probe.name, probe.consumers, runtime, DELAYS_MS)
    await worker.start()
    connection = await asyncpg.connect(settings.database_url.get_secret_value())
    await connection.execute(
        f"ALTER TABLE {probe.name}.effects ADD IF NOT EXISTS at timestamptz"
        " DEFAULT clock_timestamp()"
    )
    committed: dict[UUID, float] = {}
    started = asyncio.get_running_loop().time()
    for number in range(int(seconds * rate)):
        await asyncio.sleep(max(0, started + number / rate - asyncio.get_running_loop().time()))
        event = a_change()
        async with probe.runtime.begin() as uow:
            uow.emit(event)
        committed[event.id] = utc_now().timestamp()
    seen: dict[UUID, float] = {}

    async def take_up() -> bool:
        rows = await connection.fetch(
            "SELECT event_id, extract(epoch FROM at)::float8"  # noqa: S608
            f" FROM {probe.name}.effects"
        )
        seen.update((row[0], row[1]) for row in rows)
        return len(seen) >= len(committed)

    await eventually(take_up)
    await worker.stop(5)
    await connection.close()
    gaps = sorted(1000 * (seen[key] - at) for key, at in committed.items())
    cut = statistics.quantiles(gaps, n=100)
    return {"p50": cut[49], "p90": cut[89], "p99": cut[98], "most": gaps[-1]}


async def drain(probe: Probe, number: int, workers: int) -> float:
    """A backlog, taken by so many worker processes' worth of consumers in this process."""
    await clear(probe)
    await publish_by_hand(probe, bodies(number))
    running = [
        MessageWorker(probe.name, probe.consumers, probe.runtime, DELAYS_MS) for _ in range(workers)
    ]
    connection = await asyncpg.connect(probe.settings.database_url.get_secret_value())
    started = time.perf_counter()
    for worker in running:
        await worker.start()
    await until_effects(connection, probe, number)
    took = time.perf_counter() - started
    for worker in running:
        await worker.stop(5)
    await connection.close()
    return number / took


async def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    with servers() as used:
        async with AsyncExitStack() as stack:
            admin = await asyncpg.connect(used.postgres_admin_url)
            name = f"perennial_bench_{os.getpid()}"
            await admin.execute(f"CREATE DATABASE {name}")
            stack.push_async_callback(admin.close)
            stack.push_async_callback(admin.execute, f"DROP DATABASE {name} WITH (FORCE)")
            probe = await stack.enter_async_context(
                probing(
                    with_database(used.postgres_admin_url, name),
                    used.rabbitmq_url,
                    used.redis_url,
                    test_clocks=False,
                    run_relay=False,
                )
            )
            add_hot_handler(probe)
            await probe.deploy()
            # Somebody hears what the handler reports, as in a real system.
            reported = await probe.channel.declare_queue(
                f"{probe.name}.reported",
                durable=True,
                arguments={"x-queue-type": "quorum"},
            )
            await reported.bind("billing.events", "notice.taken")
            probe.queues.append(reported.name)
            durable = await admin.fetchval(
                "SELECT current_setting('fsync') || '/' || current_setting('synchronous_commit')"
            )
            return {
                "machine": f"{os.cpu_count()} cores, {platform.python_implementation()} "
                f"{platform.python_version()}, fsync/synchronous_commit {durable}",
                "load": os.getloadavg(),
                **await measure_all(probe, arguments),
            }


async def measure_all(probe: Probe, arguments: argparse.Namespace) -> dict[str, Any]:
    number = arguments.events
    lines = {
        "relay": Line("relay of a full outbox / raw pipelined publish", 0.75),
        "batched": Line("hot handler in batches of 100 / the same SQL by hand", 0.5),
        "single": Line("one transaction per message / the same SQL by hand", 0.6),
    }
    pairs: dict[str, tuple[Callable[[], Awaitable[float]], Callable[[], Awaitable[float]]]] = {
        "relay": (lambda: relay(probe, number), lambda: publish(probe, number)),
        "batched": (
            lambda: consume(probe, number, BATCH),
            lambda: consume_by_hand(probe, number, BATCH),
        ),
        "single": (
            lambda: consume(probe, number // 10, 1),
            lambda: consume_by_hand(probe, number // 10, 1),
        ),
    }
    for key, (ours, by_hand) in pairs.items():
        if arguments.only and key not in arguments.only:
            continue
        for _ in range(arguments.repeats):
            await clear(probe)
            lines[key].ours.append(await ours())
            await clear(probe)
            lines[key].by_hand.append(await by_hand())
        say_line(lines[key])
    found: dict[str, Any] = {
        key: {
            "what": line.what,
            "goal": line.goal,
            "ours": [round(rate) for rate in line.ours],
            "by_hand": [round(rate) for rate in line.by_hand],
            "ratio": round(line.ratio, 2),
        }
        for key, line in lines.items()
        if line.ours
    }
    if not arguments.only or "latency" in arguments.only:
        found["latency"] = await latency(probe, arguments.seconds, 100)
        say(f"commit to effect at 100/s, ms: {rounded(found['latency'])}")
    if not arguments.only or "drain" in arguments.only:
        for workers in (1, 2):
            found[f"drain_{workers}"] = round(await drain(probe, number * 5, workers))
            say(f"backlog of {number * 5} by {workers}: {found[f'drain_{workers}']}/s")
    return found


def page(found: dict[str, Any]) -> str:
    """The results for people."""
    pairs = [found[key] for key in ("relay", "batched", "single")]
    table = [
        f"| {one['what']} | {statistics.median(one['ours']):,.0f} |"
        f" {statistics.median(one['by_hand']):,.0f} | {one['ratio']} | ≥ {one['goal']} |"
        for one in pairs
    ]
    late = rounded(found["latency"])
    names = ", ".join(f'"{key}"' for key in ("relay", "batched", "single"))
    ratios = ", ".join(str(one["ratio"]) for one in pairs)
    goals = ", ".join(str(one["goal"]) for one in pairs)
    return f"""<!-- Generated by `make bench`; edits are lost. -->

# How fast the message path is

Measured beside the same work done by hand, in one run on one machine
({found["machine"]}; load average at the start {found["load"][0]:.1f}), as durable as production:
quorum queues, persistent messages, publisher confirms, acknowledgement after the commit. A and B
took turns; medians of {len(pairs[0]["ours"])}. Rates are this machine's, ratios travel.

| events per second | ours | by hand | ratio | goal |
|---|---|---|---|---|
{chr(10).join(table)}

```mermaid
xychart-beta
    title "Share of what the same work done by hand reaches (line: the goal)"
    x-axis [{names}]
    y-axis "ratio" 0 --> 1.2
    bar [{ratios}]
    line [{goals}]
```

From an event's commit to the commit of its effect in the consumer, at 100 events a second, in
milliseconds: p50 {late["p50"]}, p90 {late["p90"]}, p99 {late["p99"]} (goals: p50 < 6, p99 < 20).

A backlog in the queue of the hot handler is drained at {found["drain_1"]:,} events a second by one
worker, and at {found["drain_2"]:,} by two that share one process.

What is measured: `tests/benchmarks/messaging/measure.py`. By hand means: aio-pika and asyncpg used
directly, with the same statements, for this one purpose, without retries, dead letters, Redis,
metrics or typed events.
"""


def say_line(line: Line) -> None:
    ours, by_hand = statistics.median(line.ours), statistics.median(line.by_hand)
    say(f"{line.what}: {ours:,.0f}/s / {by_hand:,.0f}/s = {line.ratio:.2f} (goal {line.goal})")


def rounded(values: dict[str, float]) -> dict[str, float]:
    return {key: round(value, 2) for key, value in values.items()}


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=20_000)
    parser.add_argument("--repeats", type=int, default=REPEATS)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--only", nargs="*")
    arguments = parser.parse_args()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        found = runner.run(measure(arguments))
    if not arguments.only:
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps(found, indent=1) + "\n")
        PAGE.write_text(page(found))


if __name__ == "__main__":
    main()
