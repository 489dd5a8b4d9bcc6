"""Send money back: reserved under the payment's lock, sent outside any transaction."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import select

from services.payments.domain import ledger
from services.payments.domain.payments import MARGIN, Payment, PaymentNotRefundable
from services.payments.domain.refunds import Refund, RefundReason, RefundStatus
from services.payments.providers import ProviderUnknown, provider
from services.payments.providers.base import (
    NeverHeard,
    Refunded,
    RefundOutcome,
    RefundRefused,
    RefundRequest,
    Uncertain,
)
from services.payments.repository import PaymentsUnitOfWork
from services.payments.tables import refunds
from services.payments.use_cases.ask_providers import WITHOUT_PLUGIN, Begin
from shared.clock import utc_now
from shared.events.invoicing import CreditNoteIssued
from shared.observability import logger

log = logger(__name__)


async def request_refund(
    uow: PaymentsUnitOfWork,
    payment: Payment,
    *,
    amount: int | None,
    reason: RefundReason,
    now: datetime,
    real_now: datetime,
    credit_note_id: UUID | None = None,
) -> Refund:
    """Reserve the amount (by default all that is left) and have it sent.

    Raises `RefundAboveCharge`, or `PaymentNotRefundable` when no money was taken. What a bank
    has taken back, or holds while it decides, does not go back a second time.
    """
    attempt = await uow.attempts.successful_of(payment.id)
    if attempt is None or attempt.reference is None:
        raise PaymentNotRefundable("Only a payment that succeeded can be refunded.")
    invoice = await uow.read_invoice(payment.invoice_id)
    if invoice is not None and invoice.is_settled_without(payment.id):
        reason = RefundReason.SURPLUS
    disputed = await uow.disputed_of(payment.id)
    refund = Refund.of(
        payment,
        charge=attempt.reference,
        amount=payment.left(disputed=disputed) if amount is None else amount,
        disputed=disputed,
        reason=reason,
        at=now,
        real_now=real_now,
        credit_note_id=credit_note_id,
    )
    uow.session.add(refund)
    uow.emit(refund.create(at=now))
    uow.audit(
        "payment.refund", payment.id, account_id=payment.account_id, after={"amount": refund.amount}
    )
    uow.wake("send_refunds")
    return refund


async def refund_for_credit_note(
    uow: PaymentsUnitOfWork, event: CreditNoteIssued, *, real_now: datetime
) -> None:
    """Send back what a credit note gives back. Raises when there is nothing to send it from."""
    if event.refund.amount <= 0:
        return
    payment = await uow.payments.find_for_invoice(event.invoice_id)
    if payment is None:
        raise PaymentNotRefundable("No payment of ours paid this invoice.")
    known = await uow.session.scalars(
        select(Refund).where(refunds.c.credit_note_id == event.credit_note_id)
    )
    if known.first() is not None:
        return
    await request_refund(
        uow,
        payment,
        amount=event.refund.amount,
        reason=RefundReason.CREDIT_NOTE,
        now=event.occurred_at,
        real_now=real_now,
        credit_note_id=event.credit_note_id,
    )


async def send_again(uow: PaymentsUnitOfWork, refund_id: UUID, *, real_now: datetime) -> bool:
    """Make a failed refund anew, under a key of its own; False where none waits under this id.

    Raises `RefundAboveCharge` when the money has gone back another way since.
    """
    failed = await _forgotten(uow, refund_id)
    if failed is None:
        return False
    failed.attended_at = real_now
    # Its credit note may order another one only then.
    await uow.session.flush()
    await request_refund(
        uow,
        await uow.payments.get(failed.payment_id),
        amount=failed.amount,
        reason=failed.reason,
        now=max(failed.at, await uow.now(failed.account_id)),
        real_now=real_now,
        credit_note_id=failed.credit_note_id,
    )
    return True


async def dismiss_refund(uow: PaymentsUnitOfWork, refund_id: UUID, *, real_now: datetime) -> bool:
    """Note that a failed refund was settled without us; False where none waits under this id."""
    failed = await _forgotten(uow, refund_id)
    if failed is None:
        return False
    await uow.require_clock_at_rest(failed.account_id)
    failed.attended_at = real_now
    return True


async def _forgotten(uow: PaymentsUnitOfWork, refund_id: UUID) -> Refund | None:
    """The failed refund, locked after its payment like everywhere."""
    found = await uow.session.get(Refund, refund_id)
    if found is None:
        return None
    await uow.payments.get(found.payment_id)
    refund = await uow.refund(refund_id)
    return refund if refund is not None and refund.is_forgotten else None


async def claim_refunds(uow: PaymentsUnitOfWork, *, limit: int, real_now: datetime) -> list[Refund]:
    """Refunds to send or to ask about; others leave them alone until that must have ended."""
    statement = (
        select(Refund)
        .where(refunds.c.ask_at <= real_now, refunds.c.status == RefundStatus.PENDING)
        .order_by(refunds.c.ask_at)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    found = list(await uow.session.scalars(statement))
    known = []
    for refund in found:
        try:
            longest_call = provider(refund.provider).longest_call
        except ProviderUnknown:
            refund.ask_at = real_now + WITHOUT_PLUGIN
            continue
        refund.ask_at = real_now + 3 * longest_call + MARGIN
        known.append(refund)
    return known


async def send_refund(begin: Begin, refund: Refund) -> None:
    """Send one refund under its own key; one that may have been sent is looked up first."""
    to = provider(refund.provider)
    key = str(refund.id)
    outcome: RefundOutcome | NeverHeard = NeverHeard()
    if refund.asked:
        outcome = await to.look_up_refund(key=key, charge=refund.charge)
    if isinstance(outcome, NeverHeard):
        outcome = await to.refund(RefundRequest(key=key, charge=refund.charge, amount=refund.money))
    async with begin() as uow:
        await settle_refund(uow, refund, outcome, real_now=utc_now())


async def settle_refund(
    uow: PaymentsUnitOfWork, sent: Refund, outcome: RefundOutcome, *, real_now: datetime
) -> None:
    """Write down what became of it: state, ledger and event."""
    payment = await uow.payments.get(sent.payment_id)
    refund = await uow.refund(sent.id)
    if refund is None or refund.status is not RefundStatus.PENDING:
        return
    at = max(refund.at, await uow.now(refund.account_id))
    match outcome:
        case Refunded():
            uow.emit(refund.succeed(at=at, reference=outcome.reference))
            surplus = refund.reason is RefundReason.SURPLUS
            post = ledger.surplus_refund if surplus else ledger.refund
            posting = post(refund.id, refund.provider, refund.money)
            await uow.ledger.post(posting, account_id=refund.account_id, at=at)
        case RefundRefused():
            payment.release_refund(refund.amount)
            uow.emit(refund.fail(at=at, reason=outcome.code))
        case Uncertain():
            refund.failure = outcome.reason
            if not refund.postpone(real_now=real_now):
                log.error("A refund needs a person", refund_id=str(refund.id))


async def take_refund_back(uow: PaymentsUnitOfWork, sent: Refund, *, code: str) -> None:
    """A refund that was sent came back: the provider holds the money, which may be sent again."""
    payment = await uow.payments.get(sent.payment_id)
    refund = await uow.refund(sent.id)
    if refund is None or refund.status is not RefundStatus.SUCCEEDED:
        return
    at = max(refund.at, await uow.now(refund.account_id))
    payment.release_refund(refund.amount)
    uow.emit(refund.fail(at=at, reason=code))
    surplus = refund.reason is RefundReason.SURPLUS
    posting = ledger.refund_returned(refund.id, refund.provider, refund.money, surplus=surplus)
    await uow.ledger.post(posting, account_id=refund.account_id, at=at)
    log.error("A refund came back and needs a person", refund_id=str(refund.id), reason=code)
