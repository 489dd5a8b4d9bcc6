"""Rest without service and bills, from the paid period's end on, and the waking from it."""

from datetime import datetime

from services.subscriptions.domain.agenda import Entry, EntryKind
from services.subscriptions.domain.charges import Terms
from services.subscriptions.domain.period import counted_until, whole_second
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
    SubscriptionEvent,
    SubscriptionPaused,
    SubscriptionPauseScheduled,
    SubscriptionPauseWithdrawn,
    SubscriptionResumed,
    SubscriptionUsageBilled,
)


class Pausing(Agreement):
    """Lets it rest and wakes it."""

    def pause_later(
        self, *, at: datetime, by: str, resumes_at: datetime | None = None
    ) -> SubscriptionPauseScheduled:
        """Let the paid period run out, then rest; `resumes_at` wakes it by itself."""
        if self.status is not Status.ACTIVE:
            raise IllegalTransition(f"A subscription that is {self.status} cannot be paused.")
        if resumes_at is not None and resumes_at <= self.period_end:
            raise DateInvalid("The pause begins when the period ends.", field="resumes_at")
        self._drop(*self._pause_entries())
        self._wait(Entry(EntryKind.PAUSE, at, by))
        if resumes_at is not None:
            self._wait(Entry(EntryKind.RESUME, at, by, at=resumes_at))
        return self._event(
            SubscriptionPauseScheduled,
            now=at,
            effective_at=self.period_end,
            resumes_at=resumes_at,
        )

    def withdraw_pause(self, *, at: datetime) -> SubscriptionPauseWithdrawn:
        """It will not pause after all."""
        if self.waiting(EntryKind.PAUSE) is None or self.status in FINAL:
            raise NothingScheduled("No pause is scheduled.")
        self._drop(*self._pause_entries())
        return self._event(SubscriptionPauseWithdrawn, now=at)

    def _pause_entries(self) -> list[Entry]:
        kinds = {EntryKind.PAUSE, EntryKind.RESUME}
        return [entry for entry in self.agenda if entry.kind in kinds]

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

        `lapsed`: only because dunning came to nothing; what is paid wakes it, and what waited goes
        on waiting.
        """
        self._require(Status.PAUSED)
        events: list[SubscriptionEvent] = []
        events += self.bill_usage(terms, usage, until=counted_until(now) if lapsed else at, now=now)
        self._move_to(Status.PAUSED)
        self._await_stragglers(terms, now=now)
        if not lapsed and (entry := self.waiting(EntryKind.PAUSE)) is not None:
            self._drop(entry)
        self.paused_at = now
        self.lapsed_at = at if lapsed else None
        events.append(self._paused(now=now))
        return events

    def _paused(self, *, now: datetime) -> SubscriptionPaused:
        resume = self.waiting(EntryKind.RESUME)
        return self._event(SubscriptionPaused, now=now, resumes_at=resume.at if resume else None)

    def bill_usage(
        self, terms: Terms, usage: Usage, *, until: datetime | None, now: datetime
    ) -> list[SubscriptionUsageBilled]:
        """Bill usage although no period opens: before a rest, or what came late after an end."""
        self.usage_due_at = None
        bill = self._bill_usage(terms, usage, until=None if until is None else whole_second(until))
        if bill.is_empty:
            return []
        return [self._billable(SubscriptionUsageBilled, terms, now=now, bill=bill)]

    def resume(self, terms: Terms, *, at: datetime, now: datetime) -> SubscriptionResumed:
        """Wake it: a new period begins and is billed at once."""
        if self.status is not Status.PAUSED:
            raise IllegalTransition(f"A subscription that is {self.status} cannot be resumed.")
        if self.lapsed_at is not None:
            raise IllegalTransition("It rests because an invoice was not paid; paying wakes it.")
        self._drop(*self._pause_entries())
        self._move_to(Status.ACTIVE)
        self.paused_at = None
        bill = self._open_period(terms, restart_at=whole_second(at))
        return self._billable(SubscriptionResumed, terms, now=now, bill=bill)
