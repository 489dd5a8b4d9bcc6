"""Webhooks in: stored once and answered at once, worked off from the store in any order."""

from datetime import datetime
from uuid import UUID

import orjson
from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert as upsert

from services.payments.domain import ledger
from services.payments.domain.methods import PaymentMethod
from services.payments.domain.payments import PaymentStatus
from services.payments.domain.refunds import Dispute, DisputeStatus, RefundStatus
from services.payments.domain.webhooks import WebhookEvent
from services.payments.providers import provider
from services.payments.providers.base import Dispute as DisputeReport
from services.payments.providers.base import Method, Notice, Payout
from services.payments.repository import PaymentsUnitOfWork
from services.payments.tables import payment_methods, webhook_events
from services.payments.use_cases.ask_providers import Begin, hint_attempt
from services.payments.use_cases.keep_payment_methods import WARNING
from shared.clock import utc_now
from shared.errors import Conflict
from shared.ids import new_id
from shared.observability import logger

log = logger(__name__)


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
        webhook.failed("being worked off", real_now=real_now)
    return found


async def work_off_webhook(begin: Begin, webhook: WebhookEvent) -> None:
    """Ask the provider for what the webhook is about, and write that down."""
    to = provider(webhook.provider)
    notice = to.read(orjson.dumps(webhook.body))
    report: DisputeReport | Payout | None = None
    if notice.about == "dispute":
        report = await to.look_up_dispute(notice.reference)
    elif notice.about == "payout":
        report = await to.look_up_payout(notice.reference)
    real_now = utc_now()
    async with begin() as uow:
        kept = await uow.webhook(webhook.id)
        if kept is None or kept.processed_at is not None:
            return
        await _apply(uow, webhook.provider, notice, report, real_now=real_now)
        kept.done(real_now=real_now)


async def _apply(
    uow: PaymentsUnitOfWork,
    name: str,
    notice: Notice,
    report: DisputeReport | Payout | None,
    *,
    real_now: datetime,
) -> None:
    if isinstance(report, DisputeReport):
        await _dispute(uow, name, report, real_now=real_now)
    elif isinstance(report, Payout):
        posting = ledger.payout(f"{name}:{report.reference}", name, report.amount)
        await uow.ledger.post(posting, account_id=None, at=real_now)
    elif notice.about == "method" and notice.method is not None:
        await _renew_method(uow, name, notice.method, real_now=real_now)
    elif notice.about == "charge" and (ours := _our_key(notice.key)):
        await hint_attempt(uow, ours, real_now=real_now)
    elif notice.about == "refund" and (ours := _our_key(notice.key)):
        refund = await uow.refund(ours)
        # One that was never sent is about to be; one that was lost is asked about now.
        if refund is not None and refund.status is RefundStatus.PENDING and refund.asked:
            refund.ask_at = real_now
            uow.wake("send_refunds")


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
    uow: PaymentsUnitOfWork, name: str, renewed: Method, *, real_now: datetime
) -> None:
    """The card network sent a new expiry date."""
    statement = (
        select(PaymentMethod)
        .where(
            payment_methods.c.provider == name,
            payment_methods.c.reference == renewed.reference,
            payment_methods.c.detached_at.is_(None),
        )
        .with_for_update()
    )
    method = (await uow.session.scalars(statement)).one_or_none()
    month, year = renewed.exp_month, renewed.exp_year
    if method is None or month is None or year is None:
        return
    if (method.exp_year or 0, method.exp_month or 0) >= (year, month):
        return  # an older word, or the same again
    at = max(real_now, await uow.now(method.account_id))
    uow.emit(method.renew(exp_month=month, exp_year=year, at=at))
    method.warn_at = method.expires_at - WARNING if method.expires_at else None
