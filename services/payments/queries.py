"""Reading for an answer: no lock, and views instead of aggregates."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Literal, Self
from uuid import UUID

from pydantic import BaseModel
from sqlalchemy import func, select, true
from sqlalchemy.ext.asyncio import AsyncSession

from services.payments.domain.ledger import LedgerEntry, LedgerTransaction
from services.payments.domain.methods import PaymentMethod, PaymentMethodNotFound
from services.payments.domain.payments import (
    Attempt,
    AttemptStatus,
    Payment,
    PaymentNotFound,
)
from services.payments.domain.refunds import Dispute, Refund, RefundStatus
from services.payments.domain.webhooks import WebhookEvent
from services.payments.tables import (
    attempts,
    disputes,
    ledger_entries,
    ledger_transactions,
    payment_methods,
    payments,
    refunds,
    webhook_events,
)
from shared.money import Money
from shared.pages import Page, PageRequest


class NextAction(BaseModel):
    """What has to be confirmed with the payer's bank: at a page, or by the provider's own script.

    `redirect` has the `url` to send the payer to; `client_secret` is what the script of the
    provider (Stripe.js, say) wants.
    """

    type: Literal["redirect", "client_secret"] = "redirect"
    url: str | None = None
    client_secret: str | None = None

    @classmethod
    def of(cls, thing: PaymentMethod | Attempt) -> Self | None:
        """None where nobody has to confirm anything."""
        if thing.action_url:
            return cls(type="redirect", url=thing.action_url)
        if thing.client_secret:
            return cls(type="client_secret", client_secret=thing.client_secret)
        return None


class PaymentMethodView(BaseModel):
    """A way to pay. While `next_action` is set, its owner has yet to confirm it."""

    id: UUID
    account_id: UUID
    provider: str
    brand: str | None
    last4: str | None
    exp_month: int | None
    exp_year: int | None
    is_default: bool
    next_action: NextAction | None
    created_at: datetime
    version: int

    @classmethod
    def of(cls, method: PaymentMethod) -> Self:
        return cls(
            id=method.id,
            account_id=method.account_id,
            provider=method.provider,
            brand=method.brand,
            last4=method.last4,
            exp_month=method.exp_month,
            exp_year=method.exp_year,
            is_default=method.is_default,
            next_action=NextAction.of(method),
            created_at=method.created_at,
            version=method.version,
        )


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


class BalanceView(BaseModel):
    account: str
    balance: Money


class BalancesView(BaseModel):
    at: datetime | None
    data: list[BalanceView]


class LegView(BaseModel):
    account: str
    amount: Money


class EntryView(BaseModel):
    """A movement with its legs, which sum to zero."""

    id: UUID
    kind: str
    reference: str
    account_id: UUID | None
    occurred_at: datetime
    recorded_at: datetime
    legs: list[LegView]


class StuckView(BaseModel):
    """Something that will not go on without a person."""

    kind: Literal["payment", "refund", "webhook"]
    id: UUID
    account_id: UUID | None
    since: datetime
    reason: str
    next_step: str


async def list_payment_methods(session: AsyncSession, page: PageRequest) -> Page[PaymentMethodView]:
    statement = select(PaymentMethod).where(payment_methods.c.detached_at.is_(None))
    rows = (await session.scalars(page.narrow(statement, payment_methods.c.id))).all()
    return page.page(rows, PaymentMethodView.of, lambda method: method.id)


async def show_payment_method(session: AsyncSession, method_id: UUID) -> PaymentMethodView:
    statement = select(PaymentMethod).where(
        payment_methods.c.id == method_id, payment_methods.c.detached_at.is_(None)
    )
    found = (await session.scalars(statement)).one_or_none()
    if found is None:
        raise PaymentMethodNotFound("There is no such payment method.")
    return PaymentMethodView.of(found)


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


async def ledger_balances(
    session: AsyncSession, *, at: datetime | None, account_id: UUID | None
) -> BalancesView:
    """What every account of the books stands at, or stood at an instant."""
    statement = (
        select(
            ledger_entries.c.ledger_account,
            ledger_entries.c.currency,
            func.sum(ledger_entries.c.amount),
        )
        .select_from(LedgerEntry)
        .where(
            ledger_entries.c.occurred_at <= at if at else true(),
            ledger_entries.c.account_id == account_id if account_id else true(),
        )
        .group_by(ledger_entries.c.ledger_account, ledger_entries.c.currency)
        .order_by(ledger_entries.c.ledger_account, ledger_entries.c.currency)
    )
    rows = (await session.execute(statement)).all()
    return BalancesView(
        at=at,
        data=[
            BalanceView(account=account, balance=Money(int(amount), currency))
            for account, currency, amount in rows
        ],
    )


async def list_ledger_entries(
    session: AsyncSession, page: PageRequest, *, reference: str | None
) -> Page[EntryView]:
    """Movements with their legs, newest first."""
    statement = select(LedgerTransaction)
    if reference is not None:
        statement = statement.where(ledger_transactions.c.reference == reference)
    rows = (await session.scalars(page.narrow(statement, ledger_transactions.c.id))).all()
    legs: dict[UUID, list[LegView]] = {}
    for leg in await session.scalars(
        select(LedgerEntry)
        .where(ledger_entries.c.transaction_id.in_([row.id for row in rows]))
        .order_by(ledger_entries.c.id)
    ):
        legs.setdefault(leg.transaction_id, []).append(
            LegView(account=leg.ledger_account, amount=Money(leg.amount, leg.currency))
        )

    def view(row: Any) -> EntryView:
        return EntryView(
            id=row.id,
            kind=row.kind,
            reference=row.reference,
            account_id=row.account_id,
            occurred_at=row.occurred_at,
            recorded_at=row.recorded_at,
            legs=legs.get(row.id, []),
        )

    return page.page(rows, view, lambda row: row.id)


async def list_stuck(session: AsyncSession) -> list[StuckView]:
    """Charges, refunds and webhooks that nobody works on by themselves any more."""
    found: list[StuckView] = []
    unknown = select(Attempt).where(
        attempts.c.status == AttemptStatus.UNKNOWN, attempts.c.ask_at.is_(None)
    )
    for attempt in await session.scalars(unknown):
        step = "Look the attempt's id up at the provider, then POST …/stuck/{id}/ask to ask again."
        found.append(
            StuckView(
                kind="payment",
                id=attempt.id,
                account_id=attempt.account_id,
                since=attempt.started_at,
                reason=attempt.message or "The provider's answer was lost.",
                next_step=step,
            )
        )
    unsent = select(Refund).where(
        refunds.c.status == RefundStatus.PENDING, refunds.c.ask_at.is_(None)
    )
    for refund in await session.scalars(unsent):
        step = "Look the refund's id up at the provider, then POST …/stuck/{id}/ask to ask again."
        found.append(
            StuckView(
                kind="refund",
                id=refund.id,
                account_id=refund.account_id,
                since=refund.created_at,
                reason=refund.failure or "The provider's answer was lost.",
                next_step=step,
            )
        )
    failed = select(WebhookEvent).where(
        webhook_events.c.processed_at.is_(None), webhook_events.c.process_at.is_(None)
    )
    for webhook in await session.scalars(failed):
        step = "Read the log for its id, mend the cause, then POST …/stuck/{id}/ask."
        found.append(
            StuckView(
                kind="webhook",
                id=webhook.id,
                account_id=None,
                since=webhook.received_at,
                reason=webhook.trouble or "It could not be worked off.",
                next_step=step,
            )
        )
    return found
