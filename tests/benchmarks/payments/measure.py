"""How fast a backlog of payments is collected, beside plain inserts of the same rows.

`python -m tests.benchmarks.payments.measure` (servers by TEST_*_URL) prints a table and writes
`tests/benchmarks/results/payments.json`. The two take turns, three times, and medians count. The
provider answers inside the process: at once, or after 200 ms, so that only our part is measured.
"""

import argparse
import asyncio
import json
import statistics
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any
from uuid import UUID

import asyncpg
import httpx
import uvloop
from sqlalchemy import select

from services.payments import schedule
from services.payments.domain.payments import Payment
from services.payments.main import service
from services.payments.providers import use
from services.payments.providers.base import Charged, ChargeOutcome, ChargeRequest
from services.payments.providers.sandbox import SandboxProvider, SandboxProviderSettings
from services.payments.sandbox.webhooks import SIGNATURE_HEADER, sign
from services.payments.tables import payments
from shared.clock import utc_now
from shared.context import current_cause
from shared.ids import new_id
from shared.observability import configure_logging
from shared.schedule import Due
from tests.benchmarks.report import keep
from tests.databases import fresh_database
from tests.harness import Deployment
from tests.payments.conftest import migrated
from tests.servers import servers

REPEATS = 3
SLOW_SECONDS = 0.2
WEBHOOKS, WARM = 600, 100
SANDBOX_SECRET = SandboxProviderSettings.model_fields["webhook_secret"].default


class Instant(SandboxProvider):
    """A provider that says yes, after a wait, and keeps no books."""

    def __init__(self, seconds: float) -> None:
        super().__init__(SandboxProviderSettings(calls_per_second=1e9))
        self._seconds = seconds

    async def charge(self, request: ChargeRequest) -> ChargeOutcome:
        if self._seconds:
            await asyncio.sleep(self._seconds)
        return Charged(reference=f"ch_{request.key}", amount=request.amount, fee=30)


METHOD = """
INSERT INTO payments.payment_methods
  (id, account_id, provider, reference, created_at, is_default, version)
VALUES ($1, $2, 'sandbox', $3, $4, true, 1)
"""
PAYMENT = """
INSERT INTO payments.payments
  (id, account_id, invoice_id, amount, currency, billing_reason, payment_method_id, dunning_days,
   dunning_then, created_at, cause, status, due_at, is_urgent, attempts, retries,
   cancel_requested, refunded, version)
VALUES ($1, $2, $3, 1999, 'EUR', 'subscription_cycle', $4, '{1,3}', 'cancel', $5, $6, 'created',
        $5, false, 0, 0, false, 0, 1)
"""


async def backlog(url: str, count: int) -> None:
    """So many due payments of as many accounts, each with a method."""
    now = utc_now()
    accounts = [(new_id(), new_id(), new_id(), new_id()) for _ in range(count)]
    connection = await asyncpg.connect(url)
    await connection.executemany(METHOD, [(m, a, f"pm_{m}", now) for a, m, _, _ in accounts])
    cause = json.dumps(current_cause().kept())
    await connection.executemany(PAYMENT, [(p, a, i, m, now, cause) for a, m, p, i in accounts])
    await connection.execute("ANALYZE payments.payments; ANALYZE payments.payment_methods")
    await connection.close()


async def collected(deployment: Deployment, count: int, seconds: float, slots: int) -> float:
    """Payments per second, from a backlog of `count`, by one worker."""
    await backlog(deployment.database_urls["payments"], count)
    settings = deployment.settings(
        service, charges_in_flight=slots, database_pool_size=10, test_clocks=False
    )
    async with service.open(settings) as runtime:
        use(Instant(seconds))
        due = Due(utc_now(), runtime.database.platform)
        started = time.perf_counter()
        while await schedule.collect_due(runtime, due):
            pass
        await schedule.collector_of(runtime).drain()
        return count / (time.perf_counter() - started)


PLAIN = """
WITH a AS (
  INSERT INTO payments.attempts
    (id, account_id, payment_id, invoice_id, number, provider, payment_method_id, amount,
     currency, at, started_at, deadline, status, asked, cancel_requested, fee, settled_at,
     reference)
  SELECT $1, account_id, id, invoice_id, 1, 'sandbox', payment_method_id, amount,
     currency, $2, $2, $2, 'succeeded', 0, false, 30, $2, 'ch'
  FROM payments.payments WHERE id = $3 RETURNING account_id, amount),
t AS (
  INSERT INTO payments.ledger_transactions
    (id, account_id, kind, reference, occurred_at, recorded_at)
  SELECT $4, account_id, 'charge', $1::text, $2, $2 FROM a RETURNING id),
e AS (
  INSERT INTO payments.ledger_entries
    (id, transaction_id, ledger_account, amount, currency, occurred_at)
  SELECT * FROM (VALUES
    ($5::uuid, $4::uuid, 'provider:sandbox', 1969, 'EUR', $2),
    ($6, $4, 'fees', 30, 'EUR', $2),
    ($7, $4, 'clearing', -1999, 'EUR', $2)) AS v
  RETURNING id),
o AS (
  INSERT INTO payments.outbox
    (id, part, exchange, routing_key, aggregate_id, account_id, sequence, body)
  SELECT $8, 0, 'billing.events', 'payment.succeeded', $3, account_id, 2, $9
  FROM a RETURNING id)
UPDATE payments.payments SET status = 'succeeded', succeeded_at = $2, provider = 'sandbox',
  attempts = 1, due_at = NULL, version = 2 WHERE id = $3
"""


