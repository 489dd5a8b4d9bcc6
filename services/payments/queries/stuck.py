"""What nobody works on by itself any more, for who looks after the system."""

from datetime import datetime

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from services.payments.domain.payments import Attempt, AttemptStatus
from services.payments.domain.refunds import Refund, RefundStatus
from services.payments.domain.webhooks import WebhookEvent
from services.payments.tables import attempts, refunds, webhook_events
from shared.stuck import StuckView

#: By kind, what a person can do.
NEXT_STEP = {
    "payment": "Look the attempt's id up at the provider, then POST …/stuck/{id}/ask.",
    "refund": "Look the refund's id up at the provider, then POST …/stuck/{id}/ask.",
    "failed_refund": "POST …/stuck/{id}/ask makes it anew; when the money went another way,"
    " POST …/stuck/{id}/dismiss.",
    "webhook": "Read the log for its id, mend the cause, then POST …/stuck/{id}/ask.",
}
LOST = "The provider's answer was lost."


async def list_stuck(session: AsyncSession) -> list[StuckView]:
    """Charges, refunds and webhooks that nobody works on by themselves any more."""
    unknown = await session.scalars(
        select(Attempt).where(
            attempts.c.status == AttemptStatus.UNKNOWN, attempts.c.ask_at.is_(None)
        )
    )
    unsent = await session.scalars(
        select(Refund).where(refunds.c.status == RefundStatus.PENDING, refunds.c.ask_at.is_(None))
    )
    failed = await session.scalars(
        select(Refund).where(
            refunds.c.status == RefundStatus.FAILED, refunds.c.attended_at.is_(None)
        )
    )
    unread = await session.scalars(
        select(WebhookEvent).where(
            webhook_events.c.processed_at.is_(None), webhook_events.c.process_at.is_(None)
        )
    )
    return [
        *(_view("payment", one, one.started_at, one.message or LOST) for one in unknown),
        *(_view("refund", one, one.created_at, one.failure or LOST) for one in unsent),
        *(_view("failed_refund", one, one.created_at, one.failure or "refused") for one in failed),
        *(
            _view("webhook", one, one.received_at, one.trouble or "It could not be worked off.")
            for one in unread
        ),
    ]


def _view(
    kind: str, row: Attempt | Refund | WebhookEvent, since: datetime, reason: str
) -> StuckView:
    return StuckView(
        kind=kind,
        id=row.id,
        account_id=None if isinstance(row, WebhookEvent) else row.account_id,
        since=since,
        reason=reason,
        next_step=NEXT_STEP[kind].replace("{id}", str(row.id)),
    )
