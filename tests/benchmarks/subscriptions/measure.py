"""Renewals, entitlement checks and usage per second, each beside the plainest way to do as much.

`python -m tests.benchmarks.subscriptions.measure` (servers by TEST_*_URL) prints the figures and
writes `tests/benchmarks/results/subscriptions.json`. `--due 100000` renews that many,
`--only checks` measures a part. What is compared runs in the same run on the same database.
"""

import argparse
import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from decimal import Decimal
from multiprocessing import get_context
from typing import Any
from uuid import UUID

import asyncpg
import httpx
import uvloop
from fastapi import FastAPI
from pydantic import BaseModel

from services.subscriptions.domain.account import Account
from services.subscriptions.domain.catalog import Feature, FeatureType, Grant, Meter
from services.subscriptions.domain.charges import Item
from services.subscriptions.domain.period import IntervalUnit
from services.subscriptions.domain.plan import Plan, PlanStatus
from services.subscriptions.domain.price import Aggregation, Price, PriceType
from services.subscriptions.domain.subscription import Subscription
from services.subscriptions.main import service
from services.subscriptions.schedule import advance_due_subscriptions
from services.subscriptions.use_cases.bill import bill
from services.subscriptions.use_cases.record_usage import Report, record_usage
from shared import migrations
from shared.clock import utc_now
from shared.ids import new_id
from shared.observability import configure_logging
from shared.schedule import Due
from tests.benchmarks.report import keep
from tests.databases import fresh_database
from tests.harness import Deployment
from tests.servers import Servers, servers
from tests.tokens import TokenIssuer

USAGE_BATCH = 1000
CHECKS = 3000
AT_ONCE = 10
ROUNDS = 3
PARTS = ("renewals", "changes", "usage", "checks")


@asynccontextmanager
async def deployed(where: Servers) -> AsyncIterator[Deployment]:
    """The service migrated into a database of its own; test clocks are off, as in production."""
    async with fresh_database(where.postgres_admin_url) as database:
        made = Deployment(
            {"subscriptions": database.url("subscriptions")}, where.rabbitmq_url, where.redis_url
        )
        url = made.database_urls["subscriptions"]
        await asyncio.to_thread(migrations.upgrade, "subscriptions", url)
        yield made


async def catalog(runtime: Any) -> tuple[UUID, UUID, Meter]:
    """An account with one flat and one metered subscription; returns what tests refer to."""
    now = utc_now()
    account_id = new_id()
    async with runtime.begin() as uow:
        plan = Plan(
            id=new_id(),
            code="bench",
            name="Bench",
            features=(Grant("calls", 10**9),),
            status=PlanStatus.PUBLISHED,
            created_at=now,
        )
        meter = Meter(id=new_id(), code="calls", name="Calls", created_at=now)
        uow.session.add_all([plan, meter])
        uow.session.add(Account(id=account_id, country="DE", time_zone="Europe/Berlin"))
        await uow.session.flush()
        feature = Feature(
            id=new_id(),
            code="calls",
            name="Calls",
            type=FeatureType.METERED,
            meter_id=meter.id,
            created_at=now,
        )
        flat = Price(
            id=new_id(),
            plan_id=plan.id,
            currency="EUR",
            type=PriceType.FLAT,
            interval_unit=IntervalUnit.MONTH,
            unit_amount=Decimal(1000),
            created_at=now,
        )
        metered = Price(
            id=new_id(),
            plan_id=plan.id,
            currency="EUR",
            type=PriceType.METERED,
            interval_unit=IntervalUnit.MONTH,
            unit_amount=Decimal(1),
            meter_id=meter.id,
            aggregation=Aggregation.SUM,
            created_at=now,
        )
        uow.session.add_all([feature, flat, metered])
        await uow.session.flush()
        ids = []
        for price, start in ((flat, now - timedelta(days=30)), (metered, now)):
            items = (Item(id=new_id(), price_id=price.id),)
            subscription, events = Subscription.start(
                id=new_id(),
                account_id=account_id,
                items=items,
                terms=await uow.catalog.terms(plan.id, [price.id], time_zone="Europe/Berlin"),
                time_zone="Europe/Berlin",
                at=start,
                now=now,
                imported=True,
            )
            uow.subscriptions.add(subscription)
            await bill(uow, events)
            ids.append(subscription.id)
    return account_id, ids[0], meter


