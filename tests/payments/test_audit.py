"""The audit: silent on a healthy system, and it names every difference by its class."""

from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import text

from services.payments import schedule
from services.payments.commands import audit as audit_command
from services.payments.domain.audit import Audit
from services.payments.domain.payments import PaymentStatus
from services.payments.providers import use
from services.payments.providers.base import Movement
from services.payments.providers.sandbox import SandboxProvider, SandboxProviderSettings
from services.payments.use_cases.audit_books import audit_books
from services.payments.use_cases.measure_books import CLEARING_AGE, STUCK, measure_books
from shared.clock import utc_now
from shared.ids import new_id
from tests.payments.factories import an_invoice_voided
from tests.payments.test_reductions import paid_after_reductions, reduced
from tests.payments.world import World


async def audited(world: World, *, since: datetime | None = None) -> Audit:
    later = utc_now() + timedelta(hours=1)
    return await audit_books(world.runtime.begin, ["sandbox"], now=later, since=since)


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
    for number, won in enumerate((True, False)):
        disputed = await world.finalize(amount=4000)
        await world.collect()
        await world.invoice_paid(disputed)
        (charge,) = world.sandbox.charges(disputed.invoice_id)
        dispute = world.sandbox.post(f"/v1/charges/{charge['id']}/dispute", {})
        closed = world.sandbox.post(f"/v1/disputes/{dispute['id']}/close", {"won": won})
        await world.hear({"id": f"evt_close_{number}", "type": "dispute.won", "data": closed})
    for number, path in enumerate(("/v1/payouts/{}/fail", "/v1/payouts/{}")):
        (payout,) = world.sandbox.post("/v1/payouts")["data"]
        if number == 0:
            world.sandbox.post(path.format(payout["id"]))
        await world.hear({"id": f"evt_pay_{number}", "type": "payout.paid", "data": payout})
    await world.run(schedule.work_off_webhooks)


async def test_a_healthy_system_shows_no_difference(
    alone: World, capsys: pytest.CaptureFixture[str]
) -> None:
    await some_business(alone)
    found = await audited(alone)

    assert found.differences == []
    assert found.pending == 0
    assert found.checked["sandbox_charges"] >= 6
    assert found.checked["sandbox_disputes"] == 2
    assert found.checked["sandbox_payouts"] == 1
    (held,) = alone.sandbox.get("/v1/balance").values()
    balances = await alone.all_balances()
    assert balances.get("provider:sandbox", 0) == held
    assert balances["bank"] == alone.sandbox.get("/v1/payouts")["data"][-1]["amount"]
    assert not {"clearing", "disputed"} & {name for name, value in balances.items() if value}
    assert await audit_command(alone.runtime, []) == 0
    assert "0 differences" in capsys.readouterr().out


async def test_payments_that_were_canceled_after_their_invoice_was_reduced_are_no_difference(
    alone: World,
) -> None:
    """Voided, paid by other means, or nothing left to pay: after less was owed, and asked for."""
    await alone.attach("tok_insufficient_funds", make_default=True)
    voided, by_hand, gone = [await alone.finalize(amount=10_000) for _ in range(3)]
    await alone.collect()
    for invoice in (voided, by_hand, gone):
        await alone.take(reduced(invoice, 6_000, left=4_000))
    await alone.take(an_invoice_voided(voided))
    await alone.take(paid_after_reductions(by_hand, 6_000, of=4_000))
    await alone.take(paid_after_reductions(gone, 10_000))
    for invoice in (voided, by_hand, gone):
        assert (await alone.payment(invoice)).status is PaymentStatus.CANCELED

    found = await audited(alone)

    assert found.differences == []
    assert found.checked["invoices"] == 3
    books = {name: value for name, value in (await alone.all_balances()).items() if value}
    assert books == {"offline": 4_000, "billed": -4_000}


async def plant_one_of_each(world: World) -> set[tuple[str, str, str]]:
    """One lie in each book, and by what the audit is to name it: class, books, reference."""
    await world.attach()
    invoices = [await world.finalize(amount=1000 + number) for number in range(9)]
    await world.collect()
    for invoice in invoices:
        await world.invoice_paid(invoice)
    ids = [(await world.attempts(invoice))[0].id for invoice in invoices]
    charges = [world.sandbox.charges(invoice.invoice_id)[0]["id"] for invoice in invoices]

    def in_attempt(change: str, number: int, **more: Any) -> Any:
        sql = f"UPDATE attempts SET {change} WHERE id = :id"  # noqa: S608  (the test's own)
        return tamper(world, sql, id=ids[number], **more)

    await in_attempt("amount = amount + 1", 0)
    await in_attempt("currency = 'USD'", 1)
    await in_attempt("status = 'failed'", 2)
    stranger = new_id()
    await in_attempt("id = :new", 3, new=stranger)
    await in_attempt("fee = fee + 1", 4)
    unheard = world.sandbox.post(f"/v1/charges/{charges[5]}/dispute", {})["id"]
    heard = world.sandbox.post(f"/v1/charges/{charges[6]}/dispute", {})
    await world.hear({"id": "evt_dispute", "type": "dispute.opened", "data": heard})
    await world.run(schedule.work_off_webhooks)
    world.sandbox.post(f"/v1/disputes/{heard['id']}/close", {"won": False})
    (payout,) = world.sandbox.post("/v1/payouts")["data"]
    in_invoice = "UPDATE owed_invoices SET {} WHERE invoice_id = :id"
    await tamper(world, in_invoice.format("amount_due = amount_due + 1"), id=invoices[7].invoice_id)
    await tamper(world, in_invoice.format("currency = 'USD'"), id=invoices[8].invoice_id)
    uncollected = await world.finalize()
    await tamper(world, "DELETE FROM payments WHERE invoice_id = :id", id=uncollected.invoice_id)
    return {
        ("amount", "sandbox/payments", str(ids[0])),
        ("amount", "payments/ledger", str(ids[0])),
        ("currency", "sandbox/payments", str(ids[1])),
        ("currency", "payments/ledger", str(ids[1])),
        ("state", "sandbox/payments", str(ids[2])),
        ("missing_here", "payments/ledger", str(ids[2])),
        ("missing_here", "sandbox/payments", str(ids[3])),
        ("missing_there", "sandbox/payments", str(stranger)),
        ("missing_there", "payments/ledger", str(stranger)),
        ("missing_here", "payments/ledger", str(ids[3])),
        ("amount", "sandbox/payments", str(ids[4])),
        ("missing_here", "sandbox/disputes", unheard),
        ("state", "sandbox/disputes", heard["id"]),
        ("missing_here", "sandbox/ledger", payout["id"]),
        ("amount", "invoices/payments", str(invoices[7].invoice_id)),
        ("currency", "invoices/payments", str(invoices[8].invoice_id)),
        ("missing_here", "invoices/payments", str(uncollected.invoice_id)),
    }


