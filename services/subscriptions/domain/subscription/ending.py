"""How a subscription ends: now, when the paid period runs out, at a date, or never paid for."""

from datetime import datetime

from services.subscriptions.domain.charges import Terms, credit_rest
from services.subscriptions.domain.period import whole_second
from services.subscriptions.domain.proration import Factor
from services.subscriptions.domain.subscription.agreement import Agreement
from services.subscriptions.domain.subscription.items import NO_USAGE, Usage
from services.subscriptions.domain.subscription.status import (
    FINAL,
    RUNNING,
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
        credit: bool | None = None,
        reason: str | None = None,
        usage: Usage = NO_USAGE,
        lapsed: bool = False,
    ) -> SubscriptionCanceled:
        """End it, at `at`: usage is billed, and unused time comes back where that is asked for.

        `lapsed`: only because dunning came to nothing; `reinstate` takes that back.
        """
        previous = self.status
        self._move_to(Status.CANCELED)
        credit = self.cancel_with_credit if credit is None else credit
        charges = self._usage_charges(terms, usage)
        rest = self._rest(at)
        if credit and previous in RUNNING and rest is not None:
            factor = Factor.of_rest(self._basis, at)
            charges += [
                credit_rest(item, terms, rest, factor)
                for item in self.items
                if terms.price(item).is_recurring
            ]
        self.canceled_at = at
        self.cancel_reason = reason or self.cancel_reason
        self.lapsed_at = at if lapsed else None
        if not lapsed:
            self.scheduled_change = self.resumes_at = None
        self.expires_at = None
        return self._billable(
            SubscriptionCanceled,
            terms,
            now=now,
            charges=charges,
            discounts=None,
            effective_at=at,
            reason=self.cancel_reason,
            previous_status=previous.value,
        )

    def cancel_later(
        self,
        *,
        at: datetime,
        on: datetime | None = None,
        reason: str | None = None,
        credit: bool = False,
    ) -> SubscriptionCancellationScheduled:
        """Let it run to the period's end, or to `on`, first."""
        self._require(Status.CANCELED)
        if on is None and self.status not in SERVED:
            raise IllegalTransition(
                f"A subscription that is {self.status} has no period to run out: cancel it now."
            )
        if on is not None and on <= at:
            raise DateInvalid("The date of a cancellation lies ahead.", field="cancel_at")
        self.cancel_at_period_end = on is None
        self.cancel_at = None if on is None else whole_second(on)
        self.cancel_reason = reason
        self.cancel_with_credit = credit
        effective_at = self.cancel_at or self.period_end
        return self._event(
            SubscriptionCancellationScheduled, now=at, effective_at=effective_at, reason=reason
        )

    def uncancel(self, *, at: datetime) -> SubscriptionCancellationWithdrawn:
        """It goes on after all."""
        if self.status in FINAL or not (self.cancel_at_period_end or self.cancel_at):
            raise NothingScheduled("No cancellation is scheduled.")
        self.cancel_at_period_end, self.cancel_at = False, None
        self.cancel_reason, self.cancel_with_credit = None, False
        return self._event(SubscriptionCancellationWithdrawn, now=at)
