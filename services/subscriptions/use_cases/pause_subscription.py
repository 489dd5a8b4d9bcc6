"""Let a subscription rest from its period's end on, and wake it again."""

from datetime import datetime

from services.subscriptions.domain.subscription import Subscription
from services.subscriptions.repository import SubscriptionsUnitOfWork
from services.subscriptions.use_cases.bill import bill


async def pause_subscription(
    uow: SubscriptionsUnitOfWork,
    subscription: Subscription,
    *,
    resumes_at: datetime | None,
    now: datetime,
) -> Subscription:
    await bill(uow, [subscription.pause_later(at=now, resumes_at=resumes_at)])
    uow.audit("subscription.pause", subscription.id)
    return subscription


async def resume_subscription(
    uow: SubscriptionsUnitOfWork, subscription: Subscription, *, now: datetime
) -> Subscription:
    """Wake it, or take back a pause that has not begun."""
    if subscription.pause_at_period_end:
        await bill(uow, [subscription.withdraw_pause(at=now)])
    else:
        terms = await uow.catalog.terms_of(subscription)
        await bill(uow, [subscription.resume(terms, at=now, now=now)])
    uow.audit("subscription.resume", subscription.id)
    return subscription
