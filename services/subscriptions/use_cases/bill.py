"""Report what happened; whatever opens a period bills it once."""

from collections.abc import Iterable

from services.subscriptions.repository import SubscriptionsUnitOfWork
from shared.events.subscriptions import (
    Billable,
    SubscriptionEvent,
    SubscriptionRenewed,
    SubscriptionResumed,
    SubscriptionStarted,
    SubscriptionTrialEnded,
)

#: Events that open a period, and the reason under which it is billed.
REASONS: dict[type[Billable], str] = {
    SubscriptionStarted: "start",
    SubscriptionTrialEnded: "start",
    SubscriptionRenewed: "cycle",
    SubscriptionResumed: "resume",
}


async def bill(uow: SubscriptionsUnitOfWork, events: Iterable[SubscriptionEvent]) -> None:
    """Emit events of subscriptions. A period that was billed before is not billed again."""
    events = list(events)
    await uow.session.flush()
    claims = [
        (REASONS[type(event)], event)
        for event in events
        if isinstance(event, Billable) and type(event) in REASONS and event.charges
    ]
    first = await uow.subscriptions.claim_periods(claims)
    repeated = {event.id for _, event in claims} - first
    for event in events:
        if event.id in repeated:
            uow.emit(event.model_copy(update={"charges": (), "discounts": ()}))
        else:
            uow.emit(event)
