"""The audit: silent on a healthy system, and it names every difference by its class."""

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from services.payments import schedule
from services.payments.commands import audit as audit_command
from services.payments.use_cases.audit_books import Audit, audit_books
from shared.clock import utc_now
from shared.ids import new_id
from tests.databases import fresh_database
from tests.payments.conftest import migrated
from tests.payments.factories import an_invoice_voided
from tests.payments.servers import SECRET, sandbox_process
from tests.payments.world import World
from tests.servers import Servers
from tests.tokens import TokenIssuer

pytestmark = pytest.mark.servers


@pytest.fixture
async def alone(
    servers: Servers, issuer: TokenIssuer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[World]:
    """Books of its own: a sandbox and a database that nobody else writes in."""
    with sandbox_process(tmp_path) as sandbox:
        monkeypatch.setenv("PERENNIAL_SANDBOX_URL", sandbox.url)
        monkeypatch.setenv("PERENNIAL_SANDBOX_WEBHOOK_SECRET", SECRET)
        monkeypatch.setenv("PERENNIAL_SANDBOX_TIMEOUT_SECONDS", "1.5")
        async with fresh_database(servers.postgres_admin_url) as database:
            deployment = await migrated(database, servers)
            async with World.open(deployment, sandbox, issuer) as world:
                yield world


async def audited(world: World) -> Audit:
    later = utc_now() + timedelta(hours=1)
    return await audit_books(world.runtime.begin, ["sandbox"], now=later)


async def tamper(world: World, sql: str, **parameters: Any) -> None:
    async with world.runtime.begin() as uow:
        await uow.session.execute(text(sql), parameters)


async def some_business(world: World) -> None:
    """A bit of everything, all of it at its end."""
    for token in ("tok_ok", "tok_timeout_after", "tok_timeout_before", "tok_fraud"):
        await world.attach(token, make_default=True)
        invoice = await world.finalize()
        await world.pay_everything()
        if (await world.payment(invoice)).succeeded_at:
            await world.invoice_paid(invoice)
    await world.attach("tok_ok", make_default=True)
    late = await world.finalize()
    await world.collect()
    await world.take(an_invoice_voided(late))
    await world.run(schedule.send_refunds)


async def test_a_healthy_system_shows_no_difference(
    alone: World, capsys: pytest.CaptureFixture[str]
) -> None:
    await some_business(alone)
    found = await audited(alone)

    assert found.differences == []
    assert found.pending == 0
    assert found.checked["sandbox_charges"] >= 4
    assert await audit_command(alone.runtime, []) == 0
    assert "0 differences" in capsys.readouterr().out


async def test_every_class_of_difference_is_found(alone: World) -> None:
    await alone.attach()
    invoices = [await alone.finalize(amount=1000 + number) for number in range(5)]
    await alone.collect()
    for invoice in invoices:
        await alone.invoice_paid(invoice)
    ids = [(await alone.attempts(invoice))[0].id for invoice in invoices]
    await tamper(alone, "UPDATE attempts SET amount = amount + 1 WHERE id = :id", id=ids[0])
    await tamper(alone, "UPDATE attempts SET currency = 'USD' WHERE id = :id", id=ids[1])
    await tamper(alone, "UPDATE attempts SET status = 'failed' WHERE id = :id", id=ids[2])
    await tamper(alone, "UPDATE attempts SET id = :new WHERE id = :id", id=ids[3], new=new_id())
    found = await audited(alone)

    classes = {(d.kind.value, d.between) for d in found.differences}
    assert {
        ("amount", "sandbox/payments"),
        ("amount", "payments/ledger"),
        ("currency", "sandbox/payments"),
        ("state", "sandbox/payments"),
        ("missing_here", "sandbox/payments"),
        ("missing_there", "sandbox/payments"),
        ("missing_there", "payments/ledger"),
        ("missing_here", "payments/ledger"),
    } <= classes
    assert await audit_command(alone.runtime, []) == 1
    answer = await alone.http.get("/v1/reconciliation", headers=alone.finance)
    assert len(answer.json()["data"]) == len(found.differences)


async def test_an_invoice_charged_twice_is_found(alone: World) -> None:
    await alone.attach()
    first, second = await alone.finalize(), await alone.finalize()
    await alone.collect()
    for invoice in (first, second):
        await alone.invoice_paid(invoice)
    await tamper(alone, "DROP INDEX uq_attempts_one_active")
    await tamper(
        alone,
        "UPDATE attempts SET invoice_id = :first WHERE invoice_id = :second",
        first=first.invoice_id,
        second=second.invoice_id,
    )
    found = await audited(alone)

    assert [d.kind.value for d in found.differences] == ["duplicate"]


async def test_money_that_no_invoice_took_is_found_once_it_is_old(alone: World) -> None:
    await alone.attach()
    await alone.finalize()
    await alone.collect()

    young = await audit_books(alone.runtime.begin, ["sandbox"], now=utc_now())
    assert (young.differences, young.pending) == ([], 1)
    old = await audited(alone)
    assert [d.kind.value for d in old.differences] == ["state"]


async def test_what_nobody_can_settle_waits_for_a_person_who_may_ask_again(world: World) -> None:
    await world.attach("tok_timeout_after")
    invoice = await world.finalize()
    await world.collect()
    (attempt,) = await world.attempts(invoice)
    await tamper(world, "UPDATE attempts SET ask_at = NULL WHERE id = :id", id=attempt.id)
    staff = world.issuer.of_staff("support")
    shown = (await world.http.get("/v1/ops/payments/stuck", headers=staff)).json()["data"]
    assert str(attempt.id) in {row["id"] for row in shown}

    path = f"/v1/ops/payments/stuck/{attempt.id}/ask"
    assert (await world.http.post(path, headers=world.member)).status_code == 403
    assert (await world.http.post(path, headers=staff)).status_code == 204
    await world.run(schedule.ask_providers)
    assert (await world.payment(invoice)).succeeded_at is not None
    assert (await world.http.post(path, headers=staff)).status_code == 404


async def test_the_books_of_all_are_not_for_members(world: World) -> None:
    for path in ("/v1/reconciliation", "/v1/ops/payments/stuck"):
        assert (await world.http.get(path, headers=world.member)).status_code == 403
