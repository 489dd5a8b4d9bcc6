"""What time alone does to a subscription: it renews, trials end, what waits happens."""

from datetime import datetime

from services.subscriptions.domain.charges import Terms
from services.subscriptions.domain.plan import TrialEndBehavior
from services.subscriptions.domain.subscription.changing import Changing
from services.subscriptions.domain.subscription.items import NO_USAGE, Usage
from services.subscriptions.domain.subscription.paying import Paying
from services.subscriptions.domain.subscription.status import (
    RUNNING,
    Act,
    DateInvalid,
    IllegalTransition,
    Status,
)
from shared.events.subscriptions import (
    SubscriptionEvent,
    SubscriptionRenewed,
    SubscriptionTrialChanged,
    SubscriptionTrialEnded,
    SubscriptionTrialWillEnd,
)


class Passing(Changing, Paying):
    """Does what fell due, in the order in which it did."""

    def act(
        self,
        act: Act,
        terms: Terms,
        *,
        at: datetime,
        now: datetime,
        can_pay: bool = True,
        usage: Usage = NO_USAGE,
        time_zone: str | None = None,
    ) -> list[SubscriptionEvent]:
        """Do what was due at `at`; events carry `now`, the instant at which it is done."""
        events = self._do(
            act, terms, at=at, now=now, can_pay=can_pay, usage=usage, time_zone=time_zone
        )
        return [*events, *self.report_moot(now=now)] if self.agenda else events

    def _do(  # noqa: C901, PLR0911  (one way out per act)
        self,
        act: Act,
        terms: Terms,
        *,
        at: datetime,
        now: datetime,
        can_pay: bool,
        usage: Usage,
        time_zone: str | None,
    ) -> list[SubscriptionEvent]:
        match act:
            case Act.EXPIRE:
                return [self.expire(now=now)]
            case Act.LAPSE_CHANGE:
                return self.lapse_change(now=now)
            case Act.REMIND_TRIAL:
                return [self.remind_of_trial(now=now)]
            case Act.END_TRIAL:
                return self.end_trial(terms, can_pay=can_pay, now=now)
            case Act.CANCEL:
                return self.cancel_by_agenda(terms, at=at, now=now, usage=usage)
            case Act.CHANGE:
                return self.change_by_agenda(terms, at=at, now=now, usage=usage)
            case Act.PAUSE:
                return self.pause(terms, at=at, now=now, usage=usage)
            case Act.RESUME:
                return [self.resume(terms, at=at, now=now)]
            case Act.RENEW:
                return [self.renew(terms, now=now, usage=usage, time_zone=time_zone)]
            case Act.BILL_USAGE:
                events = self.bill_usage(terms, usage, until=None, now=now)
                self._plan_ahead()
                return [*events]

    def remind_of_trial(self, *, now: datetime) -> SubscriptionTrialWillEnd:
        if self.status is not Status.TRIALING or self.trial_end is None:
            raise IllegalTransition("Only a trial can be near its end.")
        self.trial_reminded = True
        return self._event(SubscriptionTrialWillEnd, now=now, trial_end=self.trial_end)

    def move_trial_end(self, to: datetime, *, now: datetime) -> SubscriptionTrialChanged:
        """Make a trial longer or shorter."""
        if self.status is not Status.TRIALING:
            raise IllegalTransition(f"A subscription that is {self.status} is in no trial.")
        if to <= now:
            raise DateInvalid("A trial ends at an instant ahead, or now.", field="trial_end")
        self.trial_end = self.period_end = self.anchor = to
        self.trial_reminded = False
        return self._event(SubscriptionTrialChanged, now=now, trial_end=to)

    def end_trial(self, terms: Terms, *, can_pay: bool, now: datetime) -> list[SubscriptionEvent]:
        """The first paid period begins; without a way to pay the plan decides."""
        if self.status is not Status.TRIALING or self.trial_end is None:
            raise IllegalTransition("Only a trial can end.")
        at = self.trial_end
        behavior = terms.plan_of(self.plan_id).trial_end_behavior
        if not can_pay and behavior is TrialEndBehavior.CANCEL:
            self.cancel_reason = self.cancel_reason or "trial_ended_without_payment_method"
            return self.cancel(terms, at=at, now=now)
        if not can_pay and behavior is TrialEndBehavior.PAUSE:
            return self.pause(terms, at=at, now=now)
        previous = self.status
        self._move_to(Status.ACTIVE)
        bill = self._open_period(terms, restart_at=at)
        ended = self._billable(SubscriptionTrialEnded, terms, now=now, bill=bill)
        return [ended, self._activated(previous, now=now)]

    def end_trial_now(
        self, terms: Terms, *, can_pay: bool, now: datetime
    ) -> list[SubscriptionEvent]:
        """End a trial before its time: the first paid period begins now."""
        if self.status is not Status.TRIALING:
            raise IllegalTransition(f"A subscription that is {self.status} is in no trial.")
        at = max(now.replace(microsecond=0), self.period_start)
        self.trial_end = at
        events = self.end_trial(terms, can_pay=can_pay, now=now)
        return [*events, *self.report_moot(now=now)]

    def renew(
        self,
        terms: Terms,
        *,
        now: datetime,
        usage: Usage = NO_USAGE,
        time_zone: str | None = None,
    ) -> SubscriptionRenewed:
        """Open the next period: usage of the one that ended, and the new one ahead."""
        if self.status not in RUNNING:
            raise IllegalTransition(f"A subscription that is {self.status} is not renewed.")
        bill = self._open_period(terms, usage=usage, time_zone=time_zone)
        return self._billable(SubscriptionRenewed, terms, now=now, bill=bill)

    def park(self, reason: str, *, now: datetime) -> None:
        """Leave it alone until a person has looked: it could not be billed."""
        self.parked_at, self.parked_reason = now, reason
        self.due_at = None

    def release(self) -> None:
        """Take it up again after a person has looked."""
        self.parked_at = self.parked_reason = None
        self._plan_ahead()