async def make_due(url: str, template: UUID, count: int) -> None:
    """`count` copies of a subscription whose month has just ended."""
    connection = await asyncpg.connect(url)
    columns = [
        row["attname"]
        for row in await connection.fetch(
            "SELECT attname FROM pg_attribute WHERE attnum > 0 AND NOT attisdropped"
            " AND attrelid = 'subscriptions.subscriptions'::regclass"
        )
    ]
    end = utc_now().replace(microsecond=0) - timedelta(minutes=1)
    start = end - timedelta(days=30)
    fixed = {
        "id": "gen_random_uuid()",
        "account_id": "gen_random_uuid()",
        "anchor": "$2",
        "period_start": "$2",
        "basis_start": "$2",
        "period_end": "$3",
        "due_at": "$3",
        "period_index": "1",
    }
    picked = ", ".join(fixed.get(column, column) for column in columns)
    await connection.execute(
        f"INSERT INTO subscriptions.subscriptions ({', '.join(columns)})"  # noqa: S608
        f" SELECT {picked} FROM subscriptions.subscriptions, generate_series(1, {count})"
        " WHERE id = $1",
        template,
        start,
        end,
    )
    await connection.execute("TRUNCATE subscriptions.outbox")
    await connection.execute("ANALYZE subscriptions.subscriptions")
    await connection.close()


def renew_in_process(deployment: Deployment) -> tuple[int, float]:
    """One worker's schedule, in a process of its own, until nothing is due; and its CPU time."""
    configure_logging("subscriptions", "benchmark", "ERROR")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(renew(deployment))


async def renew(deployment: Deployment) -> tuple[int, float]:
    done = 0
    async with service.open(deployment.settings(service, test_clocks=False)) as runtime:
        due = Due(utc_now(), runtime.database.platform)
        started = time.process_time()
        while some := await advance_due_subscriptions(runtime, due):
            done += some
        return done, time.process_time() - started


async def renewals_per_second(
    deployment: Deployment, template: UUID, count: int, workers: int
) -> tuple[float, float]:
    """And the workers' own milliseconds of CPU per renewal, whatever else the machine does."""
    url = deployment.database_urls["subscriptions"]
    await make_due(url, template, count)
    loop = asyncio.get_running_loop()
    with get_context("spawn").Pool(workers) as pool:
        pool.map(abs, range(workers))  # processes are up before the watch starts
        started = time.perf_counter()
        jobs = [(deployment,)] * workers
        done = await loop.run_in_executor(None, lambda: pool.starmap(renew_in_process, jobs))
        seconds = time.perf_counter() - started
    renewed, spent = (sum(figures) for figures in zip(*done, strict=True))
    if renewed != count:
        raise RuntimeError(f"{renewed} of {count} were renewed")
    return count / seconds, 1000 * spent / count


async def plain_inserts_per_second(url: str, batch: int) -> float:
    """The rows that renewals wrote, copied row by row into tables of the same shape."""
    connection = await asyncpg.connect(url)
    await connection.execute(
        "CREATE TABLE plain_outbox AS SELECT * FROM subscriptions.outbox WHERE false;"
        "CREATE TABLE plain_periods AS SELECT * FROM subscriptions.billed_periods WHERE false;"
        "ALTER TABLE plain_outbox ADD PRIMARY KEY (id);"
        "ALTER TABLE plain_periods ADD PRIMARY KEY (subscription_id, reason, period_start)"
    )
    outbox = await connection.fetch("SELECT * FROM subscriptions.outbox LIMIT 20000")
    periods = await connection.fetch(
        "SELECT * FROM subscriptions.billed_periods WHERE event_id = ANY($1)",
        [row["id"] for row in outbox],
    )

    async def store(table: str, rows: list[Any]) -> None:
        holes = ", ".join(f"${n + 1}" for n in range(len(rows[0])))
        await connection.executemany(
            f"INSERT INTO {table} VALUES ({holes})",  # noqa: S608
            [tuple(row) for row in rows],
        )

    started = time.perf_counter()
    for at in range(0, len(outbox), batch):
        async with connection.transaction():
            await store("plain_outbox", outbox[at : at + batch])
            await store("plain_periods", periods[at : at + batch])
    seconds = time.perf_counter() - started
    await connection.execute("DROP TABLE plain_outbox, plain_periods")
    await connection.close()
    return len(outbox) / seconds


async def usage_per_second(
    runtime: Any, account_id: UUID, meter: Meter, count: int
) -> tuple[float, float]:
    """And this process's microseconds of CPU per event."""
    batches = [
        [
            Report(id=f"{n}", meter=meter.code, value=Decimal(n % 7))
            for n in range(at, at + USAGE_BATCH)
        ]
        for at in range(0, count, USAGE_BATCH)
    ]
    metered = [await _metered(runtime, account_id)]
    batches = [
        [Report(**{**vars(report), "subscription_id": metered[0]}) for report in batch]
        for batch in batches
    ]
    started, spent = time.perf_counter(), time.process_time()
    for batch in batches:
        async with runtime.begin() as uow:
            outcomes = await record_usage(uow, account_id, batch, now=utc_now())
        if any(outcome.row is None or outcome.duplicate for outcome in outcomes):
            raise RuntimeError("an event was not counted")
    microseconds = 1_000_000 * (time.process_time() - spent) / count
    return count / (time.perf_counter() - started), microseconds


