"""Webhooks in: stored once and answered at once, worked off from the store in any order."""

from datetime import datetime, timedelta
from uuid import UUID

import orjson
from sqlalchemy import delete, select
from sqlalchemy.dialects.postgresql import insert as upsert

from services.payments.domain import ledger
from services.payments.domain.methods import PaymentMethod
from services.payments.domain.payments import PaymentStatus
from services.payments.domain.refunds import Dispute, DisputeStatus, Refund, RefundStatus
from services.payments.domain.webhooks import WebhookEvent
from services.payments.providers import provider
from services.payments.providers.base import Dispute as DisputeReport
from services.payments.providers.base import Notice, Payout, RefundLookUp, RefundRefused
from services.payments.repository import PaymentsUnitOfWork
from services.payments.tables import payment_methods, webhook_events
from services.payments.use_cases.ask_providers import Begin, hint_attempt
from services.payments.use_cases.keep_payment_methods import renew_payment_method
from services.payments.use_cases.refund_payments import take_refund_back
from shared.clock import utc_now
from shared.errors import Conflict, DomainError
from shared.ids import new_id
from shared.observability import logger

log = logger(__name__)

#: Stripe repeats a webhook for three days, and shows events of thirty.
KEPT = timedelta(days=35)

Report = DisputeReport | Payout | RefundLookUp | None


class ChargeNotSettled(Conflict):
    code = "charge-not-settled"


async def store_webhook(
    uow: PaymentsUnitOfWork, name: str, notice: Notice, body: bytes, *, real_now: datetime
) -> bool:
    """Keep a verified webhook. A repeat of one that is kept changes nothing: False."""
    claim = (
        upsert(webhook_events)
        .values(
            id=new_id(),
            provider=name,
            provider_event_id=notice.event_id,
            kind=notice.kind,
            about=notice.about,
            reference=notice.reference,
            key=notice.key,
            body=orjson.loads(body),
            received_at=real_now,
            process_at=real_now,
            tries=0,
        )
        .on_conflict_do_nothing()
        .returning(webhook_events.c.id)
    )
    new = (await uow.session.execute(claim)).first() is not None
    if new:
        uow.wake("work_off_webhooks")
    return new


