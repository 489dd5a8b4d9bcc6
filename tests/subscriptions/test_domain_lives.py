"""Any sequence of allowed commands, at any time, keeps a subscription's invariants."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from typing import Any
from uuid import UUID

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from services.subscriptions.domain.agenda import Addition, Agenda, Change, Entry, EntryKind
from services.subscriptions.domain.charges import Item
from services.subscriptions.domain.coupon import AppliedDiscount
from services.subscriptions.domain.period import Billing, IntervalUnit
from services.subscriptions.domain.plan import TrialEndBehavior
from services.subscriptions.domain.price import Price, PriceType
from services.subscriptions.domain.subscription import (
    FINAL,
    MOVES,
    RUNNING,
    Act,
    PaymentBehavior,
    Proration,
    Status,
    Subscription,
)
from shared.errors import DomainError
from shared.events.subscriptions import (
    Billable,
    Charge,
    SubscriptionActivated,
    SubscriptionCanceled,
    SubscriptionCancellationScheduled,
    SubscriptionCancellationWithdrawn,
    SubscriptionChanged,
    SubscriptionChangeLapsed,
    SubscriptionChangePending,
    SubscriptionChangeWithdrawn,
    SubscriptionEvent,
    SubscriptionExpired,
    SubscriptionPaused,
    SubscriptionPauseScheduled,
    SubscriptionPauseWithdrawn,
    SubscriptionRenewed,
    SubscriptionResumed,
    SubscriptionTrialEnded,
    TakeBack,
)
from shared.ids import new_id
from tests.subscriptions.factories import (
    BEGIN,
    a_plan,
    a_price,
    an_item,
    an_order,
    terms_of,
    tiered,
)

#: By names, so that a life that went wrong can be read.
MONTHLY = {
    "ten": a_price(1000),
    "twenty-five": a_price(2500),
    "seats": a_price(700, type=PriceType.PER_UNIT),
    "graduated": tiered(PriceType.GRADUATED),
    "volume": tiered(PriceType.VOLUME),
}
YEARLY = {
    "year": a_price(9000, interval_unit=IntervalUnit.YEAR),
    "year of seats": a_price(6000, interval_unit=IntervalUnit.YEAR, type=PriceType.PER_UNIT),
}
PLANS = MONTHLY | YEARLY
FIRST = MONTHLY["ten"]
PLACES = {"support": new_id(), "storage": new_id(), "setup": new_id()}
ADDONS = [
    a_price(300, addon_id=PLACES["support"], type=PriceType.PER_UNIT),
    a_price(450, addon_id=PLACES["storage"]),
    a_price(3000, addon_id=PLACES["support"], interval_unit=IntervalUnit.YEAR),
    a_price(250, addon_id=PLACES["setup"], type=PriceType.ONE_OFF, interval_unit=None),
]
PRICES: dict[UUID, Price] = {price.id: price for price in (*PLANS.values(), *ADDONS)}
COUPONS = [
    AppliedDiscount(new_id(), "QUARTER", "25 % off", Decimal(25), None, None, 3),
    AppliedDiscount(new_id(), "FIVE", "5.00 off", None, 500, "EUR", None),
]
AHEAD = {"recurring", "addon", "proration_charge"}
OPENS = SubscriptionRenewed | SubscriptionResumed | SubscriptionTrialEnded
#: What may end the waiting of an entry of each kind.
EXPLAINS: dict[EntryKind, Any] = {
    EntryKind.CANCEL: SubscriptionCanceled
    | SubscriptionCancellationScheduled
    | SubscriptionCancellationWithdrawn,
    EntryKind.CHANGE: OPENS | SubscriptionChanged | SubscriptionChangeWithdrawn,
    EntryKind.PRICE_MOVE: OPENS | SubscriptionChanged | SubscriptionChangeWithdrawn,
    EntryKind.PAUSE: SubscriptionPaused
    | SubscriptionPauseScheduled
    | SubscriptionPauseWithdrawn
    | SubscriptionResumed
    | SubscriptionCanceled,
    EntryKind.RESUME: SubscriptionPauseScheduled
    | SubscriptionPauseWithdrawn
    | SubscriptionResumed
    | SubscriptionCanceled,
}

#: A place (the plan's own, or an add-on's), and what covers it: price and quantity.
Covered = dict[UUID | None, tuple[UUID, int]]


@dataclass(frozen=True)
class Held:
    """What is held, told apart from the code under test: a main price and things beside it."""

    main: UUID
    quantity: int
    beside: tuple[tuple[UUID, int], ...] = ()

    @classmethod
    def of(cls, items: Iterable[Item]) -> "Held":
        main, *others = items
        return cls(
            main.price_id, main.quantity, tuple(sorted((i.price_id, i.quantity) for i in others))
        )

    def then(self, change: Change) -> "Held":
        beside = self.beside
        if change.addons is not None:
            beside = tuple(sorted((one.price_id, one.quantity) for one in change.addons))
        return Held(change.price_id or self.main, change.quantity or self.quantity, beside)

    def after(self, entries: Iterable[Entry]) -> "Held":
        """Once all that waits has happened, in its order."""
        held = self
        for entry in entries:
            moves = entry.kind is EntryKind.PRICE_MOVE and held.main == entry.from_price_id
            if entry.kind is EntryKind.CHANGE or moves:
                held = held.then(entry.change)
        return held

    @property
    def covered(self) -> Covered:
        found: Covered = {None: (self.main, self.quantity)}
        found |= {PRICES[price].addon_id: (price, many) for price, many in self.beside}
        return {place: one for place, one in found.items() if PRICES[one[0]].is_recurring}

    @property
    def yearly(self) -> bool:
        return PRICES[self.main].interval_unit is IntervalUnit.YEAR


@dataclass
class Span:
    """For this time, exactly this is to be covered by what was billed."""

    start: datetime
    end: datetime
    covered: Covered


class Life(RuleBasedStateMachine):
    """People, payments and time act in any order; refusals change nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.now = BEGIN
        self.events: list[SubscriptionEvent] = []
        self.statuses: list[Status] = []
        self.terms = terms_of(*PRICES.values())
        self.charges: dict[UUID, Charge] = {}
        self.covers_until: dict[UUID, datetime] = {}
        self.taken_back: set[UUID] = set()
        self.spans: list[Span] = []
        self.held = Held(FIRST.id, 1)
        self.asked: SubscriptionChangePending | None = None
        self._agenda_before: list[Entry] = []
        self._period_before = (BEGIN, BEGIN)
        self._done_last = self._done_before = BEGIN

    @initialize(
        trial=st.sampled_from([0, 0, 14]),
        billing=st.sampled_from(Billing),
        behavior=st.sampled_from(TrialEndBehavior),
        zone=st.sampled_from(["UTC", "Europe/Berlin", "America/New_York"]),
        coupon=st.none() | st.sampled_from(COUPONS),
        paid=st.sampled_from([True, True, True, False]),
    )
    def start(
        self,
        trial: int,
        billing: Billing,
        behavior: TrialEndBehavior,
        zone: str,
        coupon: AppliedDiscount | None,
        *,
        paid: bool,
    ) -> None:
        self.terms = terms_of(*PRICES.values(), plan=a_plan(trial_end_behavior=behavior))
        self.subscription, events = Subscription.start(
            id=new_id(),
            account_id=new_id(),
            items=(an_item(FIRST),),
            terms=self.terms,
            time_zone=zone,
            at=self.now,
            now=self.now,
            billing=billing,
            trial_days=trial,
            discounts=(coupon,) if coupon else (),
        )
        self._take(events, before=())
        if not trial:
            self._open()
            if paid:
                self.pay()

    # --- what is noted of each step ------------------------------------------------------------

    def _try(self, command: Callable[[], Any]) -> list[SubscriptionEvent] | None:
        """Do it; None where it was refused, which may change nothing."""
        subscription = self.subscription
        before, agenda = dict(vars(subscription)), subscription.agenda
        try:
            found = command()
        except DomainError:
            after = dict(vars(subscription))
            assert after == before, "a refusal changed something"
            return None
        events = found if isinstance(found, list) else [found]
        self._take(events, before=agenda)
        return events

    def _take(self, events: list[SubscriptionEvent], *, before: Agenda) -> None:
        self.events += events
        self.statuses.append(self.subscription.status)
        for event in events:
            if isinstance(event, SubscriptionChangePending):
                self.asked = event
            elif isinstance(event, SubscriptionChangeLapsed):
                assert self.asked is not None
                assert event.change_id == self.asked.change_id
                self.asked = None
            elif isinstance(event, Billable):
                self._note(event)
        kept = list(self.subscription.agenda)
        for entry in before:
            if entry not in kept:
                self._explain(entry, events)

    def _note(self, event: Billable) -> None:
        for charge in event.charges:
            assert charge.amount >= 0
            assert charge.id not in self.charges
            self.charges[charge.id] = charge
            if charge.kind in AHEAD:
                self.covers_until[charge.id] = charge.period_end
                self._done_last = max(self._done_last, charge.period_start)
        for back in event.take_backs:
            self._note_taken_back(back)

    def _note_taken_back(self, back: TakeBack) -> None:
        charge = self.charges[back.charge_id]
        assert back.charge_id not in self.taken_back
        assert charge.period_start <= back.starts_at < charge.period_end
        bounds = (back.period_start, back.period_end)
        assert bounds == (charge.period_start, charge.period_end)
        assert (back.kind, back.price_id) == (charge.kind, charge.price_id)
        self.taken_back.add(back.charge_id)
        self.covers_until[back.charge_id] = back.starts_at
        self._done_last = max(self._done_last, back.starts_at)

    def _explain(self, entry: Entry, events: list[SubscriptionEvent]) -> None:
        """What waited has happened, or was reported as withdrawn, or waits as part of another."""
        if any(isinstance(event, EXPLAINS[entry.kind]) for event in events):
            return
        if self.statuses[-2:] == [Status.UNPAID, Status.PAUSED] or self.statuses[-1] in FINAL:
            return
        same = [one.change for one in self.subscription.agenda if one.at == entry.at]
        assert any(entry.change.without(change).is_empty for change in same), entry

    def _open(self) -> None:
        """A period was opened: what is held is to be covered from its start to its end."""
        subscription = self.subscription
        start, end = subscription.period_start, subscription.period_end
        if self.spans:
            assert self.spans[-1].end <= start
        self.spans.append(Span(start, end, self.held.covered))

    def _cut(self, at: datetime) -> Span | None:
        """From `at` on the running span holds no more."""
        last = self.spans.pop() if self.spans else None
        if last is None or last.end <= at:
            if last is not None:
                self.spans.append(last)
            return None
        if last.start < at:
            self.spans.append(replace(last, end=at))
        return last

    def _changed(self, change: Change, proration: Proration, at: datetime) -> None:
        """What is held changed at `at`; the difference is owed, unless it is let be."""
        before, self.held = self.held, self.held.then(change)
        if self.subscription.status is Status.TRIALING:
            return
        # What is done late counts from when it was due, but not from before what was done since.
        at = min(max(at, self._period_before[0], self._done_before), self._period_before[1])
        if before.yearly != self.held.yearly:
            self._cut(at)
            if proration is Proration.NONE:
                for charge_id, until in self.covers_until.items():
                    if self.charges[charge_id].period_start < at < until:
                        self.covers_until[charge_id] = at
                    elif self._is_of_before(charge_id, at):
                        self.covers_until[charge_id] = self.charges[charge_id].period_start
            self.held = self.held.after(self._due_before(at))
            self._open()
            return
        if proration is Proration.NONE:
            return
        differ = {
            place
            for place in before.covered.keys() | self.held.covered.keys()
            if before.covered.get(place) != self.held.covered.get(place)
        }
        last = self._cut(at)
        if last is not None:
            covered = {place: one for place, one in last.covered.items() if place not in differ}
            covered |= {p: one for p, one in self.held.covered.items() if p in differ}
            self.spans.append(Span(at, last.end, covered))

    def _is_of_before(self, charge_id: UUID, at: datetime) -> bool:
        charge = self.charges[charge_id]
        fresh = {one.id for one in getattr(self.events[-1], "charges", ())}
        return charge.period_start == at and charge_id not in fresh

    def _due_before(self, at: datetime) -> list[Entry]:
        return [one for one in self._agenda_before if one.at is None or one.at <= at]

    # --- what people do ------------------------------------------------------------------------

    @precondition(lambda self: self.is_served)
    @rule(
        price=st.none() | st.sampled_from([*MONTHLY, *PLANS]),
        quantity=st.none() | st.integers(1, 4),
        addons=st.none()
        | st.dictionaries(st.sampled_from(list(PLACES)), st.integers(1, 3), max_size=2),
        how=st.none() | st.sampled_from(Proration),
        days=st.sampled_from([None, None, None, 3, 20, 45]),
        payment=st.sampled_from(PaymentBehavior),
    )
    def change(  # noqa: PLR0917  (all that can be asked for)
        self,
        price: str | None,
        quantity: int | None,
        addons: dict[str, int] | None,
        how: Proration | None,
        days: int | None,
        payment: PaymentBehavior,
    ) -> None:
        """Add-ons are mostly of the rhythm of the price that is asked for, or held."""
        main = PLANS[price] if price else PRICES[self.held.main]
        chosen = None
        if addons is not None:
            chosen = tuple(
                Addition(each.id, many, each.addon_id)
                for place, many in addons.items()
                for each in ADDONS
                if each.addon_id == PLACES[place]
                and each.interval_unit in {None, main.interval_unit}
            )
        self._change(
            Change(main.id if price else None, quantity=quantity, addons=chosen),
            how,
            days,
            payment,
        )

    @precondition(lambda self: self.is_served)
    @rule(quantity=st.integers(1, 9), how=st.none() | st.sampled_from(Proration))
    def change_the_quantity(self, quantity: int, how: Proration | None) -> None:
        self._change(Change(quantity=quantity), how)

    @precondition(lambda self: self.is_served)
    @rule(
        price=st.sampled_from(list(PLANS)),
        how=st.none() | st.sampled_from(Proration),
        days=st.sampled_from([None, 3, 20, 45]),
    )
    def change_the_price(self, price: str, how: Proration | None, days: int | None) -> None:
        self._change(Change(PLANS[price].id), how, days)

    @precondition(lambda self: self.subscription.status in RUNNING)
    @rule(price=st.sampled_from(list(PLANS)), quantity=st.integers(1, 4))
    def change_once_paid(self, price: str, quantity: int) -> None:
        change = Change(PLANS[price].id, quantity=quantity)
        self._change(change, Proration.NOW, payment=PaymentBehavior.PENDING_IF_UNPAID)

    @property
    def is_served(self) -> bool:
        return self.subscription.is_served

    @property
    def has_ended(self) -> bool:
        return self.subscription.status in FINAL

    def _change(
        self,
        change: Change,
        how: Proration | None = None,
        days: int | None = None,
        payment: PaymentBehavior = PaymentBehavior.AT_ONCE,
    ) -> None:
        subscription = self.subscription
        on = None if days is None else self.now + timedelta(days=days)
        self._remember()
        next_before = Held.of(subscription.next_items)
        plain = all(e.kind is EntryKind.CHANGE and e.at is None for e in self._changes_waiting())
        order = an_order(change, proration=how, effective_at=on, payment=payment)
        events = self._try(lambda: subscription.change(order, self.terms, at=self.now))
        if events is None:
            return
        if isinstance(events[-1], SubscriptionChanged):
            self._agenda_before = [
                entry
                for entry in (self._left_of(one, change) for one in self._agenda_before)
                if entry is not None
            ]
            self._changed(change, how or Proration.NOW, self.now)
        elif isinstance(events[-1], SubscriptionChangePending):
            return
        if plain and on is None and subscription.status is not Status.INCOMPLETE:
            # Whatever is asked for is held in the next period, with all that waited beside it.
            assert Held.of(subscription.next_items) == next_before.then(change)

    @staticmethod
    def _left_of(entry: Entry, change: Change) -> Entry | None:
        if entry.kind is not EntryKind.CHANGE or entry.at is not None:
            return entry
        left = entry.change.without(change)
        return None if left.is_empty else replace(entry, change=left)

    def _changes_waiting(self) -> list[Entry]:
        return [entry for entry in self.subscription.agenda if entry.changes_what_is_held]

    def _remember(self) -> None:
        subscription = self.subscription
        self._agenda_before = list(subscription.agenda)
        self._period_before = (subscription.period_start, subscription.period_end)
        self._done_before = self._done_last

    @precondition(lambda self: self.is_served and self.subscription.agenda)
    @rule()
    def withdraw_change(self) -> None:
        self._try(lambda: self.subscription.withdraw_change(self.terms, at=self.now))

    @precondition(lambda self: self.is_served)
    @rule(price=st.sampled_from(list(PLANS)))
    def move_price(self, price: str) -> None:
        change, moved = Change(PLANS[price].id), self.subscription.price_id
        self._try(lambda: self.subscription.move_price(moved, change, self.terms, at=self.now))

    @precondition(lambda self: self.asked is not None)
    @rule()
    def pay_for_the_change(self) -> None:
        subscription, asked = self.subscription, self.asked
        pending = subscription.pending_change
        assert pending is not None
        assert asked is not None
        if subscription.status not in RUNNING:
            return
        self._remember()
        self._note(asked)
        self.asked = None
        (event,) = self._try(lambda: subscription.apply_pending(self.terms, now=self.now)) or []
        assert isinstance(event, SubscriptionChanged)
        assert (event.charges, event.take_backs) == ((), ())
        self._changed(pending.change, Proration(pending.proration), pending.asked_at)

    @precondition(lambda self: not self.has_ended)
    @rule(days=st.none() | st.integers(1, 90), credit=st.booleans())
    def cancel_later(self, days: int | None, *, credit: bool) -> None:
        on = None if days is None else self.now + timedelta(days=days)
        self._try(
            lambda: self.subscription.cancel_later(at=self.now, by="staff", on=on, credit=credit)
        )

    @rule(credit=st.booleans(), really=st.sampled_from([False, False, False, True]))
    def cancel_now(self, *, credit: bool, really: bool) -> None:
        if not really:
            return  # a life that ends early shows little
        paid = self.subscription.status not in {Status.TRIALING, Status.INCOMPLETE}
        events = self._try(
            lambda: self.subscription.cancel(self.terms, at=self.now, now=self.now, credit=credit)
        )
        if events and credit and paid:
            self._cut(self.now)

    @precondition(lambda self: self.subscription.waiting(EntryKind.CANCEL))
    @rule()
    def uncancel(self) -> None:
        self._try(lambda: self.subscription.uncancel(at=self.now))

    @precondition(lambda self: self.subscription.status is Status.ACTIVE)
    @rule(days=st.none() | st.integers(1, 120))
    def pause(self, days: int | None) -> None:
        wakes = None if days is None else self.now + timedelta(days=days)
        self._try(lambda: self.subscription.pause_later(at=self.now, by="staff", resumes_at=wakes))

    @precondition(lambda self: self.subscription.waiting(EntryKind.PAUSE))
    @rule()
    def withdraw_pause(self) -> None:
        self._try(lambda: self.subscription.withdraw_pause(at=self.now))

    @precondition(lambda self: self.subscription.status is Status.PAUSED)
    @rule()
    def resume(self) -> None:
        self._remember()
        if self._try(lambda: self.subscription.resume(self.terms, at=self.now, now=self.now)):
            self.held = self.held.after(self._due_before(self.now))
            self._open()

    @precondition(lambda self: not self.has_ended)
    @rule(coupon=st.sampled_from(COUPONS), on=st.booleans())
    def choose_coupon(self, coupon: AppliedDiscount, *, on: bool) -> None:
        if on:
            self._try(lambda: self.subscription.add_discount(coupon, now=self.now))
        else:
            self._try(lambda: self.subscription.remove_discount(coupon.coupon_id, now=self.now))

    @precondition(lambda self: self.subscription.status is Status.TRIALING)
    @rule(days=st.none() | st.integers(1, 20), can_pay=st.booleans())
    def move_the_trials_end(self, days: int | None, *, can_pay: bool) -> None:
        subscription = self.subscription
        if days is not None:
            to = self.now + timedelta(days=days)
            self._try(lambda: subscription.move_trial_end(to, now=self.now))
            return
        self._remember()
        self._try(lambda: subscription.end_trial_now(self.terms, can_pay=can_pay, now=self.now))
        self._opened_by(subscription.period_start)

    def _opened_by(self, at: datetime) -> None:
        if self.subscription.status in RUNNING:
            self.held = self.held.after(self._due_before(at))
            self._open()

    # --- what money does -----------------------------------------------------------------------

    def _is_canceled_first(self) -> bool:
        """It was to end before the money came: as the use case does."""
        upcoming = self.subscription.next_act()
        if upcoming is not None and upcoming[1] is Act.CANCEL and upcoming[0] <= self.now:
            self._act(*upcoming)
            return True
        return False

    @precondition(lambda self: self.subscription.status not in {*FINAL, Status.ACTIVE})
    @rule()
    def pay(self) -> None:
        subscription = self.subscription
        rests = subscription.status is Status.PAUSED and subscription.lapsed_at is None
        if subscription.status is Status.TRIALING or rests or self._is_canceled_first():
            return
        self._remember()
        events = self._try(lambda: subscription.activate(self.terms, now=self.now))
        if any(isinstance(event, SubscriptionResumed) for event in events or ()):
            self.held = self.held.after(self._due_before(self.now))
            self._open()

    @precondition(lambda self: self.subscription.status is Status.ACTIVE)
    @rule()
    def fail_to_pay(self) -> None:
        self._try(lambda: self.subscription.mark_past_due(now=self.now))

    @precondition(lambda self: self.subscription.status is Status.PAST_DUE)
    @rule()
    def give_up(self) -> None:
        self._try(lambda: self.subscription.mark_unpaid(self.terms, now=self.now))

    @precondition(lambda self: self.subscription.status in {*RUNNING, Status.PAUSED})
    @rule(then=st.sampled_from(["cancel", "pause"]))
    def lapse(self, then: str) -> None:
        """Dunning came to nothing."""
        act = self.subscription.cancel if then == "cancel" else self.subscription.pause
        self._try(lambda: act(self.terms, at=self.now, now=self.now, lapsed=True))

    @precondition(lambda self: self.subscription.lapsed_at or not self.is_served)
    @rule()
    def hear_of_money_that_had_come_in_time(self) -> None:
        if not self._is_canceled_first():
            self._try(lambda: self.subscription.reinstate(self.terms, now=self.now))

    # --- what time does ------------------------------------------------------------------------

    @rule(
        days=st.integers(0, 70),
        hours=st.sampled_from([0, 7, 23]),
        can_pay=st.booleans(),
        late=st.booleans(),
    )
    def let_time_pass(self, days: int, hours: int, *, can_pay: bool, late: bool) -> None:
        until = self.now + timedelta(days=days, hours=hours)
        acts = 0
        while (upcoming := self.subscription.next_act()) and upcoming[0] <= until:
            self.now = until if late else max(self.now, upcoming[0])
            self._act(*upcoming, can_pay=can_pay)
            acts += 1
            assert acts < 500, "time stands still"
        self.now = until

    @rule(days=st.integers(1, 40))
    def let_time_pass_while_nothing_runs(self, days: int) -> None:
        """What fell due is done later, and whatever is done before that is done late too."""
        self.now += timedelta(days=days)

    def _act(self, at: datetime, act: Act, *, can_pay: bool = True) -> None:
        subscription = self.subscription
        self._remember()
        cancel, agenda = subscription.waiting(EntryKind.CANCEL), subscription.agenda
        change = next((e for e in agenda if e.kind is EntryKind.CHANGE and e.at is not None), None)
        paid = subscription.status not in {Status.TRIALING, Status.INCOMPLETE}
        events = subscription.act(act, self.terms, at=at, now=self.now, can_pay=can_pay)
        self._take(events, before=agenda)
        match act:
            case Act.RENEW | Act.RESUME:
                self.held = self.held.after(self._due_before(subscription.period_start))
                self._open()
            case Act.END_TRIAL:
                self._opened_by(subscription.period_start)
            case Act.CANCEL if cancel is not None and cancel.credit and paid:
                self._cut(at)
            case Act.CHANGE if isinstance(events[-1], SubscriptionChanged):
                assert change is not None
                self._agenda_before.remove(change)
                self._changed(change.change, Proration(change.proration or Proration.NOW), at)

    # --- what must hold ------------------------------------------------------------------------

    @invariant()
    def every_move_is_in_the_table(self) -> None:
        for before, after in pairwise(self.statuses):
            reinstated = before in FINAL and after in {Status.ACTIVE, Status.PAUSED}
            assert before == after or after in MOVES[before] or reinstated

    @invariant()
    def nothing_follows_an_end_but_money_that_had_come_in_time(self) -> None:
        for event, following in pairwise(self.events):
            if isinstance(event, SubscriptionCanceled | SubscriptionExpired):
                assert isinstance(following, SubscriptionActivated | SubscriptionPaused)

    @invariant()
    def events_are_numbered_without_a_gap(self) -> None:
        assert [event.sequence for event in self.events] == list(range(1, len(self.events) + 1))

    @invariant()
    def every_instant_is_covered_once_by_what_was_held_or_let_be(self) -> None:
        for span in self.spans[-8:]:
            self._check_span(span)

    def _check_span(self, span: Span) -> None:
        middle = span.start + (span.end - span.start) / 2
        for instant in (span.start, middle, span.end - timedelta(seconds=1)):
            assert self._covering(instant) == sorted(span.covered.items(), key=str), instant

    def _covering(self, instant: datetime) -> list[tuple[UUID | None, tuple[UUID, int]]]:
        found = []
        for charge_id, until in self.covers_until.items():
            charge = self.charges[charge_id]
            if charge.period_start <= instant < until:
                assert charge.price_id is not None
                place = PRICES[charge.price_id].addon_id
                found.append((place, (charge.price_id, int(charge.why["quantity"]))))
        return sorted(found, key=str)

    @invariant()
    def what_is_held_is_what_was_asked_for(self) -> None:
        if getattr(self, "subscription", None) is not None:
            assert Held.of(self.subscription.items) == self.held
            assert self.subscription.price_id == self.held.main
            assert self.subscription.quantity == self.held.quantity

    @invariant()
    def what_has_ended_waits_for_nothing(self) -> None:
        if getattr(self, "subscription", None) is None:
            return
        ended = self.subscription.status in FINAL
        assert not ended or self.subscription.due_at is None
        if self.subscription.status in RUNNING:
            assert self.subscription.due_at is not None
        assert self.subscription.period_start < self.subscription.period_end

    @invariant()
    def the_older_flags_say_what_waits(self) -> None:
        if getattr(self, "subscription", None) is None:
            return
        held = self.subscription
        cancel, pause = held.waiting(EntryKind.CANCEL), held.waiting(EntryKind.PAUSE)
        resume = held.waiting(EntryKind.RESUME)
        assert held.is_caught_up
        assert held.cancel_at_period_end == (cancel is not None and cancel.at is None)
        assert held.cancel_at == (cancel.at if cancel else None)
        assert held.pause_at_period_end == (pause is not None)
        assert held.resumes_at == (resume.at if resume else None)
        due = [e for e in held.agenda if e.at is None or e.at <= held.period_end]
        following = self.held.after(due)
        waits = held.scheduled_change
        assert Held.of(waits.items if waits else held.items) == following
        assert list(held.agenda) == sorted(
            held.agenda, key=lambda e: e.at or datetime.max.replace(tzinfo=UTC)
        )


TestLives = Life.TestCase
TestLives.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
