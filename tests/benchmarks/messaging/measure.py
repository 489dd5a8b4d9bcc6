"""How fast the message path is, beside the same work done by hand, in one run.

`python -m tests.benchmarks.messaging.measure` (`make bench`) prints what it finds and keeps it in
`tests/benchmarks/results/messaging.json` and docs/performance.md. A and B take turns, three times,
and medians count. `--only relay drain` measures some and keeps the other figures as they were.
"""

import argparse
import asyncio
import json
import os
import statistics
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

import aio_pika
import asyncpg
import orjson
import uvloop

from infra.postgres.provision import with_database
from shared.clock import utc_now
from shared.context import Cause, new_traceparent
from shared.ids import new_id
from shared.messaging import envelope
from shared.messaging.commands import COMMANDS
from shared.messaging.inbox import CLAIM
from shared.messaging.outbox import STORE
from shared.messaging.partitions import begin_partitions
from shared.messaging.relay import Relay
from shared.messaging.worker import MessageWorker
from shared.observability import configure_logging
from tests.benchmarks import report
from tests.benchmarks.messaging import peer
from tests.benchmarks.messaging.hot import add_hot_handler
from tests.benchmarks.report import ROOT, comparison
from tests.messaging.events import ThingChanged, a_change
from tests.messaging.probe import DELAYS_MS, Probe, eventually, probing
from tests.servers import servers

REPEATS = 3
IN_FLIGHT = 500
BATCH = 100
#: Makes a body of about 500 bytes.
PADDING = 40


class Measurement(NamedTuple):
    """Something measured several times, and what is measured in turn with it."""

    what: str
    once: Callable[[], Awaitable[float]]
    beside_what: str
    beside: Callable[[], Awaitable[float]]
    goal: float


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
    await fill_outbox(probe, bodies(number))
    relaying = relay_of(probe)
    connection = await asyncpg.connect(probe.settings.database_url.get_secret_value())
    started = time.perf_counter()
    relaying.start()
    while await connection.fetchval(waiting(probe)):  # noqa: ASYNC110  (the database knows)
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
        claimed = await database.fetch(CLAIM.format(schema=schema), queue_name, list(read))
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
            STORE.format(schema=schema),
            ids,
            [envelope.part_of(ident) for ident in ids],
            [envelope.EVENTS_EXCHANGE] * len(ids),
            ["notice.taken"] * len(ids),
            ids,
            [UUID(one["accountid"]) for one in mine],
            [1] * len(ids),
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
            [None] * len(ids),
        )


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
    """A backlog, taken by so many worker processes; from the first effect to the last."""
    await clear(probe)
    await publish_by_hand(probe, bodies(number))
    settings = probe.settings
    urls = (settings.database_url, settings.broker_url, settings.redis_url)
    connection = await asyncpg.connect(settings.database_url.get_secret_value())
    running = [
        await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "tests.benchmarks.messaging.hot",
            probe.name,
            *(url.get_secret_value() for url in urls),
            cwd=ROOT,
        )
        for _ in range(workers)
    ]
    try:
        # Processes start; the queue does not.
        await until_effects(connection, probe, 1)
        first = await connection.fetchval(f"SELECT count(*) FROM {probe.name}.effects")  # noqa: S608
        started = time.perf_counter()
        await until_effects(connection, probe, number)
        took = time.perf_counter() - started
    finally:
        for process in running:
            process.terminate()
        await asyncio.gather(*(process.wait() for process in running))
        await connection.close()
    return (number - int(first)) / took


async def replay(probe: Probe, number: int) -> float:
    """The command, from its start until the broker has confirmed every event again."""
    await fill_outbox(probe, bodies(number))
    settings = probe.settings
    connection = await asyncpg.connect(settings.database_url.get_secret_value())
    await connection.execute(f"UPDATE {probe.name}.outbox SET sent_at = now()")  # noqa: S608
    await connection.execute(f"VACUUM ANALYZE {probe.name}.outbox")
    relaying = relay_of(probe)
    since = (utc_now() - timedelta(hours=1)).isoformat()
    started = time.perf_counter()
    relaying.start()
    await COMMANDS["replay"](probe.runtime, ["--since", since, "--yes"])
    while await connection.fetchval(waiting(probe)):  # noqa: ASYNC110  (the database knows)
        await asyncio.sleep(0.05)
    took = time.perf_counter() - started
    await relaying.stop(5)
    await connection.close()
    await purge(probe)
    return number / took


def relay_of(probe: Probe) -> Relay:
    settings = probe.settings
    return Relay(
        probe.name,
        settings.database_url.get_secret_value(),
        settings.broker_url.get_secret_value(),
    )


def waiting(probe: Probe) -> str:
    return f"SELECT count(*) FROM {probe.name}.outbox WHERE sent_at IS NULL"  # noqa: S608


async def relay_of_faststream_outbox(
    probe: Probe, python: Path, number: int, settings: dict[str, Any]
) -> float:
    address = probe.settings.database_url.get_secret_value()
    return await asyncio.to_thread(
        peer.relay,
        python,
        settings=settings,
        database_url=address.replace("postgresql://", "postgresql+asyncpg://"),
        broker_url=probe.settings.broker_url.get_secret_value(),
        exchange=envelope.EVENTS_EXCHANGE,
        routing_key=ThingChanged.name,
        bodies=[body.decode() for _, body in bodies(number)],
    )


