"""Follow an invoice: collect it when it is owed, leave it when it is not."""

from datetime import datetime
from uuid import UUID

from services.payments.domain import ledger
from services.payments.domain.methods import OwedInvoice, OwedStatus
from services.payments.domain.payments import Payment, PaymentStatus
from services.payments.repository import PaymentsUnitOfWork
from services.payments.use_cases.dun_payment import end_dunning
from services.payments.use_cases.settle_attempt import send_back
from shared.context import current_cause
from shared.events.invoicing import (
    InvoiceFinalized,
    InvoiceMarkedUncollectible,
    InvoicePaid,
    InvoicePartlyPaid,
    InvoiceReduced,
    InvoiceVoided,
)
from shared.ids import new_id
from shared.money import Money

#: Somebody waits in front of a screen for these; renewals have all night.
URGENT = {
    "subscription_start",
    "subscription_change",
    "subscription_pending_change",
    "manual",
}


async def take_up_invoice(uow: PaymentsUnitOfWork, event: InvoiceFinalized) -> None:
    """It is owed from now on; unless it is to be paid otherwise, collect it at once."""
    due = event.amount_due
    uow.session.add(
        OwedInvoice(
            invoice_id=event.invoice_id,
            account_id=event.account_id,
            subscription_id=event.subscription_id,
            number=event.number,
            amount_due=due.amount,
            currency=due.currency,
            status=OwedStatus.OPEN,
            finalized_at=event.occurred_at,
        )
    )
    await uow.ledger.post(
        ledger.invoice_owed(event.invoice_id, due),
        account_id=event.account_id,
        at=event.occurred_at,
    )
    if due.amount <= 0:
        return
    payment = Payment(
        id=new_id(),
        account_id=event.account_id,
        invoice_id=event.invoice_id,
        subscription_id=event.subscription_id,
        amount=due.amount,
        currency=due.currency,
        billing_reason=event.billing_reason,
        payment_method_id=await _attached(uow, event),
        dunning_days=list(event.dunning.days),
        dunning_then=event.dunning.then,
        created_at=event.occurred_at,
        cause=current_cause().kept(),
        is_urgent=event.billing_reason in URGENT,
    )
    uow.emit(payment.create(at=event.occurred_at))
    if not event.collect_automatically:
        payment.due_at = None
    uow.payments.add(payment)
    uow.wake("collect_due")


async def owe_less(uow: PaymentsUnitOfWork, event: InvoicePartlyPaid | InvoiceReduced) -> None:
    """A part came another way, or was taken back: only the rest is collected.

    What an attempt that is under way takes too much goes back when the invoice is paid.
    """
    invoice = await uow.invoice(event.invoice_id)
    payment = await uow.payments.find_for_invoice(event.invoice_id)
    if invoice is not None:
        if isinstance(event, InvoiceReduced):
            invoice.owe_less(event.amount_reduced.amount, event.amount_remaining.amount)
            posting = ledger.invoice_reduced(event.id, event.amount_reduced)
        else:
            invoice.amount_due = event.amount_remaining.amount
            posting = ledger.invoice_paid_offline(event.id, event.amount_received)
        await uow.ledger.post(posting, account_id=event.account_id, at=event.occurred_at)
    if payment is not None:
        payment.owe(event.amount_remaining.amount)


async def leave_invoice(
    uow: PaymentsUnitOfWork,
    event: InvoicePaid | InvoiceVoided | InvoiceMarkedUncollectible,
    *,
    real_now: datetime,
) -> None:
    """It is not owed any more (or nobody expects the money): stop, and post it."""
    invoice = await uow.invoice(event.invoice_id)
    payment = await uow.payments.find_for_invoice(event.invoice_id)
    at = event.occurred_at
    if isinstance(event, InvoiceMarkedUncollectible):
        if invoice is not None:
            invoice.status = OwedStatus.UNCOLLECTIBLE
        if payment is not None:
            payment.due_at = None
        return
    by_us = (
        isinstance(event, InvoicePaid)
        and payment is not None
        and event.payment_id == payment.id
        and payment.status is PaymentStatus.SUCCEEDED
    )
    if invoice is not None:
        if isinstance(event, InvoicePaid):
            await _reduce_the_last(uow, invoice, event)
        await _close(uow, invoice, event, by_us=by_us, at=at)
    if payment is None:
        return
    if payment.status is PaymentStatus.SUCCEEDED:
        kept = invoice.amount_due if by_us and invoice is not None else 0
        attempt = await uow.attempts.successful_of(payment.id)
        if attempt is not None:
            await send_back(uow, payment, attempt, payment.amount - kept, at=at, real_now=real_now)
        return
    await _stop(uow, payment, at=at, real_now=real_now)


async def _stop(
    uow: PaymentsUnitOfWork, payment: Payment, *, at: datetime, real_now: datetime
) -> None:
    canceled = payment.cancel(at=at)
    if canceled is not None:
        uow.emit(canceled)
    attempt = await uow.attempts.open_of(payment.id)
    if attempt is not None:
        attempt.request_cancel(real_now=real_now)
        uow.wake("ask_providers")
    await end_dunning(uow, payment, at=at)


async def _reduce_the_last(
    uow: PaymentsUnitOfWork, invoice: OwedInvoice, event: InvoicePaid
) -> None:
    """What was taken back at last, after which nothing was owed any more, is no payment."""
    known = invoice.amount_reduced
    last = (event.amount_reduced.amount if event.amount_reduced else 0) - known
    if last <= 0:
        return
    invoice.owe_less(last, max(invoice.amount_due - last, 0))
    reduced = Money(last, invoice.currency)
    await uow.ledger.post(
        ledger.invoice_reduced(event.id, reduced),
        account_id=invoice.account_id,
        at=event.occurred_at,
    )


async def _close(
    uow: PaymentsUnitOfWork,
    invoice: OwedInvoice,
    event: InvoicePaid | InvoiceVoided,
    *,
    by_us: bool,
    at: datetime,
) -> None:
    due = Money(invoice.amount_due, invoice.currency)
    if isinstance(event, InvoiceVoided):
        invoice.status = OwedStatus.VOIDED
        posting = ledger.invoice_voided(invoice.invoice_id, due)
    else:
        invoice.status = OwedStatus.PAID
        invoice.paid_by = event.payment_id if by_us else None
        post = ledger.invoice_paid if by_us else ledger.invoice_paid_offline
        posting = post(invoice.invoice_id, due)
    await uow.ledger.post(posting, account_id=invoice.account_id, at=at)


async def _attached(uow: PaymentsUnitOfWork, event: InvoiceFinalized) -> UUID | None:
    """The method that the invoice names, where the account still has it."""
    for method in await uow.methods.of_account(event.account_id):
        if method.id == event.payment_method_id:
            return method.id
    return None
