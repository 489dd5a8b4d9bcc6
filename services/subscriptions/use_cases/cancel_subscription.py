"""Stop a subscription: now, when the paid period runs out, or at a date. And take that back."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from services.subscriptions.domain.subscription import Subscription
from services.subscriptions.repository import SubscriptionsUnitOfWork
from services.subscriptions.use_cases.bill import bill
from services.subscriptions.use_cases.gather_usage import gather_usage, mark_billed
from shared.events.subscriptions import SubscriptionCanceled, SubscriptionEvent


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
    await bill(uow, [await decide_end(uow, subscription, notice, now=now)])
    uow.audit("subscription.cancel", subscription.id, after={"status": subscription.status})
    return subscription


async def decide_end(
    uow: SubscriptionsUnitOfWork,
    subscription: Subscription,
    notice: Notice,
    *,
    now: datetime,
    remember: bool = True,
) -> SubscriptionEvent:
    """End it or schedule its end. `remember`: also what of its usage is billed by that."""
    if notice.cancel_at is not None or notice.at_period_end:
        return subscription.cancel_later(
            at=now, on=notice.cancel_at, reason=notice.reason, credit=notice.credit
        )
    return await cancel_now(
        uow,
        subscription,
        now=now,
        credit=notice.credit,
        reason=notice.reason,
        remember=remember,
    )


async def uncancel_subscription(
    uow: SubscriptionsUnitOfWork, subscription: Subscription, *, now: datetime
) -> Subscription:
    """Let it go on after all."""
    await bill(uow, [subscription.uncancel(at=now)])
    uow.audit("subscription.uncancel", subscription.id)
    return subscription


async def cancel_now(
    uow: SubscriptionsUnitOfWork,
    subscription: Subscription,
    *,
    now: datetime,
    credit: bool | None,
    reason: str | None,
    lapsed_at: datetime | None = None,
    remember: bool = True,
) -> SubscriptionCanceled:
    """End it, with its usage until now billed. `lapsed_at`: when dunning came to nothing."""
    at = lapsed_at or now
    terms = await uow.catalog.terms_of(subscription)
    usage = await gather_usage(uow, subscription, terms, until=at)
    items = subscription.items
    event = subscription.cancel(
        terms,
        at=at,
        now=now,
        credit=credit,
        reason=reason,
        usage=usage,
        lapsed=lapsed_at is not None,
    )
    if remember:
        await mark_billed(uow, subscription, items, terms, usage)
    return event


async def cancel_all(
    uow: SubscriptionsUnitOfWork, subscriptions: Sequence[Subscription], *, now: datetime
) -> None:
    """The account is closed: everything it holds ends now."""
    for subscription in subscriptions:
        await bill(uow, [await close_subscription(uow, subscription, now=now)])


async def close_subscription(
    uow: SubscriptionsUnitOfWork, subscription: Subscription, *, now: datetime
) -> SubscriptionCanceled:
    """End it with its account."""
    return await cancel_now(uow, subscription, now=now, credit=None, reason="account_closed")
