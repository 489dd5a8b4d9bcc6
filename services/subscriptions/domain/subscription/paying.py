"""What becomes of a subscription as its invoices are paid, or are not."""

from dataclasses import replace
from datetime import datetime

from services.subscriptions.domain.agenda import EntryKind
from services.subscriptions.domain.charges import Terms
from services.subscriptions.domain.period import whole_second
from services.subscriptions.domain.subscription.items import NO_USAGE, Usage
from services.subscriptions.domain.subscription.pausing import Pausing
from services.subscriptions.domain.subscription.status import IllegalTransition, Status
from shared.events.subscriptions import (
    SubscriptionActivated,
    SubscriptionEvent,
    SubscriptionMarkedPastDue,
    SubscriptionMarkedUnpaid,
    SubscriptionResumed,
)


class Paying(Pausing):
    """Follows the money."""

    def activate(self, terms: Terms, *, now: datetime) -> list[SubscriptionEvent]:
        """Everything that was owed is paid."""
        previous = self.status
        is_over = previous in {Status.UNPAID, Status.PAUSED} and self.period_end <= now
        if is_over and self.waiting(EntryKind.PAUSE) is not None:
            return self._rest_after_all(terms, now=now)
        self._move_to(Status.ACTIVE)
        self.expires_at = None
        self._meter_again(terms)
        if is_over:
            # Nothing was served and nothing billed meanwhile: a new period, at once.
            bill = self._open_period(terms, restart_at=whole_second(now))
            resumed = self._billable(SubscriptionResumed, terms, now=now, bill=bill)
            return [resumed, self._activated(previous, now=now)]
        return [self._activated(previous, now=now)]

    def _rest_after_all(self, terms: Terms, *, now: datetime) -> list[SubscriptionEvent]:
        """It was to pause when the period ended: what was owed is paid, and now it rests."""
        if self.status is Status.UNPAID:
            return self.pause(terms, at=now, now=now)
        if (entry := self.waiting(EntryKind.PAUSE)) is not None:
            self._drop(entry)
        self.lapsed_at = None
        self._plan_ahead()
        return []

    def reinstate(self, terms: Terms, *, now: datetime) -> SubscriptionActivated:
        """The money had come in time, and the news of it came late.

        It goes on as if nothing had been: its periods as they were, what fell due meanwhile is
        caught up with. The only way back from a final status.
        """
        previous = self.status
        lapsed = self.lapsed_at is not None or previous is Status.UNPAID
        if not lapsed and previous is not Status.INCOMPLETE_EXPIRED:
            raise IllegalTransition(f"A subscription that is {previous} is not reinstated.")
        self.status = Status.ACTIVE
        self.canceled_at = self.paused_at = None
        if previous is Status.CANCELED:
            self.cancel_reason = None
        self._meter_again(terms)
        return self._activated(previous, now=now)

    def _meter_again(self, terms: Terms) -> None:
        """Usage was billed when it lapsed: what comes from then on is billed next."""
        if self.lapsed_at is not None:
            since = max(whole_second(self.lapsed_at), self.period_start)
            self.items = tuple(
                replace(item, metered_from=since) if terms.price(item).is_metered else item
                for item in self.items
            )
        self.lapsed_at = self.paused_at = None

    def mark_past_due(self, *, now: datetime) -> SubscriptionMarkedPastDue:
        self._move_to(Status.PAST_DUE)
        return self._event(SubscriptionMarkedPastDue, now=now)

    def mark_unpaid(
        self, terms: Terms, *, at: datetime, now: datetime, usage: Usage = NO_USAGE
    ) -> list[SubscriptionEvent]:
        """No service from `at` on, and no new bills. Usage until then is billed first."""
        self._require(Status.UNPAID)
        events: list[SubscriptionEvent] = []
        events += self.bill_usage(terms, usage, until=at, now=now)
        self._move_to(Status.UNPAID)
        events.append(self._event(SubscriptionMarkedUnpaid, now=now))
        return events
