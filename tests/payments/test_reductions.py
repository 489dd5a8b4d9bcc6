"""What was taken back of an invoice before it was paid is not collected, and is no payment."""

from datetime import timedelta

import pytest

from services.payments import schedule
from services.payments.domain.payments import PaymentStatus
from shared.clock import utc_now
from shared.events.invoicing import InvoiceFinalized, InvoicePaid, InvoiceReduced
from shared.money import Money
from tests.payments.factories import an_invoice_paid, an_invoice_voided
from tests.payments.world import World

DAY_AFTER = timedelta(days=2)


def reduced(invoice: InvoiceFinalized, amount: int, *, left: int) -> InvoiceReduced:
    return InvoiceReduced(
        occurred_at=invoice.occurred_at,
        account_id=invoice.account_id,
        sequence=invoice.sequence + 1,
        invoice_id=invoice.invoice_id,
        subscription_id=invoice.subscription_id,
        number=invoice.number,
        amount_reduced=Money(amount, "EUR"),
        amount_remaining=Money(left, "EUR"),
    )


def paid_after_reductions(invoice: InvoiceFinalized, amount: int, *, of: int = 0) -> InvoicePaid:
    paid = an_invoice_paid(invoice)
    return paid.model_copy(
        update={"amount_paid": Money(of, "EUR"), "amount_reduced": Money(amount, "EUR")}
    )


async def test_a_debt_that_was_reduced_is_asked_for_less(world: World) -> None:
    await world.attach("tok_fails_then_ok:1")
    invoice = await world.finalize(amount=10_000)
    await world.collect()

    await world.take(reduced(invoice, 6_000, left=4_000))
    await world.collect(at=utc_now() + DAY_AFTER)
    await world.invoice_paid(invoice)

    assert world.sandbox.amounts(invoice.invoice_id) == [4_000]
    told = [
        one["data"]["amount"]["amount"]
        for one in (await world.emitted())[1:]
        if "amount" in one["data"]
    ]
    assert told[-1] == 4_000
    books = await world.balances()
    assert books.pop("provider:sandbox") + books.pop("fees") == 4_000
    assert books == {"billed": -4_000}


async def test_what_an_attempt_under_way_takes_too_much_goes_back(world: World) -> None:
    await world.attach("tok_timeout_after")
    invoice = await world.finalize(amount=10_000)
    await world.collect()

    await world.take(reduced(invoice, 6_000, left=4_000))
    await world.reconcile()
    await world.invoice_paid(invoice)
    await world.run(schedule.send_refunds)

    payment = await world.payment(invoice)
    assert (payment.amount, payment.refunded) == (10_000, 6_000)
    books = await world.balances()
    assert books.pop("provider:sandbox") + books.pop("fees") == 4_000
    assert books == {"billed": -4_000}


@pytest.mark.parametrize("token", ["tok_insufficient_funds", "tok_timeout_after", "tok_ok"])
async def test_one_that_owes_nothing_any_more_is_not_paid_by_other_means(
    world: World, token: str
) -> None:
    await world.attach(token)
    invoice = await world.finalize(amount=10_000)
    await world.collect()

    await world.take(reduced(invoice, 6_000, left=4_000))
    await world.take(paid_after_reductions(invoice, 10_000))
    await world.pay_everything()

    payment = await world.payment(invoice)
    assert payment.status in (PaymentStatus.CANCELED, PaymentStatus.SUCCEEDED)
    assert sum(world.sandbox.amounts(invoice.invoice_id)) == payment.refunded
    books = await world.balances()
    assert books.pop("provider:sandbox", 0) + books.pop("fees", 0) == 0
    assert books == {}


async def test_what_is_voided_after_a_reduction_leaves_empty_books(world: World) -> None:
    invoice = await world.finalize(amount=10_000)

    await world.take(reduced(invoice, 6_000, left=4_000))
    await world.take(an_invoice_voided(invoice))

    assert await world.balances() == {}


async def test_a_part_by_hand_and_a_part_taken_back_are_told_apart(world: World) -> None:
    invoice = await world.finalize(amount=10_000)

    await world.take(reduced(invoice, 6_000, left=4_000))
    await world.take(paid_after_reductions(invoice, 7_000, of=3_000))

    assert await world.balances() == {"offline": 3_000, "billed": -3_000}


async def test_a_change_that_waits_for_its_payment_is_urgent_and_not_dunned(world: World) -> None:
    await world.attach("tok_insufficient_funds")
    invoice = await world.finalize(billing_reason="subscription_pending_change")
    assert (await world.payment(invoice)).is_urgent

    await world.collect()

    assert (await world.names())[-1] == "payment.failed"
    payment = await world.payment(invoice)
    assert (payment.due_at, payment.status) == (None, PaymentStatus.FAILED)
