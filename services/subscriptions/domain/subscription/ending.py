"""How a subscription ends: now, when the paid period runs out, at a date, or never paid for."""

from datetime import datetime

from services.subscriptions.domain.agenda import Entry, EntryKind
from services.subscriptions.domain.charges import Terms
from services.subscriptions.domain.period import counted_until, whole_second
from services.subscriptions.domain.subscription.agreement import Agreement
from services.subscriptions.domain.subscription.items import NO_USAGE, Usage
from services.subscriptions.domain.subscription.status import (
    FINAL,
    SERVED,
    DateInvalid,
    IllegalTransition,
    NothingScheduled,
    Status,
)
from shared.events.subscriptions import (
    SubscriptionCanceled,
    SubscriptionCancellationScheduled,
    SubscriptionCancellationWithdrawn,
    SubscriptionChangeWithdrawn,
    SubscriptionEvent,
    SubscriptionExpired,
)


class Ending(Agreement):
    """Ends it, or says when it will."""

    def expire(self, *, now: datetime) -> SubscriptionExpired:
        """The first payment did not come in time."""
        self._move_to(Status.INCOMPLETE_EXPIRED)
        self.expires_at = None
        return self._event(SubscriptionExpired, now=now)

    def cancel(
        self,
        terms: Terms,
        *,
        at: datetime,
        now: datetime,
        credit: bool = False,
        refund: bool = False,
        reason: str | None = None,
        usage: Usage = NO_USAGE,
        lapsed: bool = False,
    ) -> list[SubscriptionEvent]:
        """End it, at `at`: usage is billed, and unused time comes back where that is asked for.

        What comes back is what was billed and covers time after `at`: with `refund` by the way it
        was paid. `lapsed`: only because dunning came to nothing; `reinstate` takes that back, so
        that what waited goes on waiting. Else what waited is withdrawn, and reported.
        """
        self._require(Status.CANCELED)
        events: list[SubscriptionEvent] = []
        if not lapsed:
            events += self._withdraw_all(now=now)
        previous = self.status
        self._move_to(Status.CANCELED)
        bill = self._bill_usage(terms, usage, until=counted_until(now if lapsed else at))
        if credit and previous not in {Status.INCOMPLETE, Status.TRIALING}:
            bill.take_backs += self._take_back_all(terms, at)
        self.canceled_at = at
        self.cancel_reason = reason or self.cancel_reason
        if self.lapsed_at is not None:
            self.paused_at = None  # it rested for want of the money only
        self.lapsed_at = at if lapsed else None
        self.expires_at = self.usage_due_at = None
        if previous not in {Status.INCOMPLETE, Status.TRIALING}:
            self._await_stragglers(terms, now=now)
        events.append(
            self._billable(
                SubscriptionCanceled,
                terms,
                now=now,
                bill=bill,
                give_back="refund" if refund else "credit",
                effective_at=at,
                reason=self.cancel_reason,
                previous_status=previous.value,
            )
        )
        return events

    def _withdraw_all(self, *, now: datetime) -> list[SubscriptionEvent]:
        """Nothing that waits will happen any more."""
        events: list[SubscriptionEvent] = []
        events += self.lapse_change(now=now)
        # A change of what is held is told; that nothing else follows an end is plain.
        waits = any(entry.changes_what_is_held for entry in self.agenda)
        self.agenda = ()
        if waits:
            events.append(self._event(SubscriptionChangeWithdrawn, now=now))
        return events

    def cancel_by_agenda(
        self, terms: Terms, *, at: datetime, now: datetime, usage: Usage = NO_USAGE
    ) -> list[SubscriptionEvent]:
        """End it as was asked for before."""
        entry = self.waiting(EntryKind.CANCEL)
        if entry is None:
            raise NothingScheduled("No cancellation is scheduled.")
        return self.cancel(
            terms,
            at=at,
            now=now,
            credit=entry.credit,
            refund=entry.refund,
            reason=entry.reason,
            usage=usage,
        )

    def cancel_later(
        self,
        *,
        at: datetime,
        by: str,
        on: datetime | None = None,
        reason: str | None = None,
        credit: bool = False,
        refund: bool = False,
    ) -> SubscriptionCancellationScheduled:
        """Let it run to the period's end, or to `on`, first."""
        self._require(Status.CANCELED)
        if on is None and self.status not in SERVED:
            raise IllegalTransition(
                f"A subscription that is {self.status} has no period to run out: cancel it now."
            )
        if on is not None and on <= at:
            raise DateInvalid("The date of a cancellation lies ahead.", field="cancel_at")
        if (before := self.waiting(EntryKind.CANCEL)) is not None:
            self._drop(before)
        on = None if on is None else whole_second(on)
        self._wait(
            Entry(EntryKind.CANCEL, at, by, at=on, credit=credit, refund=refund, reason=reason)
        )
        effective_at = on or self.period_end
        return self._event(
            SubscriptionCancellationScheduled, now=at, effective_at=effective_at, reason=reason
        )

    def uncancel(self, *, at: datetime) -> SubscriptionCancellationWithdrawn:
        """It goes on after all."""
        entry = self.waiting(EntryKind.CANCEL)
        if self.status in FINAL or entry is None:
            raise NothingScheduled("No cancellation is scheduled.")
        self._drop(entry)
        self.cancel_reason = None
        return self._event(SubscriptionCancellationWithdrawn, now=at)
