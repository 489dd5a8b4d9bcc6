"""What a subscription is at an instant, and the one way in which it moves, bills and reports."""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, TypeVar
from uuid import UUID

from services.subscriptions.domain.charges import (
    Item,
    Terms,
    charge_ahead,
    charge_once,
    charge_usage,
)
from services.subscriptions.domain.coupon import AppliedDiscount
from services.subscriptions.domain.period import (
    Billing,
    BillingPeriod,
    Cadence,
    Interval,
    IntervalUnit,
    whole_second,
)
from services.subscriptions.domain.proration import Factor
from services.subscriptions.domain.subscription.items import ScheduledChange, Usage
from services.subscriptions.domain.subscription.status import (
    FINAL,
    MOVES,
    RUNNING,
    SERVED,
    Act,
    IllegalTransition,
    Status,
)
from shared.events.subscriptions import (
    Billable,
    Charge,
    SubscriptionActivated,
    SubscriptionEvent,
)

TRIAL_REMINDER_BEFORE = timedelta(days=3)

E = TypeVar("E", bound=SubscriptionEvent)
B = TypeVar("B", bound=Billable)


@dataclass(eq=False, kw_only=True)
class Agreement:
    """The fields of a subscription. What happens to it is in the classes beside this one."""

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
    #: Since when it is ended or paused only because dunning came to nothing.
    lapsed_at: datetime | None = None
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
        rests = self.status is Status.PAUSED and self.lapsed_at is None
        if rests and self.resumes_at is not None:
            acts.append((self.resumes_at, Act.RESUME))
        order = list(Act)
        return min(acts, key=lambda act: (act[0], order.index(act[1])), default=None)

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