async def _metered(runtime: Any, account_id: UUID) -> UUID:
    async with runtime.begin() as uow:
        held = await uow.subscriptions.served(account_id)
    found: UUID = held[-1].id
    return found


async def copies_per_second(url: str) -> float:
    connection = await asyncpg.connect(url)
    rows = await connection.fetch("SELECT * FROM subscriptions.usage_events")
    await connection.execute(
        "CREATE TABLE plain_usage (LIKE subscriptions.usage_events INCLUDING ALL)"
    )
    records = [tuple(row) for row in rows]
    started = time.perf_counter()
    for at in range(0, len(records), USAGE_BATCH):
        await connection.copy_records_to_table(
            "plain_usage", records=records[at : at + USAGE_BATCH]
        )
    seconds = time.perf_counter() - started
    await connection.execute("DROP TABLE plain_usage")
    await connection.close()
    return len(records) / seconds


class Empty(BaseModel):
    ok: bool = True


def asking(app: FastAPI, path: str, headers: dict[str, str]) -> Callable[[], Awaitable[None]]:
    """One request of the application, as a server would make it; no client's work is counted."""
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": [(name.lower().encode(), value.encode()) for name, value in headers.items()],
        "client": ("127.0.0.1", 1),
        "server": ("bench", 80),
    }

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def once() -> None:
        statuses = []

        async def send(message: Any) -> None:
            if message["type"] == "http.response.start":
                statuses.append(message["status"])

        await app({**scope, "state": {}}, receive, send)
        if statuses != [200]:
            raise RuntimeError(f"{path} answered {statuses}")

    return once


