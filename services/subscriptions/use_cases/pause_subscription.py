"""Let a subscription rest from its period's end on, and wake it again."""

from dataclasses import dataclass
from datetime import datetime

from services.subscriptions.domain.agenda import EntryKind
from services.subscriptions.domain.subscription import Subscription
from services.subscriptions.repository import SubscriptionsUnitOfWork
from services.subscriptions.use_cases.bill import bill
from services.subscriptions.use_cases.who_may_ask import Asker
from shared.events.subscriptions import SubscriptionEvent


@dataclass(frozen=True)
class RequestedResumption:
    """It is to go on."""

    asker: Asker


async def pause_subscription(
    uow: SubscriptionsUnitOfWork,
    subscription: Subscription,
    *,
    asker: Asker,
    resumes_at: datetime | None,
    now: datetime,
) -> Subscription:
    """Have it pause when its period ends; `resumes_at` wakes it by itself."""
    (await asker.policy(uow, subscription)).require_pause()
    await bill(uow, [subscription.pause_later(at=now, by=asker.name, resumes_at=resumes_at)])
    uow.audit("subscription.pause", subscription.id)
    return subscription


async def resume_subscription(
    uow: SubscriptionsUnitOfWork, subscription: Subscription, *, asker: Asker, now: datetime
) -> Subscription:
    """Wake it, or take back a pause that has not begun."""
    request = RequestedResumption(asker)
    await bill(uow, await decide_resumption(uow, subscription, request, now=now))
    uow.audit("subscription.resume", subscription.id)
    return subscription


async def decide_resumption(
    uow: SubscriptionsUnitOfWork,
    subscription: Subscription,
    request: RequestedResumption,
    *,
    now: datetime,
) -> list[SubscriptionEvent]:
    """Wake it, or take back a pause that has not begun."""
    (await request.asker.policy(uow, subscription)).require_pause()
    if subscription.waiting(EntryKind.PAUSE) is not None:
        return [subscription.withdraw_pause(at=now)]
    terms = await uow.catalog.terms_of(subscription)
    resumed = subscription.resume(terms, at=now, now=now)
    return [resumed, *subscription.report_moot(now=now)]
