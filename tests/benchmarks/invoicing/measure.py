"""How fast invoices are finalized from a backlog, beside plain inserts of the same rows; and PDFs.

`python -m tests.benchmarks.invoicing.measure --events 50000` (servers by TEST_*_URL, or private
ones) prints a table and writes `tests/benchmarks/results/invoicing.json`.
"""

import argparse
import asyncio
import copy
import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import aio_pika
import asyncpg

from services.invoicing.documents.paper import paper_of_invoice
from services.invoicing.documents.pool import RenderPool
from services.invoicing.documents.rendering import render
from services.invoicing.domain.totals import Bundle
from services.invoicing.main import service
from shared import migrations
from shared.context import Cause, new_traceparent
from shared.ids import new_id
from shared.messaging import envelope
from shared.messaging.topology import declare
from tests.benchmarks.report import keep
from tests.databases import fresh_database
from tests.harness import Deployment
from tests.invoicing.factories import a_charge, a_started
from tests.invoicing.test_einvoice import a_paper, an_invoice, issue
from tests.servers import Servers, servers

TABLES = (
    "invoices", "invoice_lines", "documents", "outbox", "inbox", "cursors",
)  # fmt: skip
ACCOUNTS = 500
BATCH = 100
DOCUMENTS = 200


@asynccontextmanager
async def deployed(running: Servers) -> AsyncIterator[tuple[Deployment, str]]:
    """Invoicing, migrated and declared, and its database's address."""
    async with fresh_database(running.postgres_admin_url) as database:
        url = database.url("invoicing")
        made = Deployment({"invoicing": url}, running.rabbitmq_url, running.redis_url)
        await asyncio.to_thread(migrations.upgrade, "invoicing", url)
        settings = made.settings(service, test_clocks=False)
        await declare("invoicing", service.consumers, settings)
        async with service.open(settings) as runtime:
            if service.after_migrate is not None:
                await service.after_migrate(runtime)
        yield made, url


async def publish_backlog(deployment: Deployment, accounts: Sequence[UUID], events: int) -> None:
    """So many subscriptions that start, each with two charges."""
    cause = Cause("benchmark", new_traceparent())
    connection = await aio_pika.connect(deployment.broker_url)
    async with connection:
        channel = await connection.channel(publisher_confirms=True)
        exchange = await channel.get_exchange("billing.events", ensure=False)
        for start in range(0, events, 500):
            await asyncio.gather(
                *[
                    exchange.publish(
                        aio_pika.Message(
                            envelope.write(
                                a_started(
                                    accounts[number % len(accounts)],
                                    charges=(a_charge(1000), a_charge(500, kind="addon")),
                                ),
                                cause,
                            ),
                            delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
                        ),
                        routing_key="subscription.started",
                    )
                    for number in range(start, min(start + 500, events))
                ]
            )


async def finalized_per_second(
    running: Servers, events: int, workers: int
) -> tuple[float, float, float]:
    """Invoices per second by so many worker processes, and by plain inserts of their rows.

    The third is the workers' own milliseconds of CPU per invoice, whatever else the machine does.
    """
    async with deployed(running) as (deployment, url):
        connection = await asyncpg.connect(url)
        accounts = [new_id() for _ in range(ACCOUNTS)]
        await connection.executemany(
            "INSERT INTO accounts (account_id, country, time_zone, sequence, address, language,"
            " version) VALUES ($1, 'DE', 'UTC', 1, '{}', 'en', 1)",
            [(account,) for account in accounts],
        )
        await publish_backlog(deployment, accounts, events)
        processes = [start_worker(deployment, url) for _ in range(workers)]
        try:
            ours, cpu = await watch(connection, events, processes)
        finally:
            for process in processes:
                process.terminate()
                process.wait()
        by_hand = await plain_inserts(running, connection, events)
        await connection.close()
    return ours, by_hand, cpu


def start_worker(deployment: Deployment, url: str) -> subprocess.Popen[bytes]:
    environment = {
        **os.environ,
        "PERENNIAL_DATABASE_URL": url,
        "PERENNIAL_BROKER_URL": deployment.broker_url,
        "PERENNIAL_REDIS_URL": deployment.redis_url,
        "PERENNIAL_RUN_RELAY": "0",
        "PERENNIAL_RUN_SCHEDULE": "0",
        "PERENNIAL_LOG_LEVEL": "ERROR",
    }
    return subprocess.Popen([sys.executable, "-m", "services.invoicing", "worker"], env=environment)


async def watch(
    connection: asyncpg.Connection, events: int, processes: Sequence[subprocess.Popen[bytes]]
) -> tuple[float, float]:
    """Invoices per second from the first batch to the last: processes start, queues do not."""
    counted = "SELECT count(*) FROM invoices WHERE number IS NOT NULL"
    while not (first := await connection.fetchval(counted)):  # noqa: ASYNC110  (rows tell)
        await asyncio.sleep(0.05)
    started, spent = time.perf_counter(), cpu_seconds(processes)
    while await connection.fetchval(counted) < events:  # noqa: ASYNC110
        await asyncio.sleep(0.25)
    done = events - first
    milliseconds = 1000 * (cpu_seconds(processes) - spent) / done
    return float(done / (time.perf_counter() - started)), float(milliseconds)


