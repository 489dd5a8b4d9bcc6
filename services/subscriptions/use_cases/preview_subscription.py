"""See beforehand what something would cost now, and what the invoice after it would say."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime, time, timedelta
from zoneinfo import ZoneInfo

from services.subscriptions import queries
from services.subscriptions.domain.subscription import NO_USAGE, Act, Subscription, Usage
from services.subscriptions.repository import SubscriptionsUnitOfWork
from services.subscriptions.repository.foreseen import ForeseenUsage
from services.subscriptions.use_cases.advance_subscriptions import MOST_ACTS, do_act
from services.subscriptions.use_cases.cancel_subscription import RequestedEnd, decide_end
from services.subscriptions.use_cases.change_subscription import (
    RequestedChange,
    apply_pending_change,
    decide_change,
)
from services.subscriptions.use_cases.gather_usage import mark_billed
from services.subscriptions.use_cases.pause_subscription import (
    RequestedResumption,
    decide_resumption,
)
from shared.events.subscriptions import (
    Billable,
    SubscriptionChanged,
    SubscriptionChangeLapsed,
    SubscriptionChangePending,
    SubscriptionChangeWithdrawn,
    SubscriptionEvent,
    SubscriptionRenewed,
    SubscriptionTrialEnded,
    SubscriptionUsageBilled,
)

#: What is billed because time has passed; what somebody asks for has an invoice of its own.
BY_TIME_ALONE = (SubscriptionRenewed, SubscriptionTrialEnded)
#: What is invoiced by itself and leaves alone what waits for the next invoice.
LEAVES_WAITING = (SubscriptionChanged, SubscriptionChangePending, SubscriptionUsageBilled)
#: What invoicing has to know of for what comes after it.
Told = Billable | SubscriptionChangeLapsed
#: Of one invoice for a whole account, as many subscriptions are foreseen.
MOST_TOGETHER = 100


@dataclass(frozen=True)
class Preview:
    """What would happen now, and on the next invoice.

    `before` is all that is billed before that, or lapses and gives its credit back; `waiting` is
    what earlier changes left for it; `together` is what the account's other subscriptions renew on
    the same day, for one invoice.
    """

    now: SubscriptionEvent | None = None
    before: Sequence[Told] = ()
    next: Billable | None = None
    next_at: datetime | None = None
    together: Sequence[Billable] = ()
    waiting: Sequence[SubscriptionChanged] = ()


async def preview_subscription(
    uow: SubscriptionsUnitOfWork,
    subscription: Subscription,
    asked: RequestedChange | RequestedEnd | RequestedResumption,
    *,
    now: datetime,
) -> Preview:
    """The same sums as the act itself, without anything being written.

    An empty request for a change asks for the next invoice alone. A change that waits for its
    payment is taken for paid in what comes after it.
    """
    (foreseen,) = await _foresee(uow, [subscription])
    events, usage = await _decide(uow, foreseen, asked, now=now)
    await mark_billed(uow, foreseen, usage)
    # What it makes moot is reported last.
    acts = [one for one in events if not isinstance(one, SubscriptionChangeWithdrawn)] or events
    event = acts[-1] if acts else None
    if isinstance(event, SubscriptionChangePending):
        events += await apply_pending_change(uow, foreseen, event.change_id, now=now)
    before = [one for one in events if isinstance(one, Told)]
    return await _next_invoice(uow, foreseen, event, before)


async def preview_next(uow: SubscriptionsUnitOfWork, subscription: Subscription) -> Preview:
    """What time alone would bill next, with the usage so far."""
    (foreseen,) = await _foresee(uow, [subscription])
    return await _next_invoice(uow, foreseen, None, [])


async def _decide(
    uow: SubscriptionsUnitOfWork,
    foreseen: Subscription,
    asked: RequestedChange | RequestedEnd | RequestedResumption,
    *,
    now: datetime,
) -> tuple[list[SubscriptionEvent], Usage]:
    match asked:
        case RequestedEnd():
            return await decide_end(uow, foreseen, asked, now=now)
        case RequestedResumption():
            return await decide_resumption(uow, foreseen, asked, now=now), NO_USAGE
        case RequestedChange() if not asked.is_empty:
            return await decide_change(uow, foreseen, asked, now=now)
    return [], NO_USAGE


async def _foresee(
    uow: SubscriptionsUnitOfWork, subscriptions: Sequence[Subscription]
) -> Sequence[Subscription]:
    """The subscriptions to try things with: what happens to them from here on is never written."""
    if not isinstance(uow.usage, ForeseenUsage):
        uow.usage = ForeseenUsage(uow.session)
    for subscription in subscriptions:
        uow.session.expunge(subscription)
    return await uow.subscriptions.catch_up(subscriptions)


async def _next_invoice(
    uow: SubscriptionsUnitOfWork,
    foreseen: Subscription,
    event: SubscriptionEvent | None,
    before: list[Told],
) -> Preview:
    """What time alone would bill next, after `event`; what lapses until then is before it."""
    zone = (await uow.accounts.zones([foreseen.account_id])).get(foreseen.account_id)
    async with aclosing(_bills(uow, foreseen, time_zone=zone, lapsed=before)) as bills:
        async for at, bill in bills:
            together = await _billed_together(uow, foreseen, bill, time_zone=zone)
            waiting = await _waiting_for(uow, foreseen, bill, before)
            return Preview(event, before, bill, at, together, waiting)
    return Preview(event, before)


async def _waiting_for(
    uow: SubscriptionsUnitOfWork,
    foreseen: Subscription,
    bill: Billable,
    before: Sequence[Told],
) -> Sequence[SubscriptionChanged]:
    """What changes left for the next invoice, where this bill is one that takes it in."""
    if isinstance(bill, LEAVES_WAITING):
        return ()
    made = await queries.bills_of_changes(uow, foreseen.id)
    now_made = [one for one in before if isinstance(one, SubscriptionChanged)]
    return [one for one in (*made, *now_made) if not one.invoice_now]


async def _bills(
    uow: SubscriptionsUnitOfWork,
    foreseen: Subscription,
    *,
    time_zone: str | None,
    lapsed: list[Told],
) -> AsyncGenerator[tuple[datetime, Billable]]:
    """What time alone would bill, and when. A period that begins counts, whatever it costs.

    Changes that are not paid for by then are noted in `lapsed`.
    """
    for _ in range(MOST_ACTS):
        upcoming = foreseen.next_act()
        if upcoming is None:
            return
        at, act = upcoming
        events, usage = await do_act(uow, foreseen, act, at=at, now=at, time_zone=time_zone)
        await mark_billed(uow, foreseen, usage)
        lapsed += [one for one in events if isinstance(one, SubscriptionChangeLapsed)]
        for event in events:
            if isinstance(event, Billable) and (
                event.charges or event.take_backs or act is Act.RENEW
            ):
                yield at, event


async def _billed_together(
    uow: SubscriptionsUnitOfWork,
    foreseen: Subscription,
    bill: Billable,
    *,
    time_zone: str | None,
) -> Sequence[Billable]:
    """What others of the account bill by themselves on the same day, and is collected alike."""
    if not isinstance(bill, BY_TIME_ALONE):
        return ()
    zone = ZoneInfo(time_zone or foreseen.time_zone)
    day = bill.period_start.astimezone(zone).date()
    end_of_day = datetime.combine(day + timedelta(days=1), time(), tzinfo=zone)
    others = await queries.due_before(
        uow, foreseen.account_id, end_of_day, besides=foreseen.id, most=MOST_TOGETHER
    )
    together = []
    for other in await _foresee(uow, others):
        async with aclosing(_bills(uow, other, time_zone=time_zone, lapsed=[])) as bills:
            async for at, theirs in bills:
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