async def best_of_faststream_outbox(probe: Probe, python: Path, number: int) -> dict[str, Any]:
    """The settings with which it is fastest here and now."""
    rates = []
    for settings in peer.TRIED:
        await clear(probe)
        rates.append(await relay_of_faststream_outbox(probe, python, number, settings))
    return peer.TRIED[rates.index(max(rates))]


@asynccontextmanager
async def a_hot_probe() -> AsyncIterator[Probe]:
    """A probe with the hot handler, on servers as durable as in production."""
    async with AsyncExitStack() as stack:
        used = stack.enter_context(servers(durable=True))
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
        for setting in ("fsync", "synchronous_commit"):
            if await admin.fetchval(f"SHOW {setting}") != "on":
                raise RuntimeError(f"these servers are not durable: {setting} is off")
        await begin_partitions(probe.runtime)
        add_hot_handler(probe.consumers)
        await probe.deploy()
        # Somebody hears what the handler reports, as in a real system.
        reported = await probe.channel.declare_queue(
            f"{probe.name}.reported",
            durable=True,
            arguments={"x-queue-type": "quorum"},
        )
        await reported.bind("billing.events", "notice.taken")
        probe.queues.append(reported.name)
        yield probe


def measurements(probe: Probe, number: int) -> dict[str, Measurement]:
    return {
        "relay": Measurement(
            f"relay of {number:,} waiting events",
            lambda: relay(probe, number),
            "raw pipelined publish",
            lambda: publish(probe, number),
            0.75,
        ),
        "batched": Measurement(
            "hot handler, micro-batched",
            lambda: consume(probe, number, BATCH),
            "by hand, batches of 100",
            lambda: consume_by_hand(probe, number, BATCH),
            0.5,
        ),
        "single": Measurement(
            "hot handler, a transaction per message",
            lambda: consume(probe, number // 10, 1),
            "by hand, per message",
            lambda: consume_by_hand(probe, number // 10, 1),
            0.6,
        ),
    }


async def beside_faststream_outbox(probe: Probe, python: Path, number: int) -> Measurement:
    """It as fast as it gets: with the best of some settings, all tried before."""
    best = await best_of_faststream_outbox(probe, python, number // 4)
    said = ", ".join(str(best[name]) for name in list(best)[:3])
    return Measurement(
        f"relay of {number:,} waiting events",
        lambda: relay(probe, number),
        f"faststream-outbox 0.18 (workers, fetched, flushed: {said})",
        lambda: relay_of_faststream_outbox(probe, python, number, best),
        3,
    )


async def measure(arguments: argparse.Namespace) -> None:
    async with a_hot_probe() as probe:
        wanted = {
            key: one
            for key, one in measurements(probe, arguments.events).items()
            if not arguments.only or key in arguments.only
        }
        key = "relay_to_faststream_outbox"
        if (not arguments.only or key in arguments.only) and (python := peer.environment()):
            wanted[key] = await beside_faststream_outbox(probe, python, arguments.events)
        for key, one in wanted.items():
            ours, beside = [], []
            for _ in range(arguments.repeats):
                await clear(probe)
                ours.append(await one.once())
                await clear(probe)
                beside.append(await one.beside())
            keep(
                key,
                comparison(one.what, ours, beside, beside_what=one.beside_what, goal=one.goal),
            )
        if not arguments.only or "latency" in arguments.only:
            runs = [await latency(probe, arguments.seconds, 100) for _ in range(arguments.repeats)]
            values = {
                name: round(statistics.median(run[name] for run in runs), 2) for name in runs[0]
            }
            figure = {
                "what": "commit → committed effect in the consumer, 100 events/s",
                "values": values,
                "unit": "ms",
                "goal": "p50 < 6, p99 < 20",
            }
            keep("latency", figure)
        backlog = 5 * arguments.events
        reported: dict[str, tuple[str, Callable[[], Awaitable[float]]]] = {
            "replay": (f"replay of {backlog:,} events", lambda: replay(probe, backlog)),
            "drain_1": (
                f"backlog of {backlog:,} drained by 1 worker",
                lambda: drain(probe, backlog, 1),
            ),
            "drain_2": (
                f"backlog of {backlog:,} drained by 2 workers",
                lambda: drain(probe, backlog, 2),
            ),
        }
        for key, (what, once) in reported.items():
            if arguments.only and key not in arguments.only:
                continue
            rates = [round(await once()) for _ in range(arguments.repeats)]
            keep(key, {"what": what, "ours": rates, "unit": "events/s"})


def keep(key: str, figure: dict[str, Any]) -> None:
    sys.stdout.write(f"{key}: {json.dumps(figure, ensure_ascii=False)}\n")
    sys.stdout.flush()
    report.keep("messaging", {key: figure}, command="python -m tests.benchmarks.messaging.measure")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=20_000)
    parser.add_argument("--repeats", type=int, default=REPEATS)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--only", nargs="*")
    configure_logging("messaging", "benchmark", "WARNING")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(measure(parser.parse_args()))


if __name__ == "__main__":
    main()
