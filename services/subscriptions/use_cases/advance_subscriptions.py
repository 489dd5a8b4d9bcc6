"""Do what time alone brings: renewals, ends of trials, expiry, scheduled cancellations, pauses."""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from services.subscriptions.domain.period import counted_until
from services.subscriptions.domain.subscription import NO_USAGE, Act, Subscription, Usage
from services.subscriptions.repository import SubscriptionsUnitOfWork
from services.subscriptions.use_cases.bill import bill
from services.subscriptions.use_cases.gather_usage import (
    billed_now,
    gather_usage,
    mark_billed,
)
from shared.errors import DomainError
from shared.events.subscriptions import SubscriptionEvent
from shared.observability import logger
from shared.schedule import Due

log = logger(__name__)

#: More acts than this for one subscription in one run are a fault, not a late run: 100 days of
#: a daily price, eight years of a monthly one.
MOST_ACTS = 100
BILLS_USAGE = frozenset({Act.RENEW, Act.CANCEL, Act.PAUSE, Act.CHANGE, Act.BILL_USAGE})


async def advance_subscriptions(
    uow: SubscriptionsUnitOfWork, due: Due, *, most: int, only: UUID | None = None
) -> Sequence[Subscription]:
    """Take up to `most` that are due through everything that is due; returns those."""
    claimed = await uow.subscriptions.claim_due(due, most=most, only=only)
    if not claimed:
        return claimed
    await uow.catalog.load(claimed)
    zones = await uow.accounts.zones(each.account_id for each in claimed)
    events: list[SubscriptionEvent] = []
    for subscription in claimed:
        now = await due.now_for(uow, subscription.account_id)
        try:
            events += await _advance(
                uow, subscription, now=now, time_zone=zones.get(subscription.account_id)
            )
        except DomainError as refusal:
            # Nothing of it was written yet: forget what was tried and leave it to a person.
            await uow.session.refresh(subscription)
            park(subscription, refusal.detail, now=now)
    await bill(uow, events)
    return claimed


def park(subscription: Subscription, reason: str, *, now: datetime) -> None:
    subscription.park(reason, now=now)
    log.error("Parked", subscription_id=str(subscription.id), reason=reason)


async def can_pay_for(uow: SubscriptionsUnitOfWork, subscription: Subscription, act: Act) -> bool:
    """Whether somebody could pay for what follows; only a trial's end asks."""
    if act is not Act.END_TRIAL or subscription.payment_method_id is not None:
        return True
    return await uow.accounts.can_pay(subscription.account_id)


async def do_act(
    uow: SubscriptionsUnitOfWork,
    subscription: Subscription,
    act: Act,
    *,
    at: datetime,
    now: datetime,
    time_zone: str | None = None,
) -> tuple[list[SubscriptionEvent], Usage]:
    """What time alone does: the one way, also to see beforehand what it would do.

    Returns the usage that the events bill too, for `mark_billed`.
    """
    terms, started_at = await uow.catalog.terms_of(subscription), subscription.period_start
    usage = NO_USAGE
    if act in BILLS_USAGE:
        until = counted_until(at) if act is Act.CHANGE else at
        usage = await gather_usage(uow, subscription, terms, until=until)
    events = subscription.act(
        act,
        terms,
        at=at,
        now=now,
        can_pay=await can_pay_for(uow, subscription, act),
        usage=usage,
        time_zone=time_zone,
    )
    return events, billed_now(subscription, usage, since=started_at)


async def _advance(
    uow: SubscriptionsUnitOfWork,
    subscription: Subscription,
    *,
    now: datetime,
    time_zone: str | None,
) -> list[SubscriptionEvent]:
    events: list[SubscriptionEvent] = []
    for _ in range(MOST_ACTS):
        due_at = subscription.due_at
        if due_at is None or due_at > now:
            return events
        upcoming = subscription.next_act()
        if upcoming is None or upcoming[0] > now:
            return events
        at, act = upcoming
        done, usage = await do_act(uow, subscription, act, at=at, now=now, time_zone=time_zone)
        events += done
        await mark_billed(uow, subscription, usage)
    park(
        subscription,
        f"More than {MOST_ACTS} periods were due at once. Check its dates, then release it.",
        now=now,
    )
    return events
