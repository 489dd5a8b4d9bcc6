"""The life of a subscription: every state, every move, and what each of them bills."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from fractions import Fraction
from typing import Any, TypeVar
from uuid import UUID

from services.subscriptions.domain.charges import (
    Item,
    Terms,
    charge_ahead,
    charge_once,
    charge_rest,
    charge_usage,
    credit_rest,
)
from services.subscriptions.domain.coupon import AppliedDiscount
from services.subscriptions.domain.period import (
    Billing,
    BillingPeriod,
    Cadence,
    Interval,
    IntervalUnit,
    days_after,
    whole_second,
)
from services.subscriptions.domain.plan import TrialEndBehavior
from services.subscriptions.domain.price import Price
from services.subscriptions.domain.proration import Factor, round_exact
from shared.errors import Conflict, Invalid, NotFound
from shared.events.subscriptions import (
    Billable,
    Charge,
    SubscriptionActivated,
    SubscriptionCanceled,
    SubscriptionCancellationScheduled,
    SubscriptionCancellationWithdrawn,
    SubscriptionChanged,
    SubscriptionChangeScheduled,
    SubscriptionChangeWithdrawn,
    SubscriptionEvent,
    SubscriptionExpired,
    SubscriptionMarkedPastDue,
    SubscriptionMarkedUnpaid,
    SubscriptionPaused,
    SubscriptionPauseScheduled,
    SubscriptionPauseWithdrawn,
    SubscriptionRenewed,
    SubscriptionResumed,
    SubscriptionStarted,
    SubscriptionTrialEnded,
    SubscriptionTrialWillEnd,
)

FIRST_PAYMENT_WITHIN = timedelta(hours=23)
TRIAL_REMINDER_BEFORE = timedelta(days=3)
LONGEST_TRIAL_DAYS = 730
MOST_UNITS = 1_000_000


class Status(StrEnum):
    INCOMPLETE = "incomplete"  # the first payment is not in yet
    INCOMPLETE_EXPIRED = "incomplete_expired"  # and did not come in time
    TRIALING = "trialing"
    ACTIVE = "active"
    PAST_DUE = "past_due"  # a renewal was not paid; dunning is under way
    UNPAID = "unpaid"  # dunning came to nothing; no service, no new bills
    PAUSED = "paused"
    CANCELED = "canceled"


#: The whole state machine. A move that is not here cannot happen.
MOVES: dict[Status, frozenset[Status]] = {
    Status.INCOMPLETE: frozenset({Status.ACTIVE, Status.INCOMPLETE_EXPIRED, Status.CANCELED}),
    Status.TRIALING: frozenset({Status.ACTIVE, Status.PAUSED, Status.CANCELED}),
    Status.ACTIVE: frozenset({Status.PAST_DUE, Status.PAUSED, Status.CANCELED}),
    Status.PAST_DUE: frozenset({Status.ACTIVE, Status.UNPAID, Status.PAUSED, Status.CANCELED}),
    Status.UNPAID: frozenset({Status.ACTIVE, Status.CANCELED}),
    Status.PAUSED: frozenset({Status.ACTIVE, Status.CANCELED}),
    Status.CANCELED: frozenset(),
    Status.INCOMPLETE_EXPIRED: frozenset(),
}

FINAL = frozenset({Status.CANCELED, Status.INCOMPLETE_EXPIRED})
#: Periods go on and are billed.
RUNNING = frozenset({Status.ACTIVE, Status.PAST_DUE})
#: The account has the service.
SERVED = frozenset({Status.TRIALING, Status.ACTIVE, Status.PAST_DUE})


class Act(StrEnum):
    """What time alone does to a subscription; in this order where instants are equal."""

    EXPIRE = "expire"
    REMIND_TRIAL = "remind_trial"
    CANCEL = "cancel"
    END_TRIAL = "end_trial"
    PAUSE = "pause"
    RESUME = "resume"
    RENEW = "renew"


class Proration(StrEnum):
    NOW = "prorate_now"
    NEXT = "prorate_next"
    NONE = "none"
    AT_PERIOD_END = "at_period_end"


class SubscriptionNotFound(NotFound):
    code = "subscription-not-found"


class IllegalTransition(Conflict):
    code = "illegal-subscription-transition"


class NothingScheduled(Conflict):
    code = "nothing-scheduled"


class NothingChanges(Conflict):
    code = "nothing-changes"


class CurrencyMismatch(Invalid):
    code = "currency-mismatch"


class QuantityInvalid(Invalid):
    code = "quantity-invalid"


class IntervalMismatch(Invalid):
    code = "interval-mismatch"


class DateInvalid(Invalid):
    code = "date-invalid"


class TrialUsed(Conflict):
    code = "trial-used"


class TrialTooLong(Invalid):
    code = "trial-too-long"


class PaymentMethodNeeded(Conflict):
    code = "payment-method-needed"


@dataclass(frozen=True, slots=True)
class ScheduledChange:
    """What the subscription will hold from the next period on."""

    items: tuple[Item, ...]
    plan_id: UUID


@dataclass(frozen=True, slots=True)
class UsageOf:
    """Usage of one metered item in a window: what was used, and what of it was billed."""

    window: BillingPeriod
    used: Decimal
    billed: int = 0
    #: The window was billed before; only the difference is owed.
    late: bool = False


#: Unbilled usage by item, oldest window first.
Usage = Mapping[UUID, tuple[UsageOf, ...]]
NO_USAGE: Usage = {}

E = TypeVar("E", bound=SubscriptionEvent)
B = TypeVar("B", bound=Billable)


@dataclass(eq=False, kw_only=True)
class Subscription:
    """Changes only through its methods, and each returns the event it caused."""

    id: UUID
    account_id: UUID
    project_id: UUID | None = None
    plan_id: UUID
    price_id: UUID
    quantity: int = 1
    items: tuple[Item, ...]
    currency: str
    status: Status = Status.INCOMPLETE
    billing: Billing = Billing.ANNIVERSARY
    time_zone: str
    anchor: datetime
    interval_unit: IntervalUnit
    interval_count: int = 1
    #: The running period is [start, end); its end is bound `period_index` of the cadence.
    period_index: int = 1
    period_start: datetime
    period_end: datetime
    #: Where the whole period would begin of which this is the rest (calendar billing).
    basis_start: datetime
    trial_end: datetime | None = None
    trial_reminded: bool = False
    expires_at: datetime | None = None
    cancel_at_period_end: bool = False
    cancel_at: datetime | None = None
    cancel_reason: str | None = None
    cancel_with_credit: bool = False
    canceled_at: datetime | None = None
    pause_at_period_end: bool = False
    paused_at: datetime | None = None
    resumes_at: datetime | None = None
    scheduled_change: ScheduledChange | None = None
    discounts: tuple[AppliedDiscount, ...] = ()
    payment_method_id: UUID | None = None
    latest_invoice_id: UUID | None = None
    #: The earliest instant at which time alone changes something; None when nothing will.
    due_at: datetime | None = None
    parked_at: datetime | None = None
    parked_reason: str | None = None
    version: int = 0
    created_at: datetime
    updated_at: datetime

    # --- starting ---------------------------------------------------------------------------

    @classmethod
    def start(
        cls,
        *,
        id: UUID,  # noqa: A002  (what it is called everywhere else)
        account_id: UUID,
        items: tuple[Item, ...],
        terms: Terms,
        time_zone: str,
        at: datetime,
        now: datetime,
        billing: Billing = Billing.ANNIVERSARY,
        trial_days: int = 0,
        discounts: tuple[AppliedDiscount, ...] = (),
        project_id: UUID | None = None,
        payment_method_id: UUID | None = None,
        imported: bool = False,
    ) -> tuple["Subscription", list[SubscriptionEvent]]:
        """Subscribe an account from `at` on (which may lie before `now`).

        `imported`: it ran elsewhere and is paid for; only periods after the running one are
        billed here.
        """
        interval = check_items(items, terms)
        price = terms.price(items[0])
        subscription = cls(
            id=id,
            account_id=account_id,
            project_id=project_id,
            plan_id=terms.plan.id,
            price_id=price.id,
            quantity=items[0].quantity,
            items=items,
            currency=price.currency,
            billing=billing,
            time_zone=time_zone,
            anchor=at,
            interval_unit=interval.unit,
            interval_count=interval.count,
            period_start=at,
            period_end=at + timedelta(days=1),
            basis_start=at,
            discounts=discounts,
            payment_method_id=payment_method_id,
            created_at=now,
            updated_at=now,
        )
        events = subscription._begin(
            terms, at=whole_second(at), now=now, trial_days=trial_days, imported=imported
        )
        return subscription, events

    def _begin(
        self, terms: Terms, *, at: datetime, now: datetime, trial_days: int, imported: bool
    ) -> list[SubscriptionEvent]:
        charges: list[Charge] = []
        if trial_days:
            if not 0 < trial_days <= LONGEST_TRIAL_DAYS:
                raise DateInvalid(
                    f"A trial has 1 to {LONGEST_TRIAL_DAYS} days.", field="trial_days"
                )
            self.trial_end = days_after(at, trial_days, self.time_zone)
            self.anchor = self.trial_end
            self.period_start = self.basis_start = at
            self.period_end, self.period_index = self.trial_end, 0
            self.status = Status.TRIALING
        else:
            self._open_cadence(at)
            if imported:
                self._skip_to(now)
            else:
                charges = [*self._one_offs(terms), *self._charges_ahead(terms)]
            paid = imported or not charges
            self.status = Status.ACTIVE if paid else Status.INCOMPLETE
            if not paid:
                self.expires_at = now + FIRST_PAYMENT_WITHIN
        event = self._billable(
            SubscriptionStarted,
            terms,
            now=now,
            charges=charges,
            # A trial uses nothing of a coupon up.
            discounts=bool(charges),
            status=self.status.value,
            plan_id=self.plan_id,
            trial_end=self.trial_end,
        )
        return [event]

    # --- what time does ---------------------------------------------------------------------

    def next_act(self) -> tuple[datetime, Act] | None:
        """What happens next by itself, and when."""
        acts: list[tuple[datetime, Act]] = []
        if self.status in FINAL:
            return None
        if self.status is Status.INCOMPLETE and self.expires_at is not None:
            acts.append((self.expires_at, Act.EXPIRE))
        if self.status is Status.TRIALING and self.trial_end is not None:
            acts.append((self.trial_end, Act.END_TRIAL))
            if not self.trial_reminded:
                reminder = max(self.trial_end - TRIAL_REMINDER_BEFORE, self.period_start)
                acts.append((reminder, Act.REMIND_TRIAL))
        if self.status in RUNNING:
            at_end = Act.PAUSE if self.pause_at_period_end else Act.RENEW
            acts.append((self.period_end, at_end))
        if self.status in SERVED and self.cancel_at_period_end:
            acts.append((self.period_end, Act.CANCEL))
        if self.cancel_at is not None:
            acts.append((self.cancel_at, Act.CANCEL))
        if self.status is Status.PAUSED and self.resumes_at is not None:
            acts.append((self.resumes_at, Act.RESUME))
        order = list(Act)
        return min(acts, key=lambda act: (act[0], order.index(act[1])), default=None)

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

    def expire(self, *, now: datetime) -> SubscriptionExpired:
        """The first payment did not come in time."""
        self._move_to(Status.INCOMPLETE_EXPIRED)
        self.expires_at = None
        return self._event(SubscriptionExpired, now=now)

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
                cadence = cadence.moved_to(time_zone)
                self.anchor = cadence.anchor
            index = cadence.next_index(self.period_end, self.period_index)
            self.period_start = self.basis_start = self.period_end
            self.period_end, self.period_index = cadence.bound(index), index
        charges = [*used, *self._charges_ahead(terms)]
        return self._billable(SubscriptionRenewed, terms, now=now, charges=charges)

    # --- what payments do -------------------------------------------------------------------

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

    # --- what people do ---------------------------------------------------------------------

    def change(
        self,
        old_terms: Terms,
        terms: Terms,
        items: tuple[Item, ...],
        *,
        at: datetime,
        proration: Proration | None = None,
        usage: Usage = NO_USAGE,
    ) -> SubscriptionEvent:
        """Hold other prices, quantities or add-ons, now or from the next period on.

        By default an upgrade counts at once and a downgrade at the period's end.
        """
        if self.status not in SERVED:
            raise IllegalTransition(f"A subscription that is {self.status} cannot be changed.")
        interval = check_items(items, terms)
        if terms.price(items[0]).currency != self.currency:
            raise CurrencyMismatch(
                f"The subscription is in {self.currency}; another currency needs a new one.",
                field="price_id",
            )
        if holdings(items) == holdings(self.items):
            raise NothingChanges("The subscription already holds exactly this.")
        if proration is None:
            upgrade = rate(items, terms) >= rate(self.items, old_terms)
            proration = Proration.NOW if upgrade else Proration.AT_PERIOD_END
        if proration is Proration.AT_PERIOD_END:
            return self._schedule(terms, items, at=at)
        previous_price_id = self.price_id
        charges: list[Charge] = []
        at = min(max(whole_second(at), self.period_start), self.period_end)
        if self.status is Status.TRIALING:
            self._hold(items, terms.plan.id)
            self.interval_unit, self.interval_count = interval.unit, interval.count
        else:
            charges = self._switch(
                old_terms,
                terms,
                items,
                interval=interval,
                at=at,
                proration=proration,
                usage=usage,
            )
        self.scheduled_change = None
        return self._billable(
            SubscriptionChanged,
            terms,
            now=at,
            charges=charges,
            discounts=None,
            previous_price_id=previous_price_id,
            quantity=self.quantity,
            invoice_now=proration is not Proration.NEXT,
        )

    def _switch(
        self,
        old_terms: Terms,
        terms: Terms,
        items: tuple[Item, ...],
        *,
        interval: Interval,
        at: datetime,
        proration: Proration,
        usage: Usage,
    ) -> list[Charge]:
        prorates = proration is not Proration.NONE
        old, new = _difference(self.items, items)
        used = self._usage_charges(old_terms, usage, only={item.id for item in old})
        factor = Factor.of_rest(self._basis, at)
        rest = self._rest(at)
        credits_ = [
            credit_rest(item, old_terms, rest, factor)
            for item in old
            if prorates and rest is not None and old_terms.price(item).is_recurring
        ]
        one_offs = [item for item in new if terms.price(item).type.value == "one_off"]
        if interval != self.cadence.interval:
            # Another rhythm begins at once: what is left of everything comes back.
            kept = [item for item in self.items if item not in old]
            credits_ += [
                credit_rest(item, old_terms, rest, factor)
                for item in kept
                if prorates and rest is not None and old_terms.price(item).is_recurring
            ]
            self._hold(items, terms.plan.id)
            self.interval_unit, self.interval_count = interval.unit, interval.count
            self._open_cadence(at)
            charges = self._charges_ahead(terms)
        else:
            charges = [
                charge_rest(item, terms, rest, factor)
                for item in new
                if prorates and rest is not None and terms.price(item).is_recurring
            ]
            since = {item.id for item in new if terms.price(item).is_metered}
            self._hold(
                tuple(replace(i, metered_from=at) if i.id in since else i for i in items),
                terms.plan.id,
            )
        once = [charge_once(item, terms, self.period) for item in one_offs]
        return [*used, *credits_, *charges, *once]

    def _schedule(
        self, terms: Terms, items: tuple[Item, ...], *, at: datetime
    ) -> SubscriptionChangeScheduled:
        self.scheduled_change = ScheduledChange(items, terms.plan.id)
        return self._event(
            SubscriptionChangeScheduled,
            now=at,
            price_id=items[0].price_id,
            quantity=items[0].quantity,
            effective_at=self.period_end,
        )

    def withdraw_change(self, *, at: datetime) -> SubscriptionChangeWithdrawn:
        """The scheduled change will not happen."""
        if self.scheduled_change is None or self.status in FINAL:
            raise NothingScheduled("No change is scheduled.")
        self.scheduled_change = None
        return self._event(SubscriptionChangeWithdrawn, now=at)

    def cancel(
        self,
        terms: Terms,
        *,
        at: datetime,
        now: datetime,
        credit: bool | None = None,
        reason: str | None = None,
        usage: Usage = NO_USAGE,
    ) -> SubscriptionCanceled:
        """End it, at `at`: usage is billed, and unused time comes back where that is asked for."""
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
        self.scheduled_change = None
        self.resumes_at = self.expires_at = None
        return self._billable(
            SubscriptionCanceled,
            terms,
            now=now,
            charges=charges,
            discounts=None,
            effective_at=at,
            reason=self.cancel_reason,
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
        self, terms: Terms, *, at: datetime, now: datetime, usage: Usage = NO_USAGE
    ) -> list[SubscriptionEvent]:
        """Rest from here on: no service and no bills. Usage until here is billed first."""
        del at
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
        self.pause_at_period_end = False
        self.paused_at = now
        events.append(self._event(SubscriptionPaused, now=now, resumes_at=self.resumes_at))
        return events

    def resume(self, terms: Terms, *, at: datetime, now: datetime) -> SubscriptionResumed:
        """Wake it: a new period begins and is billed at once."""
        if self.status is not Status.PAUSED:
            raise IllegalTransition(f"A subscription that is {self.status} cannot be resumed.")
        self._apply_scheduled()
        self._move_to(Status.ACTIVE)
        self.paused_at = self.resumes_at = None
        self._open_cadence(whole_second(at))
        charges = self._charges_ahead(terms)
        return self._billable(SubscriptionResumed, terms, now=now, charges=charges)

    def park(self, reason: str, *, now: datetime) -> None:
        """Leave it alone until a person has looked: it could not be billed."""
        self.parked_at, self.parked_reason = now, reason
        self.due_at = None

    def release(self) -> None:
        """Take it up again after a person has looked."""
        self.parked_at = self.parked_reason = None
        self._plan_ahead()

    # --- reading ----------------------------------------------------------------------------

    @property
    def period(self) -> BillingPeriod:
        return BillingPeriod(self.period_start, self.period_end)

    @property
    def cadence(self) -> Cadence:
        return Cadence(
            self.anchor, self.time_zone, Interval(self.interval_unit, self.interval_count)
        )

    @property
    def is_served(self) -> bool:
        return self.status in SERVED

    @property
    def next_items(self) -> tuple[Item, ...]:
        """What it will hold when the next period begins."""
        return self.scheduled_change.items if self.scheduled_change else self.items

    # --- inside -----------------------------------------------------------------------------

    @property
    def _basis(self) -> BillingPeriod:
        """The whole period that prices are for, of which the running one may be the rest."""
        return BillingPeriod(self.basis_start, self.period_end)

    def _rest(self, at: datetime) -> BillingPeriod | None:
        at = max(whole_second(at), self.period_start)
        return BillingPeriod(at, self.period_end) if at < self.period_end else None

    def _open_cadence(self, at: datetime) -> None:
        """A new anchor, and the first period from it on."""
        interval = Interval(self.interval_unit, self.interval_count)
        cadence = Cadence.begin(at, self.time_zone, interval, self.billing)
        index = cadence.index_at(at)
        self.anchor = cadence.anchor
        self.period_start = at
        self.basis_start = cadence.bound(index)
        self.period_index = cadence.next_index(at, index)
        self.period_end = cadence.bound(self.period_index)

    def _skip_to(self, now: datetime) -> None:
        """The period that `now` lies in, without billing those before."""
        if now < self.period_end:
            return
        cadence = self.cadence
        index = cadence.index_at(now)
        self.period_start = self.basis_start = cadence.bound(index)
        self.period_index = cadence.next_index(self.period_start, index)
        self.period_end = cadence.bound(self.period_index)

    def _hold(self, items: tuple[Item, ...], plan_id: UUID) -> None:
        self.items, self.plan_id = items, plan_id
        self.price_id, self.quantity = items[0].price_id, items[0].quantity

    def _apply_scheduled(self) -> bool:
        if self.scheduled_change is None:
            return False
        self._hold(self.scheduled_change.items, self.scheduled_change.plan_id)
        self.scheduled_change = None
        return True

    def _charges_ahead(self, terms: Terms) -> list[Charge]:
        self.items = tuple(replace(item, metered_from=None) for item in self.items)
        factor = Factor(self.period.seconds, self._basis.seconds)
        return [
            charge_ahead(item, terms, self.period, factor)
            for item in self.items
            if terms.price(item).is_recurring
        ]

    def _one_offs(self, terms: Terms) -> list[Charge]:
        return [
            charge_once(item, terms, self.period)
            for item in self.items
            if terms.price(item).type.value == "one_off"
        ]

    def _usage_charges(
        self, terms: Terms, usage: Usage, *, only: set[UUID] | None = None
    ) -> list[Charge]:
        charges = [
            charge_usage(item, terms, part.window, part.used, billed=part.billed, late=part.late)
            for item in self.items
            if only is None or item.id in only
            for part in usage.get(item.id, ())
        ]
        return [charge for charge in charges if charge is not None]

    def _activated(self, previous: Status, *, now: datetime) -> SubscriptionActivated:
        return self._event(
            SubscriptionActivated,
            now=now,
            previous_status=previous.value,
            period_start=self.period_start,
            period_end=self.period_end,
        )

    def _billable(
        self,
        kind: type[B],
        terms: Terms,
        *,
        now: datetime,
        charges: list[Charge],
        discounts: bool | None = True,
        **more: Any,
    ) -> B:
        """An event with charges.

        `discounts`: True uses a period of each coupon up, None gives those that the running
        period was billed with, False none.
        """
        applied: tuple[AppliedDiscount, ...] = ()
        if discounts:
            self.discounts = tuple(
                after
                for after in (discount.for_new_period() for discount in self.discounts)
                if not after.is_spent
            )
            applied = tuple(discount for discount in self.discounts if discount.current)
        elif discounts is None:
            # A fixed amount was given once for the period; a percentage is part of each line.
            applied = tuple(d for d in self.discounts if d.current and d.percent is not None)
        return self._event(
            kind,
            now=now,
            currency=self.currency,
            plan_name=terms.plan.name,
            price_id=self.price_id,
            period_start=self.period_start,
            period_end=self.period_end,
            charges=tuple(charges),
            discounts=tuple(discount.published() for discount in applied) if charges else (),
            payment_method_id=self.payment_method_id,
            dunning=terms.plan.dunning,
            **more,
        )

    def _event(self, kind: type[E], *, now: datetime, **payload: Any) -> E:
        self.version += 1
        self.updated_at = now
        self._plan_ahead()
        return kind(
            occurred_at=now,
            account_id=self.account_id,
            sequence=self.version,
            subscription_id=self.id,
            **payload,
        )

    def _plan_ahead(self) -> None:
        upcoming = self.next_act()
        parked = self.parked_at is not None
        self.due_at = None if upcoming is None or parked else upcoming[0]

    def _require(self, target: Status) -> None:
        if target not in MOVES[self.status]:
            raise IllegalTransition(f"A subscription that is {self.status} cannot be {target}.")

    def _move_to(self, target: Status) -> None:
        self._require(target)
        self.status = target


def check_items(items: tuple[Item, ...], terms: Terms) -> Interval:
    """One currency and one rhythm for all recurring items; sensible quantities."""
    main = terms.price(items[0])
    if main.interval is None:
        raise IntervalMismatch("A subscription needs a price with an interval.", field="price_id")
    for item in items:
        price = terms.price(item)
        if price.currency != main.currency:
            raise CurrencyMismatch(
                "All prices of a subscription share one currency.", field="addons"
            )
        if price.interval is not None and price.interval != main.interval:
            raise IntervalMismatch(
                "All recurring prices of a subscription share one interval.", field="addons"
            )
        if not 1 <= item.quantity <= MOST_UNITS:
            raise QuantityInvalid(f"A quantity lies between 1 and {MOST_UNITS}.", field="quantity")
    return main.interval


def holdings(items: tuple[Item, ...]) -> set[tuple[UUID, int, UUID | None]]:
    return {(item.price_id, item.quantity, item.addon_id) for item in items}


def rate(items: tuple[Item, ...], terms: Terms) -> Fraction:
    """About what the items cost a day, to tell an upgrade from a downgrade."""
    return sum(
        (
            price.quote(item.quantity).amount / price.interval.nominal_days
            for item in items
            if (price := terms.price(item)).is_recurring and price.interval is not None
        ),
        start=Fraction(0),
    )


def _difference(old: tuple[Item, ...], new: tuple[Item, ...]) -> tuple[list[Item], list[Item]]:
    """The items that go and those that come; what stays as it is is neither."""
    kept = holdings(old) & holdings(new)
    return (
        [item for item in old if (item.price_id, item.quantity, item.addon_id) not in kept],
        [item for item in new if (item.price_id, item.quantity, item.addon_id) not in kept],
    )


def cost_of(price: Price, quantity: int) -> int:
    """A whole period's cost in minor units."""
    return round_exact(price.quote(quantity).amount)
