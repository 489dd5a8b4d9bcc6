"""See beforehand what something would cost now, and what the invoice after it would say."""

from dataclasses import dataclass
from datetime import datetime
from enum import Enum

from services.subscriptions.domain.subscription import NO_USAGE, Act, Subscription
from services.subscriptions.repository import SubscriptionsUnitOfWork
from services.subscriptions.use_cases.advance_subscriptions import BILLS_USAGE, can_pay_for
from services.subscriptions.use_cases.cancel_subscription import Notice, decide_end
from services.subscriptions.use_cases.change_subscription import Wish, decide_change
from services.subscriptions.use_cases.gather_usage import gather_usage
from shared.events.subscriptions import Billable, SubscriptionEvent


class Waking(Enum):
    """Ask what a resume would cost."""

    NOW = "now"


@dataclass(frozen=True)
class Preview:
    """What would happen now, and on the next invoice."""

    now: SubscriptionEvent | None
    next: Billable | None
    next_at: datetime | None


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
    return Preview(event, *await _next_invoice(uow, subscription))


async def _next_invoice(
    uow: SubscriptionsUnitOfWork, subscription: Subscription
) -> tuple[Billable | None, datetime | None]:
    """What time alone would bill next, and when."""
    while (upcoming := subscription.next_act()) is not None:
        at, act = upcoming
        terms = await uow.catalog.terms_of(subscription)
        usage = NO_USAGE
        if act in BILLS_USAGE:
            usage = await gather_usage(uow, subscription, terms, until=at)
        can_pay = await can_pay_for(uow, subscription, act)
        events = subscription.act(act, terms, at=at, now=at, usage=usage, can_pay=can_pay)
        billed = [event for event in events if isinstance(event, Billable)]
        if billed and (billed[0].charges or act is Act.RENEW):
            return billed[0], at
        if act is not Act.REMIND_TRIAL:
            break
    return None, None