async def test_every_class_of_difference_is_found_and_nothing_else(
    alone: World, capsys: pytest.CaptureFixture[str]
) -> None:
    planted = await plant_one_of_each(alone)
    found = await audited(alone)
    assert {(d.kind.value, d.between, d.reference) for d in found.differences} == planted

    of_late = await audited(alone, since=utc_now() - timedelta(days=1))
    assert (
        planted - {(d.kind.value, d.between, d.reference) for d in of_late.differences}
        == {  # what is in the ledger alone has no row by which it could be told to be of late
            lie for lie in planted if lie[:2] == ("missing_here", "payments/ledger")
        }
    )
    assert await audit_command(alone.runtime, []) == 1
    printed = capsys.readouterr().out
    young = {"sandbox/disputes", "sandbox/ledger"}  # whose webhooks may still be on their way
    for kind, between, reference in planted:
        assert between in young or f"{kind:<14} {between:<20} {reference}\n" in printed
    answer = await alone.http.get("/v1/reconciliation", headers=alone.finance)
    assert answer.status_code == 200


class Doubling(SandboxProvider):
    """Books in which everything stands twice."""

    async def movements(self, *, since: datetime | None = None) -> AsyncIterator[Movement]:
        async for line in super().movements(since=since):
            yield line
            yield line


async def test_what_a_provider_did_twice_under_one_key_is_found(world: World) -> None:
    since = utc_now()
    use(Doubling(SandboxProviderSettings()))
    await world.attach()
    invoice = await world.finalize()
    await world.collect()
    await world.invoice_paid(invoice)
    found = await audited(world, since=since)

    (attempt,) = await world.attempts(invoice)
    assert {(d.kind.value, d.between, d.reference) for d in found.differences} >= {
        ("duplicate", "sandbox/payments", str(attempt.id)),
        ("duplicate", "sandbox/invoices", str(invoice.invoice_id)),
    }


async def test_an_audit_that_cannot_reach_the_provider_says_so(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    use(SandboxProvider(SandboxProviderSettings(url="http://127.0.0.1:9")))

    assert await audit_command(world.runtime, ["--days", "1"]) == 2
    assert capsys.readouterr().err.startswith("The books cannot be compared: ")


async def test_surplus_that_does_not_go_back_stays_in_the_clearing_account_for_all_to_see(
    alone: World,
) -> None:
    await alone.attach()
    invoice = await alone.finalize()
    await alone.collect()
    async with alone.runtime.begin() as uow:
        await measure_books(uow, now=utc_now() + timedelta(hours=1))
    assert CLEARING_AGE._value.get() > 3000
    await alone.take(an_invoice_voided(invoice))
    await alone.run(schedule.send_refunds)
    async with alone.runtime.begin() as uow:
        await measure_books(uow, now=utc_now() + timedelta(hours=1))
    assert CLEARING_AGE._value.get() == 0

    (refund,) = alone.sandbox.get("/v1/refunds")["data"]
    failed = alone.sandbox.post(f"/v1/refunds/{refund['id']}/fail")
    await alone.hear({"id": "evt_back", "type": "refund.failed", "data": failed})
    await alone.run(schedule.work_off_webhooks)
    async with alone.runtime.begin() as uow:
        await measure_books(uow, now=utc_now() + timedelta(hours=1))
    assert CLEARING_AGE._value.get() > 3000
    assert [d.kind.value for d in (await audited(alone)).differences] == ["state"]

    # A person sends it again: that settles it, and no document has to tell of it.
    payment = await alone.payment(invoice)
    answer = await alone.http.post(
        f"/v1/payments/{payment.id}/refunds",
        json={},
        headers={**alone.finance, "Idempotency-Key": "again"},
    )
    assert answer.json()["reason"] == "surplus"
    await alone.run(schedule.send_refunds)
    await alone.run(schedule.measure)
    assert CLEARING_AGE._value.get() == 0
    assert (await audited(alone)).differences == []
    assert STUCK.labels("payment")._value.get() == 0
    await tamper(alone, "UPDATE attempts SET status = 'unknown', ask_at = NULL")
    await alone.run(schedule.measure)
    assert STUCK.labels("payment")._value.get() == 1
    assert STUCK.labels("refund")._value.get() == 0


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
    staff = world.issuer.of_staff("finance")
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
