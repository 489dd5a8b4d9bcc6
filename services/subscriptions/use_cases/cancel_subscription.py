"""Stop a subscription: now, when the paid period runs out, or at a date. And take that back."""

from dataclasses import dataclass
from datetime import datetime

from services.subscriptions.domain.subscription import Subscription
from services.subscriptions.repository import SubscriptionsUnitOfWork
from services.subscriptions.use_cases.bill import bill
from shared.events.subscriptions import SubscriptionEvent


@dataclass(frozen=True, kw_only=True)
class Notice:
    """How it is to end."""

    at_period_end: bool = True
    cancel_at: datetime | None = None
    #: Give back what is left of a period that was paid ahead.
    credit: bool = False
    reason: str | None = None


async def cancel_subscription(
    uow: SubscriptionsUnitOfWork, subscription: Subscription, notice: Notice, *, now: datetime
) -> Subscription:
    """End it or schedule its end."""
    event: SubscriptionEvent
    if notice.cancel_at is not None or notice.at_period_end:
        event = subscription.cancel_later(
            at=now, on=notice.cancel_at, reason=notice.reason, credit=notice.credit
        )
    else:
        event = subscription.cancel(
            await uow.catalog.terms_of(subscription),
            at=now,
            now=now,
            credit=notice.credit,
            reason=notice.reason,
        )
    await bill(uow, [event])
    uow.audit("subscription.cancel", subscription.id, after={"status": subscription.status})
    return subscription


async def uncancel_subscription(
    uow: SubscriptionsUnitOfWork, subscription: Subscription, *, now: datetime
) -> Subscription:
    """Let it go on after all."""
    await bill(uow, [subscription.uncancel(at=now)])
    uow.audit("subscription.uncancel", subscription.id)
    return subscription


async def cancel_all(
    uow: SubscriptionsUnitOfWork, subscriptions: list[Subscription], *, now: datetime
) -> None:
    """The account is closed: everything it holds ends now."""
    for subscription in subscriptions:
        terms = await uow.catalog.terms_of(subscription)
        await bill(uow, [subscription.cancel(terms, at=now, now=now, reason="account_closed")])