def cpu_seconds(processes: Sequence[subprocess.Popen[bytes]]) -> float:
    """What these processes have spent so far, by /proc."""
    ticks = 0
    for process in processes:
        fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return float(ticks / os.sysconf("SC_CLK_TCK"))


async def plain_inserts(running: Servers, source: asyncpg.Connection, events: int) -> float:
    """The same rows by hand: prepared inserts, a hundred invoices per transaction."""
    async with fresh_database(running.postgres_admin_url) as database:
        url = database.url("invoicing")
        await asyncio.to_thread(migrations.upgrade, "invoicing", url)
        target = await asyncpg.connect(url)
        # Only what the inserts themselves cost: the parents are there before.
        for parent in ("legal_entities", "accounts"):
            await copy_rows(source, target, parent)
        rows = {table: await read_rows(source, table) for table in TABLES}
        seconds = 0.0
        for start in range(0, events, BATCH):
            before = time.perf_counter()
            async with target.transaction():
                for table, (names, found) in rows.items():
                    each = max(1, len(found) // events)
                    part = found[start * each : (start + BATCH) * each]
                    await target.executemany(insert_into(table, names), part)
            seconds += time.perf_counter() - before
        await target.close()
    return events / seconds


async def read_rows(
    connection: asyncpg.Connection, table: str
) -> tuple[list[str], list[tuple[Any, ...]]]:
    names = [
        row["attname"]
        for row in await connection.fetch(
            "SELECT attname FROM pg_attribute WHERE attrelid = $1::regclass AND attnum > 0"
            " AND NOT attisdropped AND attidentity = ''",
            table,
        )
    ]
    columns = ", ".join(f'"{name}"' for name in names)
    order = {"invoice_lines": "invoice_id, position", "inbox": "event_id"}
    order_by = order.get(table, "aggregate_id" if table == "cursors" else names[0])
    found = await connection.fetch(f"SELECT {columns} FROM {table} ORDER BY {order_by}")  # noqa: S608
    return names, [tuple(row) for row in found]


def insert_into(table: str, names: Sequence[str]) -> str:
    columns = ", ".join(f'"{name}"' for name in names)
    values = ", ".join(f"${n}" for n in range(1, len(names) + 1))
    return f"INSERT INTO {table} ({columns}) VALUES ({values})"  # noqa: S608


async def copy_rows(source: asyncpg.Connection, target: asyncpg.Connection, table: str) -> None:
    names, found = await read_rows(source, table)
    await target.executemany(insert_into(table, names), found)


def documents_per_second(lines: int, count: int) -> dict[str, float]:
    """PDF with its e-invoice plus UBL, both valid by schema: by the clock, and by CPU time."""
    charges = tuple(a_charge(100 + n, description=f"Line {n}") for n in range(lines))
    paper = paper_of_invoice(issue(an_invoice([Bundle(charges)])))
    render(copy.deepcopy(paper), None)
    clock, cpu = time.perf_counter(), time.process_time()
    for number in range(count):
        render({**paper, "number": f"INV-{number}"}, None)
    return {
        "lines": lines,
        "per_second": round(count / (time.perf_counter() - clock), 1),
        "per_second_of_one_core": round(count / (time.process_time() - cpu), 1),
    }


async def pooled_per_second(size: int, count: int) -> dict[str, float]:
    """The same through the rendering processes of a worker, once they have started."""
    pool, paper = RenderPool(size), a_paper()
    try:
        await asyncio.gather(*[pool.render(paper) for _ in range(size)])
        clock = time.perf_counter()
        await asyncio.gather(
            *[pool.render({**paper, "number": f"INV-{number}"}) for number in range(count)]
        )
        return {"processes": size, "per_second": round(count / (time.perf_counter() - clock), 1)}
    finally:
        pool.close()


async def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, and write the results down beside those of earlier runs."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.invoicing.measure")
    parser.add_argument("--events", type=int, default=5_000)
    parser.add_argument(
        "--only",
        choices=("1", "2", "documents"),
        help="one worker, two workers, or documents; all of them when it is not given",
    )
    options = parser.parse_args(arguments)
    found: dict[str, Any] = {}
    counts = [workers for workers in (1, 2) if options.only in (None, str(workers))]
    if counts:
        with servers(durable=True) as running:
            for workers in counts:
                ours, by_hand, cpu = await finalized_per_second(running, options.events, workers)
                found[f"{workers} worker{'s' * (workers > 1)}"] = {
                    "events": options.events,
                    "finalized_per_second": round(ours),
                    "plain_inserts_per_second": round(by_hand),
                    "ratio": round(ours / by_hand, 2),
                    "worker_cpu_ms_per_invoice": round(cpu, 2),
                }
    if options.only in (None, "documents"):
        found["documents of one page"] = documents_per_second(2, DOCUMENTS)
        found["documents of many pages"] = documents_per_second(300, DOCUMENTS // 20)
        found["documents in a pool"] = await pooled_per_second(os.cpu_count() or 1, DOCUMENTS)
    keep("invoicing", found, command="python -m tests.benchmarks.invoicing.measure --events 50000")
    sys.stdout.write(json.dumps(found, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(asyncio.run(main()))