async def claim_webhooks(
    uow: PaymentsUnitOfWork, *, limit: int, real_now: datetime
) -> list[WebhookEvent]:
    """Webhooks to work off. A crash leaves them due again after a while."""
    statement = (
        select(WebhookEvent)
        .where(webhook_events.c.process_at <= real_now)
        .order_by(webhook_events.c.process_at)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    found = list(await uow.session.scalars(statement))
    for webhook in found:
        webhook.take_up(real_now=real_now)
    return found


async def work_off_webhook(begin: Begin, webhook: WebhookEvent) -> None:
    """Ask the provider for what the webhook is about, and write that down.

    What keeps it from being worked off is kept beside it, for whoever looks at what is stuck.
    """
    try:
        await _work_off(begin, webhook)
    except Exception as fault:
        async with begin() as uow:
            kept = await uow.webhook(webhook.id)
            if kept is not None and kept.processed_at is None:
                kept.trouble = fault.detail if isinstance(fault, DomainError) else repr(fault)
        raise


async def _work_off(begin: Begin, webhook: WebhookEvent) -> None:
    to = provider(webhook.provider)
    notice = to.read(orjson.dumps(webhook.body))
    report: Report = None
    if notice.about == "dispute":
        report = await to.look_up_dispute(notice.reference)
    elif notice.about == "payout":
        report = await to.look_up_payout(notice.reference)
    elif notice.about == "refund" and (refund := await _sent_refund(begin, notice)):
        report = await to.look_up_refund(key=str(refund.id), charge=refund.charge)
    real_now = utc_now()
    async with begin() as uow:
        kept = await uow.webhook(webhook.id)
        if kept is None or kept.processed_at is not None:
            return
        await _apply(uow, webhook.provider, notice, report, real_now=real_now)
        kept.done(real_now=real_now)


async def _sent_refund(begin: Begin, notice: Notice) -> Refund | None:
    """Our refund that the notice is about, when it counts as sent: it may have come back."""
    ours = _our_key(notice.key)
    if ours is None:
        return None
    async with begin() as uow:
        refund = await uow.refund(ours)
    return refund if refund is not None and refund.status is RefundStatus.SUCCEEDED else None


async def _apply(
    uow: PaymentsUnitOfWork, name: str, notice: Notice, report: Report, *, real_now: datetime
) -> None:
    ours = _our_key(notice.key)
    if isinstance(report, DisputeReport):
        await _dispute(uow, name, report, real_now=real_now)
    elif isinstance(report, Payout):
        await _payout(uow, name, report, real_now=real_now)
    elif notice.about == "method":
        await _renew_method(uow, name, notice, real_now=real_now)
    elif notice.about == "charge" and ours:
        await hint_attempt(uow, ours, real_now=real_now)
    elif notice.about == "refund" and ours:
        await _refund(uow, ours, report, real_now=real_now)


async def _refund(
    uow: PaymentsUnitOfWork, refund_id: UUID, report: Report, *, real_now: datetime
) -> None:
    refund = await uow.refund(refund_id)
    if refund is None:
        return
    if isinstance(report, RefundRefused):
        await take_refund_back(uow, refund, code=report.code)
    elif refund.status is RefundStatus.PENDING and refund.asked:
        # One that was lost is asked about now; one that was never sent is about to be.
        refund.ask_at = real_now
        uow.wake("send_refunds")


async def _payout(
    uow: PaymentsUnitOfWork, name: str, report: Payout, *, real_now: datetime
) -> None:
    """Each is posted once; one that came back is posted both ways, whichever is heard first."""
    reference = f"{name}:{report.reference}"
    postings = [ledger.payout(reference, name, report.amount)]
    if report.failed:
        postings.append(ledger.payout_returned(reference, name, report.amount))
    for posting in postings:
        await uow.ledger.post(posting, account_id=None, at=real_now)


def _our_key(key: str | None) -> UUID | None:
    try:
        return UUID(key) if key else None
    except ValueError:
        return None


async def _dispute(
    uow: PaymentsUnitOfWork, name: str, report: DisputeReport, *, real_now: datetime
) -> None:
    """Bring our dispute to where the provider says it is; it may have been closed before."""
    ours = _our_key(report.key)
    attempt = await uow.attempts.find(ours) if ours else None
    if attempt is None:
        log.error("A dispute is about no charge of ours", reference=report.reference)
        return
    payment = await uow.payments.get(attempt.payment_id)  # locked: two webhooks take turns
    if payment.status is not PaymentStatus.SUCCEEDED:
        # We have not heard of the charge yet. Ask about it now, and about this again later.
        raise ChargeNotSettled("The disputed charge is not settled here yet.")
    at = max(real_now, await uow.now(payment.account_id))
    dispute = await uow.dispute(name, report.reference)
    if dispute is None:
        dispute = Dispute(
            id=new_id(),
            account_id=payment.account_id,
            payment_id=payment.id,
            invoice_id=payment.invoice_id,
            subscription_id=payment.subscription_id,
            provider=name,
            reference=report.reference,
            amount=report.amount.amount,
            currency=report.amount.currency,
            fee=report.fee,
            reason=report.reason,
            opened_at=at,
        )
        uow.session.add(dispute)
        uow.emit(dispute.open(at=at))
        posting = ledger.dispute_opened(dispute.id, name, dispute.money, dispute.fee)
        await uow.ledger.post(posting, account_id=payment.account_id, at=at)
    if report.status == "open" or dispute.status is not DisputeStatus.OPEN:
        return
    won = report.status == "won"
    uow.emit(dispute.close(won=won, at=at))
    posting = (
        ledger.dispute_won(dispute.id, name, dispute.money)
        if won
        else ledger.dispute_lost(dispute.id, dispute.money)
    )
    await uow.ledger.post(posting, account_id=payment.account_id, at=at)


async def _renew_method(
    uow: PaymentsUnitOfWork, name: str, notice: Notice, *, real_now: datetime
) -> None:
    """Its owner confirmed a method, or the card network sent a new expiry date for it."""
    statement = (
        select(PaymentMethod)
        .where(
            payment_methods.c.provider == name,
            payment_methods.c.reference == notice.reference,
            payment_methods.c.detached_at.is_(None),
        )
        .with_for_update(key_share=True)
    )
    method = (await uow.session.scalars(statement)).one_or_none()
    if method is None:
        return
    if notice.confirmed:
        method.confirm()
    if notice.method is not None:
        at = max(real_now, await uow.now(method.account_id))
        await renew_payment_method(uow, method, notice.method, now=at)


async def forget_webhooks(uow: PaymentsUnitOfWork, *, limit: int, real_now: datetime) -> int:
    """Drop what was worked off long ago; no provider repeats itself for so long."""
    old = (
        select(webhook_events.c.id)
        .where(webhook_events.c.processed_at < real_now - KEPT)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    gone = await uow.session.execute(
        delete(webhook_events).where(webhook_events.c.id.in_(old)).returning(webhook_events.c.id)
    )
    return len(gone.all())
