"""Rest without service and bills, from the paid period's end on, and the waking from it."""

from datetime import datetime

from services.subscriptions.domain.charges import Terms
from services.subscriptions.domain.period import whole_second
from services.subscriptions.domain.subscription.agreement import Agreement
from services.subscriptions.domain.subscription.items import NO_USAGE, Usage
from services.subscriptions.domain.subscription.status import (
    FINAL,
    DateInvalid,
    IllegalTransition,
    NothingScheduled,
    Status,
)
from shared.events.subscriptions import (
    SubscriptionChanged,
    SubscriptionEvent,
    SubscriptionPaused,
    SubscriptionPauseScheduled,
    SubscriptionPauseWithdrawn,
    SubscriptionResumed,
)


class Pausing(Agreement):
    """Lets it rest and wakes it."""

    def pause_later(
        self, *, at: datetime, resumes_at: datetime | None = None
    ) -> SubscriptionPauseScheduled:
        """Let the paid period run out, then rest; `resumes_at` wakes it by itself."""
        if self.status is not Status.ACTIVE:
            raise IllegalTransition(f"A subscription that is {self.status} cannot be paused.")
        if resumes_at is not None and resumes_at <= self.period_end:
            raise DateInvalid("The pause begins when the period ends.", field="resumes_at")
        self.pause_at_period_end, self.resumes_at = True, resumes_at
        return self._event(
            SubscriptionPauseScheduled,
            now=at,
            effective_at=self.period_end,
            resumes_at=resumes_at,
        )

    def withdraw_pause(self, *, at: datetime) -> SubscriptionPauseWithdrawn:
        """It will not pause after all."""
        if not self.pause_at_period_end or self.status in FINAL:
            raise NothingScheduled("No pause is scheduled.")
        self.pause_at_period_end, self.resumes_at = False, None
        return self._event(SubscriptionPauseWithdrawn, now=at)

    def pause(
        self,
        terms: Terms,
        *,
        at: datetime,
        now: datetime,
        usage: Usage = NO_USAGE,
        lapsed: bool = False,
    ) -> list[SubscriptionEvent]:
        """Rest from here on: no service and no bills. Usage until here is billed first.

        `lapsed`: only because dunning came to nothing; what is paid wakes it.
        """
        used = self._usage_charges(terms, usage)
        events: list[SubscriptionEvent] = []
        if used:
            events.append(
                self._billable(
                    SubscriptionChanged,
                    terms,
                    now=now,
                    charges=used,
                    discounts=None,
                    previous_price_id=self.price_id,
                    quantity=self.quantity,
                    invoice_now=True,
                )
            )
        self._move_to(Status.PAUSED)
        self.pause_at_period_end = self.pause_at_period_end and lapsed
        self.paused_at = now
        self.lapsed_at = at if lapsed else None
        events.append(self._event(SubscriptionPaused, now=now, resumes_at=self.resumes_at))
        return events

    def resume(self, terms: Terms, *, at: datetime, now: datetime) -> SubscriptionResumed:
        """Wake it: a new period begins and is billed at once."""
        if self.status is not Status.PAUSED:
            raise IllegalTransition(f"A subscription that is {self.status} cannot be resumed.")
        if self.lapsed_at is not None:
            raise IllegalTransition("It rests because an invoice was not paid; paying wakes it.")
        self._apply_scheduled()
        self._move_to(Status.ACTIVE)
        self.paused_at = self.resumes_at = None
        self._open_cadence(whole_second(at))
        charges = self._charges_ahead(terms)
        return self._billable(SubscriptionResumed, terms, now=now, charges=charges)
