"""When something is supplied: what decides about its tax rate and its exchange rate."""

from datetime import datetime

from shared.events.subscriptions import (
    Billable,
    SubscriptionCanceled,
    SubscriptionChanged,
    SubscriptionChangePending,
)


def supplied_at(event: Billable) -> datetime:
    """What an event bills is supplied when its period begins, however late the event is made.

    A change is supplied when it is made, and what a cancellation bills when it takes effect.
    """
    if isinstance(event, SubscriptionChanged | SubscriptionChangePending):
        return event.occurred_at
    if isinstance(event, SubscriptionCanceled):
        return event.effective_at
    return event.period_start
