"""Killed (SIGKILL) at each step of a charge, over every sandbox fault: one charge, true books."""

import asyncio
import os
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from uuid import UUID

import pytest

from services.payments import schedule
from services.payments.domain.payments import PaymentStatus
from services.payments.use_cases.audit_books import audit_books
from shared.clock import utc_now
from shared.events.invoicing import InvoiceFinalized
from shared.ids import new_id
from tests.databases import fresh_database
from tests.harness import Deployment
from tests.payments.conftest import found_by, migrated
from tests.payments.servers import Sandbox, sandbox_process
from tests.payments.world import World
from tests.servers import Servers
from tests.tokens import TokenIssuer

POINTS = (
    "payments.before_claim_commits",
    "payments.claimed",
    "payments.before_call",
    "payments.after_call",
    "payments.before_settling_commits",
    "payments.settled",
    "payments.looked_up",
    "payments.before_sending_again",
    "payments.before_reconciling",
    "during_the_call",
)
FAULTS = (
    "tok_ok",
    "tok_timeout_after",
    "tok_timeout_before",
    "tok_duplicate_webhook",
    "tok_late_webhook",
    "tok_fails_then_ok:1",
    "tok_insufficient_funds",
    "tok_declined",
    "tok_expired_card",
    "tok_fraud",
    "tok_requires_action",
)
PAID = {*FAULTS[:5]}


class Crasher:
    """The process that forks one run per line (tests/payments/crash_child.py)."""

    def __init__(self, deployment: Deployment, sandbox: Sandbox) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.payments.crash_child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={
                **os.environ,
                "PERENNIAL_DATABASE_URL": deployment.database_urls["payments"],
                "PERENNIAL_BROKER_URL": deployment.broker_url,
                "PERENNIAL_REDIS_URL": deployment.redis_url,
                **found_by(sandbox),
            },
        )

    async def run(self, point: str) -> str:
        return await asyncio.to_thread(self._run, point)

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(20)
        self._process.stdout.close()

    def _run(self, point: str) -> str:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{point}\n")
        self._process.stdin.flush()
        return self._process.stdout.readline().strip()


@asynccontextmanager
async def crashing(
    servers: Servers, issuer: TokenIssuer, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[World, Crasher]]:
    with sandbox_process(folder, hang_seconds=1.0, webhook_url="") as sandbox:
        for name, value in found_by(sandbox).items():
            monkeypatch.setenv(name, value)
        async with fresh_database(servers.postgres_admin_url) as database:
            deployment = await migrated(database, servers)
            crasher = Crasher(deployment, sandbox)
            try:
                async with World.open(deployment, sandbox, issuer) as world:
                    yield world, crasher
            finally:
                crasher.close()


async def recovered(world: World, invoices: dict[UUID, tuple[str, InvoiceFinalized]]) -> None:
    """All is calm again: every invoice was charged once, or rightly not at all."""
    await world.collect()
    await world.reconcile()
    await world.collect()
    await world.reconcile()
    charged = Counter(
        UUID(charge["metadata"]["invoice_id"])
        for charge in world.sandbox.charges()
        if charge["captured"]
    )
    for invoice_id, (token, invoice) in invoices.items():
        payment = await world.payment(invoice)
        paid = payment.status is PaymentStatus.SUCCEEDED
        assert charged[invoice_id] == int(paid), (token, payment.status, charged[invoice_id])
        assert not paid or token in PAID | {"tok_fails_then_ok:1"}
        assert paid or token not in PAID
        assert payment.status not in (PaymentStatus.PROCESSING, PaymentStatus.UNKNOWN)
        if paid:
            await world.invoice_paid(invoice)
    later = utc_now() + timedelta(hours=1)
    audit = await audit_books(world.runtime.begin, ["sandbox"], now=later)
    assert audit.differences == []
    async with world.runtime.begin() as uow:
        assert not await schedule._is_busy(uow, world.account_id)


async def kill_over_and_over(world: World, crasher: Crasher, runs: list[tuple[str, str]]) -> int:
    """One new invoice per run, one kill per run; returns how many kills struck."""
    invoices: dict[UUID, tuple[str, InvoiceFinalized]] = {}
    struck = 0
    for point, token in runs:
        world.account_id = new_id()
        await world.attach(token)
        invoice = await world.finalize()
        invoices[invoice.invoice_id] = (token, invoice)
        ended = await crasher.run(point)
        assert ended in {"killed", "ended 0"}, (point, token, ended)
        struck += ended == "killed"
    await recovered(world, invoices)
    return struck


async def test_killed_at_each_step_an_invoice_is_charged_once(
    servers: Servers, issuer: TokenIssuer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The time-out before the charge comes by every step, that of sending again included.
    runs = [(point, "tok_timeout_before") for point in POINTS] + [(POINTS[3], "tok_ok")]
    async with crashing(servers, issuer, tmp_path, monkeypatch) as (world, crasher):
        assert await kill_over_and_over(world, crasher, runs) == len(runs)


@pytest.mark.chaos
@pytest.mark.timeout(3600)
async def test_five_hundred_kills_over_every_fault(
    servers: Servers, issuer: TokenIssuer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = [(point, token) for _ in range(5) for point in POINTS for token in FAULTS]
    async with crashing(servers, issuer, tmp_path, monkeypatch) as (world, crasher):
        struck = await kill_over_and_over(world, crasher, runs)
    sys.stdout.write(f"{len(runs)} runs, {struck} kills\n")