async def inserted(deployment: Deployment, count: int) -> float:
    """The same rows written by hand: one statement and one commit each, ten side by side."""
    url = deployment.database_urls["payments"]
    await backlog(url, count)
    body = b"x" * 700
    pool = await asyncpg.create_pool(url, min_size=10, max_size=10)
    ids: list[UUID] = [
        row["id"]
        for row in await pool.fetch("SELECT id FROM payments.payments WHERE status = 'created'")
    ]
    queue = iter(ids)

    async def write() -> None:
        async with pool.acquire() as connection:
            for payment_id in queue:
                now = utc_now()
                six = [new_id() for _ in range(6)]
                await connection.execute(
                    PLAIN, six[0], now, payment_id, six[1], six[2], six[3], six[4], six[5], body
                )

    started = time.perf_counter()
    await asyncio.gather(*(write() for _ in range(10)))
    seconds = time.perf_counter() - started
    await pool.close()
    return len(ids) / seconds


async def waiting_customer(deployment: Deployment) -> float:
    """Milliseconds until an urgent payment is claimed behind a month-start run at 200 ms."""
    await backlog(deployment.database_urls["payments"], 400)
    settings = deployment.settings(service, charges_in_flight=64, test_clocks=False)
    async with service.open(settings) as runtime:
        use(Instant(SLOW_SECONDS))
        stopping = False

        async def work() -> None:
            while not stopping:
                if not await schedule.collect_due(runtime, _due(runtime)):
                    await asyncio.sleep(0.01)

        working = asyncio.create_task(work())
        await asyncio.sleep(0.4)
        await backlog(deployment.database_urls["payments"], 1)
        async with runtime.begin() as uow:
            statement = select(Payment).order_by(payments.c.id.desc()).limit(1)
            newest = (await uow.session.scalars(statement)).one()
            newest.is_urgent = True
        started = time.perf_counter()
        while not await _paid(runtime, newest.id):  # noqa: ASYNC110  (what is measured)
            await asyncio.sleep(0.01)
        milliseconds = (time.perf_counter() - started) * 1000
        stopping = True
        await working
        return milliseconds


async def webhooks(deployment: Deployment) -> dict[str, float]:
    """Milliseconds to answer one webhook, true ones (stored) and forged ones (refused)."""
    found: dict[str, float] = {}
    async with service.open(deployment.settings(service, test_clocks=False)) as runtime:
        transport = httpx.ASGITransport(service.create_api(runtime))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
            for kind, secret in (("true", SANDBOX_SECRET), ("forged", "whsec_guess")):
                took = []
                for number in range(WEBHOOKS):
                    event = {"id": f"evt_{kind}_{number}", "type": "charge.succeeded"}
                    body = json.dumps(event | {"data": {"id": "ch", "key": str(new_id())}}).encode()
                    stamp = sign(body, secret=secret, timestamp=int(time.time()))
                    started = time.perf_counter()
                    answer = await http.post(
                        "/v1/webhooks/sandbox", content=body, headers={SIGNATURE_HEADER: stamp}
                    )
                    took.append((time.perf_counter() - started) * 1000)
                    assert answer.status_code == (200 if kind == "true" else 400), answer.text
                cuts = statistics.quantiles(took[WARM:], n=100)
                found[f"{kind}_webhook_p50_ms"] = cuts[49]
                found[f"{kind}_webhook_p99_ms"] = cuts[98]
    return found


def _due(runtime: Any) -> Due:
    now: datetime = utc_now()
    return Due(now, runtime.database.platform)


async def _paid(runtime: Any, payment_id: UUID) -> bool:
    async with runtime.begin() as uow:
        found = await uow.session.get(Payment, payment_id)
        return bool(found.succeeded_at)


@asynccontextmanager
async def deployed() -> AsyncIterator[Deployment]:
    with servers(durable=True) as given:
        async with fresh_database(given.postgres_admin_url) as database:
            yield await migrated(database, given)


async def measure(count: int) -> dict[str, Any]:
    ours: list[float] = []
    plain: list[float] = []
    slow: list[float] = []
    async with deployed() as deployment:
        await collected(deployment, 50, 0, 64)  # warm
        for _ in range(REPEATS):
            plain.append(await inserted(deployment, count))
            ours.append(await collected(deployment, count, 0, 64))
            slow.append(await collected(deployment, count // 2, SLOW_SECONDS, 200))
        waits = [await waiting_customer(deployment) for _ in range(REPEATS)]
        answered = await webhooks(deployment)
    return {
        "payments": count,
        "collected_per_second": statistics.median(ours),
        "plain_inserts_per_second": statistics.median(plain),
        "ratio": statistics.median(ours) / statistics.median(plain),
        "collected_per_second_at_200_ms": statistics.median(slow),
        "one_by_one_at_200_ms_would_be": 1 / SLOW_SECONDS,
        "urgent_payment_behind_a_run_at_200_ms_ms": statistics.median(waits),
        **answered,
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.payments.measure")
    parser.add_argument("--count", type=int, default=2000)
    configure_logging("payments", "benchmark", "ERROR")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        found = runner.run(measure(parser.parse_args().count))
    keep("payments", found, command="python -m tests.benchmarks.payments.measure")
    sys.stdout.write(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
