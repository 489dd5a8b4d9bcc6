"""What a subscription is at an instant, and the one way in which it moves, bills and reports.

A bill is what is owed less what was billed. What covers time ahead was billed by `billed`; each act
changes what is held and asks for the difference, and nothing else makes charges. A period is opened
in one place, `_open_period`, whoever asks for it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import datetime, timedelta
from typing import Any, TypeVar
from uuid import UUID

from services.subscriptions.domain.agenda import (
    Addition,
    Agenda,
    Change,
    Entry,
    EntryKind,
    held_then,
    in_order,
    moot_moves,
)
from services.subscriptions.domain.charges import (
    BilledCharge,
    Item,
    Terms,
    charge_ahead,
    charge_once,
    charge_rest,
    charge_usage,
    take_back,
    take_back_usage,
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
from services.subscriptions.domain.price import PriceType
from services.subscriptions.domain.proration import Factor
from services.subscriptions.domain.subscription.items import (
    NO_USAGE,
    ScheduledChange,
    Usage,
    check_items,
)
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
    Discount,
    SubscriptionActivated,
    SubscriptionChangeLapsed,
    SubscriptionChangeWithdrawn,
    SubscriptionEvent,
    TakeBack,
)
from shared.money import allocate

TRIAL_REMINDER_BEFORE = timedelta(days=3)
#: No report of usage is under way for longer.
STRAGGLERS_WITHIN = timedelta(hours=1)

E = TypeVar("E", bound=SubscriptionEvent)
B = TypeVar("B", bound=Billable)

#: What happens to entries of the agenda by themselves, by which act.
ACTS = {
    EntryKind.CANCEL: Act.CANCEL,
    EntryKind.CHANGE: Act.CHANGE,
    EntryKind.PAUSE: Act.PAUSE,
    EntryKind.RESUME: Act.RESUME,
}


@dataclass(frozen=True, slots=True)
class PendingChange:
    """A change whose invoice waits to be paid; then it counts from when it was asked for."""

    id: UUID
    change: Change
    proration: str
    asked_at: datetime
    expires_at: datetime
    by: str
    #: The charges that its invoice bills, in the order in which the change makes them.
    charge_ids: tuple[UUID, ...] = ()


@dataclass(slots=True)
class Bill:
    """What is owed more than was billed, what was billed more than is owed, and the coupons."""

    charges: list[Charge] = field(default_factory=list)
    take_backs: list[TakeBack] = field(default_factory=list)
    discounts: list[Discount] = field(default_factory=list)

    def add(self, other: "Bill") -> None:
        self.charges += other.charges
        self.take_backs += other.take_backs
        self.discounts += other.discounts

    @property
    def is_empty(self) -> bool:
        return not self.charges and not self.take_backs

    def published_discounts(self) -> tuple[Discount, ...]:
        """One for each use of a coupon; without a list where it counts for all charges."""
        if not self.discounts:
            return ()
        everything = tuple(charge.id for charge in self.charges)
        return tuple(
            discount.model_copy(update={"charge_ids": None})
            if discount.charge_ids == everything
            else discount
            for discount in self.discounts
        )


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
    #: The charges that were billed and cover time of the running period.
    billed: tuple[BilledCharge, ...] = ()
    #: What waits. The flags below say the same for answers, and for an earlier release.
    agenda: Agenda = ()
    #: The version to which `billed` and `agenda` belong. An earlier release that still runs leaves
    #: it behind: then both are gathered anew.
    kept_version: int | None = None
    pending_change: PendingChange | None = None
    #: When late usage of a subscription that opens no periods now is billed.
    usage_due_at: datetime | None = None
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
    def is_caught_up(self) -> bool:
        """Whether `billed` and `agenda` are of this version."""
        return self.kept_version == self.version

    def catch_up(self, billed: Iterable[BilledCharge], coupons: Sequence[AppliedDiscount]) -> None:
        """Go on from what an earlier release wrote: its flags, and what its events billed."""
        if self._flags() != self._flags_of_agenda():
            self.agenda = in_order(self._waiting_by_flags())
        self.billed = tuple(one for one in billed if one.covers_until > self.period_start)
        self.discounts = tuple(coupons)
        if self.status is Status.TRIALING:
            # It billed one-offs when a trial ended.
            self.items = tuple(
                replace(item, units_billed=0) if item.units_billed is None else item
                for item in self.items
            )
        self.kept_version = self.version
        self._plan_ahead()

    def _flags(self) -> tuple[object, ...]:
        """What waits, as far as an earlier release has words for it."""
        change = self.scheduled_change
        return (
            self.cancel_at_period_end,
            self.cancel_at,
            self.cancel_with_credit,
            self.pause_at_period_end,
            self.resumes_at,
            change and ([item.key for item in change.items], change.plan_id),
        )

    def _flags_of_agenda(self) -> tuple[object, ...]:
        """What the agenda says in those words: more than them, where it is still the same."""
        kept = {one.name: getattr(self, one.name) for one in fields(self)}
        self._mirror_agenda()
        flags = self._flags()
        for name, value in kept.items():
            setattr(self, name, value)
        return flags

    def _waiting_by_flags(self) -> list[Entry]:
        since, entries = self.updated_at, []
        if self.cancel_at_period_end or self.cancel_at is not None:
            entries.append(
                Entry(
                    EntryKind.CANCEL,
                    since,
                    "earlier release",
                    at=self.cancel_at,
                    credit=self.cancel_with_credit,
                    reason=self.cancel_reason,
                )
            )
        if self.scheduled_change is not None:
            change = change_to(self.scheduled_change.items, self.scheduled_change.plan_id)
            entries.append(Entry(EntryKind.CHANGE, since, "earlier release", change=change))
        if self.pause_at_period_end:
            entries.append(Entry(EntryKind.PAUSE, since, "earlier release"))
        if self.resumes_at is not None:
            entries.append(Entry(EntryKind.RESUME, since, "earlier release", at=self.resumes_at))
        return entries

    def waiting(self, kind: EntryKind) -> Entry | None:
        """The first entry of this kind, if one waits."""
        return next((entry for entry in self.agenda if entry.kind is kind), None)

    def held_at(self, at: datetime | None = None) -> tuple[tuple[Item, ...], UUID]:
        """What it will hold, and by which plan, when a period opens at `at` (its next one)."""
        at = self.period_end if at is None else at
        return held_then(self.items, self.plan_id, self.agenda, at=at)

    @property
    def next_items(self) -> tuple[Item, ...]:
        """What it will hold when the next period begins."""
        return self.held_at()[0]

    @property
    def referenced(self) -> tuple[set[UUID], set[UUID]]:
        """All prices and plans that it holds or will hold."""
        prices, plans = {item.price_id for item in self.items}, {self.plan_id}
        prices.update(one.price_id for one in self.billed)
        changes = [entry.change for entry in self.agenda]
        if (pending := self.pending_change) is not None:
            changes.append(pending.change)
        for change in changes:
            prices |= change.price_ids
            if change.plan_id is not None:
                plans.add(change.plan_id)
        return prices, plans

    def next_act(self) -> tuple[datetime, Act] | None:
        """What happens next by itself, and when."""
        acts: list[tuple[datetime, Act]] = []
        status = self.status
        if status in RUNNING:
            acts.append((self.period_end, Act.RENEW))
        elif self.usage_due_at is not None:
            acts.append((self.usage_due_at, Act.BILL_USAGE))
        if status not in FINAL:
            acts += self._acts_of_its_state(status)
            if self.agenda:
                acts += self._acts_of_the_agenda()
        if len(acts) == 1:
            return acts[0]
        order = list(Act)
        return min(acts, key=lambda act: (act[0], order.index(act[1])), default=None)

    def _acts_of_its_state(self, status: Status) -> list[tuple[datetime, Act]]:
        """Besides that its periods go on."""
        acts: list[tuple[datetime, Act]] = []
        if status is Status.INCOMPLETE and self.expires_at is not None:
            acts.append((self.expires_at, Act.EXPIRE))
        if status is Status.TRIALING and self.trial_end is not None:
            acts.append((self.trial_end, Act.END_TRIAL))
            if not self.trial_reminded:
                reminder = max(self.trial_end - TRIAL_REMINDER_BEFORE, self.period_start)
                acts.append((reminder, Act.REMIND_TRIAL))
        if (pending := self.pending_change) is not None:
            acts.append((pending.expires_at, Act.LAPSE_CHANGE))
        return acts

    def _acts_of_the_agenda(self) -> list[tuple[datetime, Act]]:
        """Cancellations happen in every state; the rest where there is something to act on."""
        acts: list[tuple[datetime, Act]] = []
        for entry in self.agenda:
            at = self.period_end if entry.at is None else entry.at
            match entry.kind:
                case EntryKind.CANCEL:
                    possible = self.status is not Status.INCOMPLETE or entry.at is not None
                case EntryKind.CHANGE:
                    # At the period's end it is part of opening the next one.
                    possible = at < self.period_end and self.status in SERVED
                case EntryKind.PAUSE:
                    possible = self.status in RUNNING
                case EntryKind.RESUME:
                    possible = self.status is Status.PAUSED and self.lapsed_at is None
                    at = max(at, self.period_end)  # another rhythm may have moved that
                case EntryKind.PRICE_MOVE:
                    possible = False
            if possible:
                acts.append((at, ACTS[entry.kind]))
        return acts

    @property
    def _basis(self) -> BillingPeriod:
        """The whole period that prices are for, of which the running one may be the rest."""
        return BillingPeriod(self.basis_start, self.period_end)

    def _open_period(
        self,
        terms: Terms,
        *,
        usage: Usage = NO_USAGE,
        restart_at: datetime | None = None,
        time_zone: str | None = None,
    ) -> Bill:
        """Open the next period, or one of a new anchor at `restart_at`: the only way to do it.

        Bills the usage behind, uses a period of each coupon in scope, applies what waits (with its
        interval), and bills what is ahead and one-offs that never were. A new time zone of the
        account counts from here: the period starts where the last one ended.
        """
        bill = self._bill_usage(terms, usage)
        self.usage_due_at = None
        starts_at = self.period_end if restart_at is None else restart_at
        self._apply_agenda(starts_at)
        interval, cadence = check_items(self.items, terms), self.cadence
        if restart_at is None and interval == cadence.interval:
            if time_zone is not None and time_zone != cadence.time_zone:
                cadence = cadence.moved_to(time_zone)
                self.anchor, self.time_zone = cadence.anchor, time_zone
            self.period_start = self.basis_start = starts_at
            self.period_index, self.period_end = cadence.next_bound(starts_at, self.period_index)
        else:
            self.interval_unit, self.interval_count = interval.unit, interval.count
            self._open_cadence(starts_at)
        if terms.time_zone != cadence.time_zone:
            terms = replace(terms, time_zone=cadence.time_zone)
        self._use_coupons()
        bill.add(self._discounted([*self._bill_once(terms), *self._bill_ahead(terms)]))
        return bill

    def _bill_ahead(self, terms: Terms) -> list[Charge]:
        """The period that was just opened: whatever is held in it and recurs."""
        period, items = self.period, self.items
        if any(item.metered_from is not None for item in items):
            self.items = items = tuple(replace(item, metered_from=None) for item in items)
        factor = Factor(period.seconds, self._basis.seconds)
        # What covers this very time already (a clock put back by hand) is not billed again.
        billed = [one for one in self.billed if one.covers_until > period.start]
        covered = [one.key for one in billed]
        charges = []
        for item in items:
            if item.key in covered:
                covered.remove(item.key)
            elif terms.price(item).is_recurring:
                charge = charge_ahead(item, terms, period, factor)
                charges.append(charge)
                billed.append(BilledCharge.of(charge, item))
        self.billed = tuple(billed)
        return charges

    def _apply_agenda(self, at: datetime) -> None:
        due = [e for e in self.agenda if e.changes_what_is_held and e.is_due(at)]
        if due:
            moot = moot_moves(self.items, self.plan_id, due)
            self._hold(*held_then(self.items, self.plan_id, due, at=at))
            self._drop(*due)
            self._wait(*moot)

    def report_moot(self, *, now: datetime) -> list[SubscriptionEvent]:
        """Withdraw price moves whose price was not held any more when a period opened."""
        moot = [
            entry
            for entry in self.agenda
            if entry.kind is EntryKind.PRICE_MOVE and entry.from_price_id is None
        ]
        self._drop(*moot)
        return [self._event(SubscriptionChangeWithdrawn, now=now) for _ in moot]

    def _open_cadence(self, at: datetime) -> None:
        """A new anchor, and the first period from it on."""
        interval = Interval(self.interval_unit, self.interval_count)
        cadence = Cadence.begin(at, self.time_zone, interval, self.billing)
        index = cadence.index_at(at)
        self.anchor = cadence.anchor
        self.period_start = at
        self.basis_start = cadence.bound(index)
        self.period_index, self.period_end = cadence.next_bound(at, index)

    def _skip_to(self, now: datetime) -> None:
        """The period that `now` lies in, without billing those before."""
        if now < self.period_end:
            return
        cadence = self.cadence
        index = cadence.index_at(now)
        self.period_start = self.basis_start = start = cadence.bound(index)
        self.period_index, self.period_end = cadence.next_bound(start, index)

    def _hold(self, items: tuple[Item, ...], plan_id: UUID) -> None:
        self.items, self.plan_id = items, plan_id
        self.price_id, self.quantity = items[0].price_id, items[0].quantity

    def _drop(self, *entries: Entry) -> None:
        self.agenda = tuple(entry for entry in self.agenda if entry not in entries)

    def _wait(self, *entries: Entry) -> None:
        self.agenda = in_order((*self.agenda, *entries))

    def _charge(self, charge: Charge, item: Item) -> Charge:
        """Remember that this covers its time."""
        self.billed = (*self.billed, BilledCharge.of(charge, item))
        return charge

    def _bill_difference(self, terms: Terms, at: datetime, places: set[UUID | None]) -> Bill:
        """For the rest of the running period: what is held in these places less what was billed."""
        bill = Bill()
        if at >= self.period_end:
            return bill
        held = [
            item
            for item in self.items
            if item.addon_id in places and terms.price(item).is_recurring
        ]
        for one in self.billed:
            if one.addon_id not in places or one.covers_until <= at:
                continue
            same = next((item for item in held if item.key == one.key), None)
            if same is not None:
                held.remove(same)
            else:
                bill.take_backs.append(self._take_back(one, terms, at))
        rest, factor = BillingPeriod(at, self.period_end), Factor.of_rest(self._basis, at)
        charges = [self._charge(charge_rest(item, terms, rest, factor), item) for item in held]
        bill.add(self._discounted(charges))
        return bill

    def _take_back_all(self, terms: Terms, at: datetime) -> list[TakeBack]:
        """Everything that was billed and covers time from `at` on."""
        at = max(whole_second(at), self.period_start)
        return [
            self._take_back(one, terms, max(at, one.starts_at))
            for one in self.billed
            if one.covers_until > at
        ]

    def _take_back(self, one: BilledCharge, terms: Terms, at: datetime) -> TakeBack:
        self.billed = tuple(
            replace(kept, covers_until=at) if kept is one else kept for kept in self.billed
        )
        return take_back(one, terms, at)

    def _bill_once(self, terms: Terms) -> list[Charge]:
        """One-off units that are held and never were billed."""
        charges: list[Charge] = []
        items = []
        if not any(terms.price(item).type is PriceType.ONE_OFF for item in self.items):
            return charges
        for item in self.items:
            if terms.price(item).type is PriceType.ONE_OFF:
                billed = item.quantity if item.units_billed is None else item.units_billed
                if item.quantity > billed:
                    units = replace(item, quantity=item.quantity - billed)
                    charges.append(charge_once(units, terms, self.period))
                item = replace(item, units_billed=item.quantity)  # noqa: PLW2901
            items.append(item)
        self.items = tuple(items)
        return charges

    def _bill_usage(self, terms: Terms, usage: Usage, *, until: datetime | None = None) -> Bill:
        """Usage behind, by the coupons of the period in which it happened.

        `until`: within the period, from which on usage is billed next.
        """
        bill, now_behind = Bill(), []
        for part in usage:
            charge = charge_usage(part, terms.time_zone)
            if part.is_billed_anew:
                bill.take_backs += take_back_usage(part, terms.time_zone)
            if charge is None:
                continue
            if part.late:
                bill.charges.append(charge)
                bill.discounts += [
                    discount.model_copy(update={"charge_ids": (charge.id,)})
                    for discount in part.discounts
                ]
            else:
                now_behind.append(charge)
        bill.add(self._discounted(now_behind))
        if until is not None:
            since = max(until, self.period_start)
            self.items = tuple(
                replace(item, metered_from=since) if terms.price(item).is_metered else item
                for item in self.items
            )
        return bill

    def _await_stragglers(self, terms: Terms, *, now: datetime) -> None:
        """Look once more for usage that was being taken while this came to rest."""
        if any(terms.price(item).is_metered for item in self.items):
            self.usage_due_at = now + STRAGGLERS_WITHIN

    def _use_coupons(self) -> None:
        """A period of each coupon in scope."""
        if not self.discounts:
            return
        held = {item.price_id for item in self.items}
        after = (discount.for_new_period(self.plan_id, held) for discount in self.discounts)
        self.discounts = tuple(discount for discount in after if not discount.is_spent)

    def _discounted(self, charges: list[Charge]) -> Bill:
        """Charges of the running period with what its coupons take off them, in their order.

        Also what a fixed amount has left for the period: it is given once, over however many bills.
        """
        bill = Bill(list(charges))
        if not charges or not self.discounts:
            return bill
        left = {charge.id: charge.amount for charge in charges}
        after = []
        for discount in self.discounts:
            changed = discount
            if discount.has_something_left and discount.covers_plan(self.plan_id):
                mine = tuple(
                    charge.id
                    for charge in charges
                    if charge.price_id is None or discount.covers_price(charge.price_id)
                )
                whole = sum(left[charge_id] for charge_id in mine)
                changed, off = discount.take_off(whole)
                if off:
                    bill.discounts.append(
                        discount.published(mine, off if discount.percent is None else None)
                    )
                    shares = allocate(off, [left[charge_id] for charge_id in mine])
                    left |= {
                        charge_id: left[charge_id] - share
                        for charge_id, share in zip(mine, shares, strict=True)
                    }
            after.append(changed)
        self.discounts = tuple(after)
        return bill

    def percentages_off(self, price_id: UUID) -> tuple[Discount, ...]:
        """The percentages that count for usage of the running period at this price."""
        return tuple(
            discount.published()
            for discount in self.discounts
            if discount.current
            and discount.percent is not None
            and discount.covers_plan(self.plan_id)
            and discount.covers_price(price_id)
        )

    def lapse_change(self, *, now: datetime) -> list[SubscriptionEvent]:
        """A change whose invoice was not paid will not happen, and the invoice is not owed."""
        if self.pending_change is None:
            return []
        change_id, self.pending_change = self.pending_change.id, None
        return [self._event(SubscriptionChangeLapsed, now=now, change_id=change_id)]

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
        bill: Bill,
        **more: Any,
    ) -> B:
        """An event with a bill."""
        plan = terms.plan_of(self.plan_id)
        return self._event(
            kind,
            now=now,
            currency=self.currency,
            plan_name=plan.name,
            price_id=self.price_id,
            period_start=self.period_start,
            period_end=self.period_end,
            charges=tuple(bill.charges),
            take_backs=tuple(bill.take_backs),
            discounts=bill.published_discounts(),
            payment_method_id=self.payment_method_id,
            dunning=plan.dunning,
            **more,
        )

    def _event(self, kind: type[E], *, now: datetime, **payload: Any) -> E:
        self.version = self.kept_version = version = self.version + 1
        self.updated_at = now
        self._mirror_agenda()
        self._plan_ahead()
        return kind(
            occurred_at=now,
            account_id=self.account_id,
            sequence=version,
            subscription_id=self.id,
            **payload,
        )

    def _mirror_agenda(self) -> None:
        """Say what waits in the older flags too, which answers and an earlier release read."""
        if not self.agenda and self._says_nothing_waits():
            return
        cancel, pause = self.waiting(EntryKind.CANCEL), self.waiting(EntryKind.PAUSE)
        resume = self.waiting(EntryKind.RESUME)
        self.cancel_at_period_end = cancel is not None and cancel.at is None
        self.cancel_at = cancel.at if cancel else None
        self.cancel_with_credit = cancel.credit if cancel else False
        if cancel is not None:
            self.cancel_reason = cancel.reason
        self.pause_at_period_end = pause is not None
        self.resumes_at = resume.at if resume else None
        items, plan_id = self.held_at()
        if items == self.items or not any(e.changes_what_is_held for e in self.agenda):
            self.scheduled_change = None
        elif (
            self.scheduled_change is None
            or [i.key for i in self.scheduled_change.items] != [i.key for i in items]
            or self.scheduled_change.plan_id != plan_id
        ):
            self.scheduled_change = ScheduledChange(items, plan_id)

    def _says_nothing_waits(self) -> bool:
        """Whether the flags are those of an empty agenda, as after most renewals."""
        return not (
            self.cancel_at_period_end
            or self.cancel_at
            or self.cancel_with_credit
            or self.pause_at_period_end
            or self.resumes_at
            or self.scheduled_change
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


def change_to(items: Sequence[Item], plan_id: UUID) -> Change:
    """The change after which exactly this is held."""
    main, *others = items
    beside = [Addition(item.price_id, item.quantity, item.addon_id) for item in others]
    return Change(
        price_id=main.price_id,
        plan_id=plan_id,
        components=tuple(one for one in beside if one.addon_id is None),
        quantity=main.quantity,
        addons=tuple(one for one in beside if one.addon_id is not None),
    )
