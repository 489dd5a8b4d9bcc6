"""What becomes of a subscription as its invoices are paid, or are not."""

from dataclasses import replace
from datetime import datetime

from services.subscriptions.domain.agenda import EntryKind
from services.subscriptions.domain.charges import Terms
from services.subscriptions.domain.period import counted_until, whole_second
from services.subscriptions.domain.subscription.items import NO_USAGE, Usage
from services.subscriptions.domain.subscription.pausing import Pausing
from services.subscriptions.domain.subscription.status import IllegalTransition, Status
from shared.events.subscriptions import (
    SubscriptionActivated,
    SubscriptionEvent,
    SubscriptionMarkedPastDue,
    SubscriptionMarkedUnpaid,
    SubscriptionPaused,
    SubscriptionResumed,
)


class Paying(Pausing):
    """Follows the money."""

    def activate(self, terms: Terms, *, now: datetime) -> list[SubscriptionEvent]:
        """Everything that was owed is paid."""
        previous = self.status
        is_over = previous in {Status.UNPAID, Status.PAUSED} and self.period_end <= now
        if is_over and self.waiting(EntryKind.PAUSE) is not None:
            wakes = self.waiting(EntryKind.RESUME)
            if wakes is None or not wakes.is_due(now):
                return self._rest_after_all(terms, now=now)
            self._drop(*self._pause_entries())  # that rest would be over by now
        self._move_to(Status.ACTIVE)
        self.expires_at = None
        if previous in {Status.UNPAID, Status.PAUSED}:
            # Usage was billed when it came to rest, and none was taken since.
            self._meter_from(now, terms)
        self.lapsed_at = self.paused_at = None
        if is_over:
            # Nothing was served and nothing billed meanwhile: a new period, at once. What waits
            # for its payment would have counted in the one that is over.
            lapsed = self.lapse_change(now=now)
            bill = self._open_period(terms, restart_at=whole_second(now))
            resumed = self._billable(SubscriptionResumed, terms, now=now, bill=bill)
            activated = self._activated(previous, now=now)
            return [*lapsed, resumed, activated, *self.report_moot(now=now)]
        return [self._activated(previous, now=now)]

    def _rest_after_all(self, terms: Terms, *, now: datetime) -> list[SubscriptionEvent]:
        """It was to pause when the period ended: what was owed is paid, and now it rests."""
        if self.status is Status.UNPAID:
            return self.pause(terms, at=now, now=now)
        if (entry := self.waiting(EntryKind.PAUSE)) is not None:
            self._drop(entry)
        self.lapsed_at = None
        return [self._paused(now=now)]

    def reinstate(
        self, terms: Terms, *, now: datetime
    ) -> SubscriptionActivated | SubscriptionPaused:
        """The money had come in time, and the news of it came late.

        It goes on as if nothing had been: its periods as they were, what fell due meanwhile is
        caught up with; what rested rests on. The only way back from a final status.
        """
        previous = self.status
        lapsed = self.lapsed_at is not None or previous is Status.UNPAID
        if not lapsed and previous is not Status.INCOMPLETE_EXPIRED:
            raise IllegalTransition(f"A subscription that is {previous} is not reinstated.")
        rests = previous is Status.CANCELED and self.paused_at is not None
        self.status = Status.PAUSED if rests else Status.ACTIVE
        self.canceled_at = None
        if previous is Status.CANCELED:
            self.cancel_reason = None
        if self.lapsed_at is not None:
            self._meter_from(self.lapsed_at, terms)
        self.lapsed_at = None
        if rests:
            return self._paused(now=now)
        self.paused_at = None
        return self._activated(previous, now=now)

    def _meter_from(self, at: datetime, terms: Terms) -> None:
        """Usage of before is billed: what comes from `at` on is billed next."""
        since = max(whole_second(at), self.period_start)
        self.items = tuple(
            replace(item, metered_from=max(item.metered_from or since, since))
            if terms.price(item).is_metered
            else item
            for item in self.items
        )

    def mark_past_due(self, *, now: datetime) -> SubscriptionMarkedPastDue:
        self._move_to(Status.PAST_DUE)
        return self._event(SubscriptionMarkedPastDue, now=now)

    def mark_unpaid(
        self, terms: Terms, *, now: datetime, usage: Usage = NO_USAGE
    ) -> list[SubscriptionEvent]:
        """No service and no new bills from now on. Usage until then is billed first."""
        self._require(Status.UNPAID)
        events: list[SubscriptionEvent] = []
        events += self.bill_usage(terms, usage, until=counted_until(now), now=now)
        self._move_to(Status.UNPAID)
        self._await_stragglers(terms, now=now)
        events.append(self._event(SubscriptionMarkedUnpaid, now=now))
        return events
