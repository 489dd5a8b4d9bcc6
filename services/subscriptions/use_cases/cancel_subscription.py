"""Stop a subscription: now, when the paid period runs out, or at a date. And take that back."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from services.subscriptions.domain.agenda import EntryKind
from services.subscriptions.domain.subscription import (
    NO_USAGE,
    SERVED,
    Subscription,
    Usage,
    counted_until,
)
from services.subscriptions.repository import SubscriptionsUnitOfWork
from services.subscriptions.use_cases.bill import bill
from services.subscriptions.use_cases.gather_usage import gather_usage, mark_billed
from services.subscriptions.use_cases.who_may_ask import Asker
from shared.events.subscriptions import SubscriptionEvent


@dataclass(frozen=True, kw_only=True)
class RequestedEnd:
    """How it is to end."""

    asker: Asker
    at_period_end: bool = True
    cancel_at: datetime | None = None
    #: Give back what is left of a period that was paid ahead …
    credit: bool = False
    #: … by the way it was paid, and not as account credit.
    refund: bool = False
    reason: str | None = None


async def cancel_subscription(
    uow: SubscriptionsUnitOfWork,
    subscription: Subscription,
    request: RequestedEnd,
    *,
    now: datetime,
) -> Subscription:
    """End it or schedule its end."""
    before = {"status": subscription.status}
    events, usage = await decide_end(uow, subscription, request, now=now)
    await mark_billed(uow, subscription, usage)
    await bill(uow, events)
    after = {"status": subscription.status, "cancel_at": _iso(subscription.cancel_at)}
    uow.audit("subscription.cancel", subscription.id, before=before, after=after)
    return subscription


async def decide_end(
    uow: SubscriptionsUnitOfWork,
    subscription: Subscription,
    request: RequestedEnd,
    *,
    now: datetime,
) -> tuple[list[SubscriptionEvent], Usage]:
    """End it or schedule its end; with the usage that is billed by that."""
    policy = await request.asker.policy(uow, subscription)
    gives_back = request.credit or request.refund
    if request.cancel_at is not None or request.at_period_end:
        policy.require_cancel(
            "period_end" if request.cancel_at is None else "date", credit=gives_back
        )
        scheduled = subscription.cancel_later(
            at=now,
            by=request.asker.name,
            on=request.cancel_at,
            reason=request.reason,
            credit=gives_back,
            refund=request.refund,
        )
        return [scheduled], NO_USAGE
    if subscription.status in SERVED or gives_back:
        # What is not served has no period to run out: it can always be left.
        policy.require_cancel("now", credit=gives_back)
    return await cancel_now(
        uow,
        subscription,
        now=now,
        credit=gives_back,
        refund=request.refund,
        reason=request.reason,
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
    reason: str | None,
    credit: bool = False,
    refund: bool = False,
    lapsed_at: datetime | None = None,
) -> tuple[list[SubscriptionEvent], Usage]:
    """End it, with its usage until now billed. `lapsed_at`: when dunning came to nothing."""
    at = lapsed_at or now
    terms = await uow.catalog.terms_of(subscription)
    until = counted_until(now if lapsed_at else at)
    usage = await gather_usage(uow, subscription, terms, until=until)
    events = subscription.cancel(
        terms,
        at=at,
        now=now,
        credit=credit,
        refund=refund,
        reason=reason,
        usage=usage,
        lapsed=lapsed_at is not None,
    )
    return events, usage


async def cancel_all(
    uow: SubscriptionsUnitOfWork, subscriptions: Sequence[Subscription], *, now: datetime
) -> None:
    """The account is closed: everything it holds ends now."""
    for subscription in subscriptions:
        await bill(uow, await close_subscription(uow, subscription, now=now))


async def close_subscription(
    uow: SubscriptionsUnitOfWork, subscription: Subscription, *, now: datetime
) -> list[SubscriptionEvent]:
    """End it with its account; with a credit where it was to end with one."""
    entry = subscription.waiting(EntryKind.CANCEL)
    events, usage = await cancel_now(
        uow,
        subscription,
        now=now,
        credit=entry is not None and entry.credit,
        refund=entry is not None and entry.refund,
        reason="account_closed",
    )
    await mark_billed(uow, subscription, usage)
    return events


def _iso(instant: datetime | None) -> str | None:
    return instant.isoformat() if instant else None
