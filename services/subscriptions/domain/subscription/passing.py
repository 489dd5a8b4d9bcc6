"""What time alone does to a subscription: it renews, trials end, what was scheduled happens."""

from dataclasses import replace
from datetime import datetime

from services.subscriptions.domain.charges import Terms
from services.subscriptions.domain.plan import TrialEndBehavior
from services.subscriptions.domain.subscription.ending import Ending
from services.subscriptions.domain.subscription.items import NO_USAGE, Usage, check_items
from services.subscriptions.domain.subscription.pausing import Pausing
from services.subscriptions.domain.subscription.status import (
    RUNNING,
    Act,
    IllegalTransition,
    Status,
)
from shared.events.subscriptions import (
    SubscriptionEvent,
    SubscriptionRenewed,
    SubscriptionTrialEnded,
    SubscriptionTrialWillEnd,
)


class Passing(Ending, Pausing):
    """Does what fell due, in the order in which it did."""

    def act(  # noqa: PLR0911  (one way out per act)
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
        match act:
            case Act.EXPIRE:
                return [self.expire(now=now)]
            case Act.REMIND_TRIAL:
                return [self.remind_of_trial(now=now)]
            case Act.END_TRIAL:
                return self.end_trial(terms, can_pay=can_pay, now=now)
            case Act.CANCEL:
                return [self.cancel(terms, at=at, now=now, usage=usage)]
            case Act.PAUSE:
                return self.pause(terms, at=at, now=now, usage=usage)
            case Act.RESUME:
                return [self.resume(terms, at=at, now=now)]
            case Act.RENEW:
                return [self.renew(terms, now=now, usage=usage, time_zone=time_zone)]

    def remind_of_trial(self, *, now: datetime) -> SubscriptionTrialWillEnd:
        if self.status is not Status.TRIALING or self.trial_end is None:
            raise IllegalTransition("Only a trial can be near its end.")
        self.trial_reminded = True
        return self._event(SubscriptionTrialWillEnd, now=now, trial_end=self.trial_end)

    def end_trial(self, terms: Terms, *, can_pay: bool, now: datetime) -> list[SubscriptionEvent]:
        """The first paid period begins; without a way to pay the plan decides."""
        if self.status is not Status.TRIALING or self.trial_end is None:
            raise IllegalTransition("Only a trial can end.")
        at = self.trial_end
        behavior = terms.plan.trial_end_behavior
        if not can_pay and behavior is TrialEndBehavior.CANCEL:
            self.cancel_reason = self.cancel_reason or "trial_ended_without_payment_method"
            return [self.cancel(terms, at=at, now=now)]
        if not can_pay and behavior is TrialEndBehavior.PAUSE:
            return self.pause(terms, at=at, now=now)
        previous = self.status
        self._apply_scheduled()
        self._move_to(Status.ACTIVE)
        self._open_cadence(at)
        charges = [*self._one_offs(terms), *self._charges_ahead(terms)]
        ended = self._billable(SubscriptionTrialEnded, terms, now=now, charges=charges)
        return [ended, self._activated(previous, now=now)]

    def renew(
        self,
        terms: Terms,
        *,
        now: datetime,
        usage: Usage = NO_USAGE,
        time_zone: str | None = None,
    ) -> SubscriptionRenewed:
        """Open the next period: usage of the one that ended, and the new one ahead.

        `terms` are those of the scheduled change, where there is one. A new time zone of the
        account counts from here: the period starts where the last one ended.
        """
        if self.status not in RUNNING:
            raise IllegalTransition(f"A subscription that is {self.status} is not renewed.")
        used = self._usage_charges(terms, usage)
        changed = self._apply_scheduled()
        cadence = self.cadence
        if changed and (interval := check_items(self.items, terms)) != cadence.interval:
            self.interval_unit, self.interval_count = interval.unit, interval.count
            self._open_cadence(self.period_end)
        else:
            if time_zone is not None and time_zone != self.time_zone:
                self.time_zone = time_zone
                terms = replace(terms, time_zone=time_zone)
                cadence = cadence.moved_to(time_zone)
                self.anchor = cadence.anchor
            index = cadence.next_index(self.period_end, self.period_index)
            self.period_start = self.basis_start = self.period_end
            self.period_end, self.period_index = cadence.bound(index), index
        charges = [*used, *self._charges_ahead(terms)]
        return self._billable(SubscriptionRenewed, terms, now=now, charges=charges)

    def park(self, reason: str, *, now: datetime) -> None:
        """Leave it alone until a person has looked: it could not be billed."""
        self.parked_at, self.parked_reason = now, reason
        self.due_at = None

    def release(self) -> None:
        """Take it up again after a person has looked."""
        self.parked_at = self.parked_reason = None
        self._plan_ahead()
