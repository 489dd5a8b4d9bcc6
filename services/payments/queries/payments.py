"""Payments with everything of them, as they are shown."""

from collections.abc import Sequence
from datetime import datetime
from typing import Self
from uuid import UUID

from pydantic import BaseModel
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from services.payments.domain.payments import Attempt, Payment, PaymentNotFound
from services.payments.domain.refunds import Dispute, Refund
from services.payments.queries.methods import NextAction
from services.payments.tables import attempts, disputes, payments, refunds
from shared.money import Money
from shared.pages import Page, PageRequest


class AttemptView(BaseModel):
    id: UUID
    number: int
    status: str
    provider: str
    payment_method_id: UUID
    amount: Money
    reference: str | None
    decline_class: str | None
    decline_code: str | None
    message: str | None
    started_at: datetime
    settled_at: datetime | None


class RefundView(BaseModel):
    id: UUID
    payment_id: UUID
    invoice_id: UUID
    status: str
    amount: Money
    reason: str
    failure: str | None
    created_at: datetime
    version: int

    @classmethod
    def of(cls, refund: Refund) -> Self:
        return cls(
            id=refund.id,
            payment_id=refund.payment_id,
            invoice_id=refund.invoice_id,
            status=refund.status,
            amount=refund.money,
            reason=refund.reason,
            failure=refund.failure,
            created_at=refund.created_at,
            version=refund.version,
        )


class DisputeView(BaseModel):
    id: UUID
    status: str
    amount: Money
    reason: str
    opened_at: datetime
    closed_at: datetime | None


class PaymentView(BaseModel):
    id: UUID
    account_id: UUID
    invoice_id: UUID
    subscription_id: UUID | None
    status: str
    amount: Money
    refunded: Money
    billing_reason: str
    decline_class: str | None
    decline_code: str | None
    next_attempt_at: datetime | None
    next_action: NextAction | None
    attempts: list[AttemptView]
    refunds: list[RefundView]
    disputes: list[DisputeView]
    created_at: datetime
    succeeded_at: datetime | None
    version: int


async def show_payment(session: AsyncSession, payment_id: UUID) -> PaymentView:
    """One payment with everything of it. Raises `PaymentNotFound`."""
    found = (
        await session.scalars(select(Payment).where(payments.c.id == payment_id))
    ).one_or_none()
    if found is None:
        raise PaymentNotFound("There is no such payment.")
    return (await _views(session, [found]))[0]


async def list_payments(
    session: AsyncSession,
    page: PageRequest,
    *,
    invoice_id: UUID | None,
    subscription_id: UUID | None,
    status: str | None,
) -> Page[PaymentView]:
    statement = select(Payment)
    if invoice_id is not None:
        statement = statement.where(payments.c.invoice_id == invoice_id)
    if subscription_id is not None:
        statement = statement.where(payments.c.subscription_id == subscription_id)
    if status is not None:
        statement = statement.where(payments.c.status == status)
    rows = (await session.scalars(page.narrow(statement, payments.c.id))).all()
    views = {view.id: view for view in await _views(session, rows)}
    return page.page(rows, lambda payment: views[payment.id], lambda payment: payment.id)


async def list_refunds(session: AsyncSession, payment_id: UUID) -> list[RefundView]:
    statement = select(Refund).where(refunds.c.payment_id == payment_id).order_by(refunds.c.id)
    return [RefundView.of(refund) for refund in await session.scalars(statement)]


async def _views(session: AsyncSession, found: Sequence[Payment]) -> list[PaymentView]:
    ids = [payment.id for payment in found]
    tries: dict[UUID, list[Attempt]] = {}
    for attempt in await session.scalars(
        select(Attempt).where(attempts.c.payment_id.in_(ids)).order_by(attempts.c.number)
    ):
        tries.setdefault(attempt.payment_id, []).append(attempt)
    back: dict[UUID, list[Refund]] = {}
    for refund in await session.scalars(
        select(Refund).where(refunds.c.payment_id.in_(ids)).order_by(refunds.c.id)
    ):
        back.setdefault(refund.payment_id, []).append(refund)
    fights: dict[UUID, list[Dispute]] = {}
    for dispute in await session.scalars(
        select(Dispute).where(disputes.c.payment_id.in_(ids)).order_by(disputes.c.id)
    ):
        fights.setdefault(dispute.payment_id, []).append(dispute)
    return [
        _view(
            payment,
            tries.get(payment.id, []),
            back.get(payment.id, []),
            fights.get(payment.id, []),
        )
        for payment in found
    ]


def _view(
    payment: Payment, tries: list[Attempt], back: list[Refund], fights: list[Dispute]
) -> PaymentView:
    waits = payment.status == "requires_action" and tries
    return PaymentView(
        id=payment.id,
        account_id=payment.account_id,
        invoice_id=payment.invoice_id,
        subscription_id=payment.subscription_id,
        status=payment.status,
        amount=payment.money,
        refunded=Money(payment.refunded, payment.currency),
        billing_reason=payment.billing_reason,
        decline_class=payment.decline_class,
        decline_code=payment.decline_code,
        next_attempt_at=payment.due_at,
        next_action=NextAction.of(tries[-1]) if waits else None,
        attempts=[
            AttemptView(
                id=attempt.id,
                number=attempt.number,
                status=attempt.status,
                provider=attempt.provider,
                payment_method_id=attempt.payment_method_id,
                amount=attempt.money,
                reference=attempt.reference,
                decline_class=attempt.decline_class,
                decline_code=attempt.decline_code,
                message=attempt.message,
                started_at=attempt.started_at,
                settled_at=attempt.settled_at,
            )
            for attempt in tries
        ],
        refunds=[RefundView.of(refund) for refund in back],
        disputes=[
            DisputeView(
                id=dispute.id,
                status=dispute.status,
                amount=dispute.money,
                reason=dispute.reason,
                opened_at=dispute.opened_at,
                closed_at=dispute.closed_at,
            )
            for dispute in fights
        ],
        created_at=payment.created_at,
        succeeded_at=payment.succeeded_at,
        version=payment.version,
    )
