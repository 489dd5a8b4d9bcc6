"""What becomes of a subscription as its invoices are paid, or are not."""

from datetime import datetime

from services.subscriptions.domain.charges import Terms
from services.subscriptions.domain.period import whole_second
from services.subscriptions.domain.subscription.agreement import Agreement
from services.subscriptions.domain.subscription.status import Status
from shared.events.subscriptions import (
    SubscriptionEvent,
    SubscriptionMarkedPastDue,
    SubscriptionMarkedUnpaid,
    SubscriptionResumed,
)


class Paying(Agreement):
    """Follows the money."""

    def activate(self, terms: Terms, *, now: datetime) -> list[SubscriptionEvent]:
        """Everything that was owed is paid."""
        previous = self.status
        self._move_to(Status.ACTIVE)
        self.expires_at = None
        if previous is Status.UNPAID and self.period_end <= now:
            # Nothing was served and nothing billed meanwhile: a new period, at once.
            self._open_cadence(whole_second(now))
            charges = self._charges_ahead(terms)
            resumed = self._billable(SubscriptionResumed, terms, now=now, charges=charges)
            return [resumed, self._activated(previous, now=now)]
        return [self._activated(previous, now=now)]

    def mark_past_due(self, *, now: datetime) -> SubscriptionMarkedPastDue:
        self._move_to(Status.PAST_DUE)
        return self._event(SubscriptionMarkedPastDue, now=now)

    def mark_unpaid(self, *, now: datetime) -> SubscriptionMarkedUnpaid:
        self._move_to(Status.UNPAID)
        return self._event(SubscriptionMarkedUnpaid, now=now)
