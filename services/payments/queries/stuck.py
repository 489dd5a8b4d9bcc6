"""What nobody works on by itself any more, for who looks after the system."""

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from services.payments.domain.payments import Attempt, AttemptStatus
from services.payments.domain.refunds import Refund, RefundStatus
from services.payments.domain.webhooks import WebhookEvent
from services.payments.tables import attempts, refunds, webhook_events
from shared.stuck import StuckView


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
