"""See beforehand what something would cost now, and what the invoice after it would say."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import datetime, time, timedelta
from enum import Enum
from zoneinfo import ZoneInfo

from services.subscriptions import queries
from services.subscriptions.domain.subscription import NO_USAGE, Act, Subscription
from services.subscriptions.repository import SubscriptionsUnitOfWork
from services.subscriptions.use_cases.advance_subscriptions import (
    BILLS_USAGE,
    MOST_ACTS,
    can_pay_for,
)
from services.subscriptions.use_cases.cancel_subscription import Notice, decide_end
from services.subscriptions.use_cases.change_subscription import Wish, decide_change
from services.subscriptions.use_cases.gather_usage import gather_usage
from shared.events.subscriptions import (
    Billable,
    SubscriptionEvent,
    SubscriptionRenewed,
    SubscriptionTrialEnded,
)

#: What is billed because time has passed; what somebody asks for has an invoice of its own.
BY_TIME_ALONE = (SubscriptionRenewed, SubscriptionTrialEnded)
#: Of one invoice for a whole account, as many subscriptions are foreseen.
MOST_TOGETHER = 100


class Waking(Enum):
    """Ask what a resume would cost."""

    NOW = "now"


@dataclass(frozen=True)
class Preview:
    """What would happen now, and on the next invoice.

    `together`: what the account's other subscriptions renew on that day, for one invoice.
    """

    now: SubscriptionEvent | None
    next: Billable | None
    next_at: datetime | None
    together: Sequence[Billable] = ()


async def preview_subscription(
    uow: SubscriptionsUnitOfWork,
    subscription: Subscription,
    asked: Wish | Notice | Waking,
    *,
    now: datetime,
) -> Preview:
    """The same sums as the act itself, without anything being written.

    An empty wish asks for the next invoice alone.
    """
    uow.session.expunge(subscription)  # what happens to it from here on is never written
    event: SubscriptionEvent | None = None
    match asked:
        case Notice():
            event = await decide_end(uow, subscription, asked, now=now, remember=False)
        case Waking():
            terms = await uow.catalog.terms_of(subscription)
            event = subscription.resume(terms, at=now, now=now)
        case Wish() if not asked.is_empty:
            event = await decide_change(uow, subscription, asked, now=now)
    return await _foresee(uow, subscription, event)


async def preview_next(uow: SubscriptionsUnitOfWork, subscription: Subscription) -> Preview:
    """What time alone would bill next."""
    uow.session.expunge(subscription)
    return await _foresee(uow, subscription, None)


async def _foresee(
    uow: SubscriptionsUnitOfWork, subscription: Subscription, event: SubscriptionEvent | None
) -> Preview:
    """What time alone would bill next, after `event`."""
    async for at, bill in _bills(uow, subscription):
        together = await _billed_together(uow, subscription, bill)
        return Preview(event, bill, at, together)
    return Preview(event, None, None)


async def _bills(
    uow: SubscriptionsUnitOfWork, subscription: Subscription
) -> AsyncIterator[tuple[datetime, Billable]]:
    """What time alone would bill, and when. A period that begins counts, whatever it costs."""
    for _ in range(MOST_ACTS):
        upcoming = subscription.next_act()
        if upcoming is None:
            return
        at, act = upcoming
        terms = await uow.catalog.terms_of(subscription)
        usage = NO_USAGE
        if act in BILLS_USAGE:
            usage = await gather_usage(uow, subscription, terms, until=at)
        can_pay = await can_pay_for(uow, subscription, act)
        for event in subscription.act(act, terms, at=at, now=at, usage=usage, can_pay=can_pay):
            if isinstance(event, Billable) and (event.charges or act is Act.RENEW):
                yield at, event


async def _billed_together(
    uow: SubscriptionsUnitOfWork, subscription: Subscription, bill: Billable
) -> Sequence[Billable]:
    """What others of the account bill by themselves on the same day, and is collected alike."""
    if not isinstance(bill, BY_TIME_ALONE):
        return ()
    zones = await uow.accounts.zones([subscription.account_id])
    zone = ZoneInfo(zones.get(subscription.account_id, subscription.time_zone))
    day = bill.period_start.astimezone(zone).date()
    end_of_day = datetime.combine(day + timedelta(days=1), time(), tzinfo=zone)
    together = []
    for other in await queries.due_before(
        uow, subscription.account_id, end_of_day, besides=subscription.id, most=MOST_TOGETHER
    ):
        uow.session.expunge(other)
        async for at, theirs in _bills(uow, other):
            if at >= end_of_day:
                break
            if (
                isinstance(theirs, BY_TIME_ALONE)
                and theirs.period_start.astimezone(zone).date() == day
                and _collected(theirs) == _collected(bill)
            ):
                together.append(theirs)
    return together


def _collected(event: Billable) -> tuple[object, ...]:
    """What events have to have in common to be on one invoice."""
    return event.currency, event.payment_method_id, event.dunning
