"""See beforehand what something would cost now, and what the invoice after it would say."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import datetime, time, timedelta
from enum import Enum
from zoneinfo import ZoneInfo

from services.subscriptions import queries
from services.subscriptions.domain.subscription import Act, Subscription
from services.subscriptions.repository import SubscriptionsUnitOfWork
from services.subscriptions.use_cases.advance_subscriptions import MOST_ACTS, do_act
from services.subscriptions.use_cases.cancel_subscription import RequestedEnd, decide_end
from services.subscriptions.use_cases.change_subscription import RequestedChange, decide_change
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


class Resumption(Enum):
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
    asked: RequestedChange | RequestedEnd | Resumption,
    *,
    now: datetime,
) -> Preview:
    """The same sums as the act itself, without anything being written.

    An empty request for a change asks for the next invoice alone.
    """
    uow.session.expunge(subscription)  # what happens to it from here on is never written
    events: list[SubscriptionEvent] = []
    match asked:
        case RequestedEnd():
            events, _ = await decide_end(uow, subscription, asked, now=now)
        case Resumption():
            terms = await uow.catalog.terms_of(subscription)
            events = [subscription.resume(terms, at=now, now=now)]
        case RequestedChange() if not asked.is_empty:
            events, _ = await decide_change(uow, subscription, asked, now=now)
    event = events[-1] if events else None
    return await _foresee(uow, subscription, event)


async def preview_next(uow: SubscriptionsUnitOfWork, subscription: Subscription) -> Preview:
    """What time alone would bill next."""
    await uow.subscriptions.catch_up([subscription])
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
        events, _ = await do_act(uow, subscription, act, at=at, now=at)
        for event in events:
            if isinstance(event, Billable) and (
                event.charges or event.take_backs or act is Act.RENEW
            ):
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
    others = await queries.due_before(
        uow, subscription.account_id, end_of_day, besides=subscription.id, most=MOST_TOGETHER
    )
    for other in await uow.subscriptions.catch_up(others):
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