async def asked_per_second(once: Callable[[], Awaitable[None]], count: int) -> float:
    """`AT_ONCE` callers, each asking again when it is answered."""

    async def caller() -> None:
        for _ in range(count // AT_ONCE):
            await once()

    await once()
    started = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(AT_ONCE)))
    return (count // AT_ONCE) * AT_ONCE / (time.perf_counter() - started)


async def checks_per_second(runtime: Any, issuer: TokenIssuer, account_id: UUID) -> dict[str, Any]:
    """Entitlement checks through the whole application, beside an endpoint that does nothing."""
    app: FastAPI = service.create_api(runtime)

    @app.get("/empty")
    async def empty() -> Empty:
        return Empty()

    app.router.routes.insert(0, app.router.routes.pop())  # found at once

    headers = issuer.of_account(account_id)
    check = asking(app, "/v1/entitlements/calls", headers)
    nothing = asking(app, "/empty", headers)
    # In turn, so that both see the same machine.
    rounds = [
        (await asked_per_second(check, CHECKS), await asked_per_second(nothing, CHECKS))
        for _ in range(ROUNDS)
    ]
    checks, empties = (sorted(rates)[ROUNDS // 2] for rates in zip(*rounds, strict=True))
    return {"checks": checks, "empty": empties}


async def changes_per_second(
    runtime: Any, deployment: Deployment, issuer: TokenIssuer, template: UUID, count: int
) -> tuple[float, float]:
    """Upgrades through the whole application, two for each of `count` subscriptions.

    And this process's milliseconds of CPU per upgrade; its client's share is small.
    """
    async with runtime.begin() as uow:
        flat = await uow.session.get(Subscription, template)
        prices = [
            Price(
                id=new_id(),
                plan_id=flat.plan_id,
                currency="EUR",
                type=PriceType.FLAT,
                interval_unit=IntervalUnit.MONTH,
                unit_amount=Decimal(amount),
                created_at=utc_now(),
            )
            for amount in (2000, 3000)
        ]
        uow.session.add_all(prices)
    copies = await copy_running(deployment.database_urls["subscriptions"], template, count)
    app: FastAPI = service.create_api(runtime)
    transport = httpx.ASGITransport(app, raise_app_exceptions=True)
    headers = issuer.of_staff("admin")
    room = asyncio.Semaphore(AT_ONCE)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:

        async def upgrade(subscription_id: UUID) -> None:
            async with room:
                for price in prices:
                    answer = await http.post(
                        f"/v1/subscriptions/{subscription_id}/change",
                        headers={**headers, "Idempotency-Key": str(new_id())},
                        json={"price_id": str(price.id), "proration": "prorate_now"},
                    )
                    answer.raise_for_status()

        started, spent = time.perf_counter(), time.process_time()
        async with asyncio.TaskGroup() as group:
            for subscription_id in copies:
                group.create_task(upgrade(subscription_id))
        milliseconds = 1000 * (time.process_time() - spent) / (2 * count)
        return 2 * count / (time.perf_counter() - started), milliseconds


async def copy_running(url: str, template: UUID, count: int) -> list[UUID]:
    """`count` copies of a subscription, each of an account of its own, in mid-month."""
    connection = await asyncpg.connect(url)
    columns = [
        row["attname"]
        for row in await connection.fetch(
            "SELECT attname FROM pg_attribute WHERE attnum > 0 AND NOT attisdropped"
            " AND attrelid = 'subscriptions.subscriptions'::regclass"
        )
    ]
    fixed = {
        "id": "gen_random_uuid()",
        "account_id": "gen_random_uuid()",
        "period_start": "date_trunc('second', now()) - interval '15 days'",
        "basis_start": "date_trunc('second', now()) - interval '15 days'",
        "period_end": "date_trunc('second', now()) + interval '15 days'",
        "due_at": "date_trunc('second', now()) + interval '15 days'",
    }
    picked = ", ".join(fixed.get(column, column) for column in columns)
    rows = await connection.fetch(
        f"INSERT INTO subscriptions.subscriptions ({', '.join(columns)})"  # noqa: S608
        f" SELECT {picked} FROM subscriptions.subscriptions, generate_series(1, {count})"
        " WHERE id = $1 RETURNING id",
        template,
    )
    await connection.close()
    return [row["id"] for row in rows]


async def measure(due: int, usage: int, parts: set[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    with servers(durable=True) as where:
        async with deployed(where) as deployment:
            settings = deployment.settings(service, test_clocks=False)
            url = deployment.database_urls["subscriptions"]
            async with service.open(settings) as runtime:
                account_id, template, meter = await catalog(runtime)
                if "renewals" in parts:
                    one, cpu = await renewals_per_second(deployment, template, due, 1)
                    plain = await plain_inserts_per_second(url, settings.renewal_batch)
                    two, _ = await renewals_per_second(deployment, template, due, 2)
                    found |= {
                        "due_subscriptions": due,
                        "renewals_per_second_one_worker": round(one),
                        "worker_cpu_ms_per_renewal": round(cpu, 4),
                        "renewals_per_second_two_workers": round(two),
                        "plain_inserts_of_the_same_rows_per_second": round(plain),
                        "renewals_to_plain_inserts": round(one / plain, 3),
                        "two_workers_to_plain_inserts": round(two / plain, 3),
                        "two_workers_to_one": round(two / one, 2),
                    }
                if "changes" in parts:
                    issuer = TokenIssuer()
                    runtime.verifier = issuer.verifier(settings)
                    count = max(due // 20, 1)
                    changed, cpu = await changes_per_second(
                        runtime, deployment, issuer, template, count
                    )
                    found |= {
                        "changed_subscriptions": count,
                        "changes_per_second": round(changed),
                        "cpu_ms_per_change": round(cpu, 3),
                    }
                if "usage" in parts:
                    counted, cpu = await usage_per_second(runtime, account_id, meter, usage)
                    copied = await copies_per_second(url)
                    found |= {
                        "usage_events": usage,
                        "usage_events_per_batch": USAGE_BATCH,
                        "usage_events_per_second": round(counted),
                        "cpu_us_per_usage_event": round(cpu, 1),
                        "copied_rows_per_second": round(copied),
                        "usage_to_copy": round(counted / copied, 3),
                    }
                if "checks" in parts:
                    issuer = TokenIssuer()
                    runtime.verifier = issuer.verifier(settings)
                    asked = await checks_per_second(runtime, issuer, account_id)
                    found |= {
                        "entitlement_checks_per_second": round(asked["checks"]),
                        "empty_endpoint_per_second": round(asked["empty"]),
                        "checks_to_empty": round(asked["checks"] / asked["empty"], 3),
                    }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.subscriptions.measure")
    parser.add_argument("--due", type=int, default=20_000)
    parser.add_argument("--usage", type=int, default=50_000)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    known = parser.parse_args()
    configure_logging("subscriptions", "benchmark", "ERROR")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        found = runner.run(measure(known.due, known.usage, set(known.only)))
    keep("subscriptions", found, command="python -m tests.benchmarks.subscriptions.measure")
    sys.stdout.write(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
