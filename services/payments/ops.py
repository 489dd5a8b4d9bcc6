"""Operations: the books compared, and what needs a person."""

from datetime import datetime
from typing import Annotated, Self
from uuid import UUID

from fastapi import Depends, Response
from pydantic import BaseModel
from sqlalchemy import update

from services.payments.domain.audit import Audit, DifferenceClass
from services.payments.domain.payments import (
    Attempt,
    AttemptStatus,
    PaymentNotRefundable,
    RefundAboveCharge,
)
from services.payments.domain.refunds import Refund, RefundStatus
from services.payments.domain.webhooks import WebhookEvent
from services.payments.queries import stuck
from services.payments.repository import PaymentsUnitOfWork
from services.payments.settings import PaymentsSettings
from services.payments.tables import attempts, refunds, webhook_events
from services.payments.use_cases.audit_books import audit_books
from services.payments.use_cases.refund_payments import dismiss_refund, send_again
from shared.clock import utc_now
from shared.stuck import NothingStuck, StuckView
from shared.web import Edge, Instant, Page, Reading, Router, command, for_staff, problems
from shared.web import reading as read

router = Router()

Command = Annotated[Edge[PaymentsUnitOfWork], Depends(command)]
Read = Annotated[Reading[PaymentsUnitOfWork], Depends(read)]


class DifferenceView(BaseModel):
    kind: DifferenceClass
    between: str
    reference: str
    detail: str


class ReconciliationView(BaseModel):
    """What the audit compared and found; `pending` is under way and no difference yet."""

    at: datetime
    since: datetime | None
    checked: dict[str, int]
    pending: int
    data: list[DifferenceView]

    @classmethod
    def of(cls, audit: Audit, *, at: datetime, since: datetime | None) -> Self:
        return cls(
            at=at,
            since=since,
            checked=dict(audit.checked),
            pending=audit.pending,
            data=[
                DifferenceView(
                    kind=found.kind,
                    between=found.between,
                    reference=found.reference,
                    detail=found.detail,
                )
                for found in audit.differences
            ],
        )


@router.get("/v1/reconciliation", tags=["ledger"], dependencies=[for_staff("finance")])
async def reconciliation(edge: Read, since: Instant | None = None) -> ReconciliationView:
    """Invoices, payments, ledger and providers compared now; every difference. For finance."""
    settings: PaymentsSettings = edge.runtime.settings
    now = utc_now()
    audit = await audit_books(edge.runtime.begin, settings.enabled_providers, now=now, since=since)
    return ReconciliationView.of(audit, at=now, since=since)


@router.get("/v1/ops/payments/stuck", tags=["operations"], dependencies=[for_staff()])
async def list_stuck(edge: Read) -> Page[StuckView]:
    """Charges, refunds and webhooks that wait for a person. For staff."""
    async with edge.begin() as uow:
        return Page(data=await stuck.list_stuck(uow.session), next_cursor=None)


@router.post(
    "/v1/ops/payments/stuck/{stuck_id}/ask",
    status_code=204,
    tags=["operations"],
    responses=problems(NothingStuck, PaymentNotRefundable, RefundAboveCharge),
    dependencies=[for_staff("finance")],
)
async def ask_again(stuck_id: UUID, edge: Command) -> Response:
    """Have the provider asked once more, from the start of the schedule; staff.

    A refund that failed is made anew, under a key of its own.
    """
    now = utc_now()
    async with edge.begin() as uow:
        session = uow.session
        done = 0
        for statement in (
            update(Attempt)
            .where(attempts.c.id == stuck_id, attempts.c.status == AttemptStatus.UNKNOWN)
            .values(ask_at=now, asked=0),
            update(Refund)
            .where(refunds.c.id == stuck_id, refunds.c.status == RefundStatus.PENDING)
            .values(ask_at=now, asked=1),
            update(WebhookEvent)
            .where(webhook_events.c.id == stuck_id, webhook_events.c.processed_at.is_(None))
            .values(process_at=now, tries=0),
        ):
            result = await session.execute(
                statement.returning(statement.table.c.id),
                execution_options={"synchronize_session": False},
            )
            done += len(result.all())
        if not done and not await send_again(uow, stuck_id, real_now=now):
            raise NothingStuck("Nothing of this id waits for a person.")
        uow.audit("payments.ask_again", stuck_id)
        for job in ("ask_providers", "send_refunds", "work_off_webhooks"):
            uow.wake(job)
        return await edge.answer(uow)


@router.post(
    "/v1/ops/payments/stuck/{stuck_id}/dismiss",
    status_code=204,
    tags=["operations"],
    responses=problems(NothingStuck),
    dependencies=[for_staff("finance")],
)
async def dismiss(stuck_id: UUID, edge: Command) -> Response:
    """Say that the money of a failed refund went another way, or need not go; staff."""
    async with edge.begin() as uow:
        if not await dismiss_refund(uow, stuck_id, real_now=utc_now()):
            raise NothingStuck("No failed refund of this id waits for a person.")
        uow.audit("payments.dismiss", stuck_id)
        return await edge.answer(uow)
