"""Report what happened; whatever opens a period bills it once."""

from collections.abc import Iterable

from services.subscriptions.repository import SubscriptionsUnitOfWork
from services.subscriptions.use_cases.mark_stale import mark_stale
from shared.events.subscriptions import (
    Billable,
    SubscriptionChanged,
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
    SubscriptionChanged: "cycle",
    SubscriptionRenewed: "cycle",
    SubscriptionResumed: "resume",
}


async def bill(uow: SubscriptionsUnitOfWork, events: Iterable[SubscriptionEvent]) -> None:
    """Emit events of subscriptions. A period that was billed before is not billed again.

    A change bills what is owed less what was billed, also where it opens a period at the very
    instant at which another one began.
    """
    events = list(events)
    await uow.session.flush()
    claims = [
        (REASONS[type(event)], event)
        for event in events
        if isinstance(event, Billable) and _opens_a_period(event)
    ]
    first = await uow.subscriptions.claim_periods(claims)
    # Another rhythm may begin twice in one second: what began first is taken back, not repeated.
    once = {event.id for _, event in claims if not isinstance(event, SubscriptionChanged)}
    repeated = once - first
    await mark_stale(uow, {event.account_id for event in events})
    for event in events:
        if event.id in repeated:
            uow.emit(event.model_copy(update={"charges": (), "take_backs": (), "discounts": ()}))
        else:
            uow.emit(event)


def _opens_a_period(event: Billable) -> bool:
    if isinstance(event, SubscriptionStarted):
        return event.status != "trialing"
    if isinstance(event, SubscriptionChanged):
        # Another rhythm: what is billed ahead is of a period of its own.
        return any(charge.kind in {"recurring", "addon"} for charge in event.charges)
    return type(event) in REASONS
