"""Other prices, quantities or add-ons: at once, at the period's end, at a date, or once paid."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any
from uuid import UUID

from services.subscriptions.domain.agenda import (
    Change,
    Entry,
    EntryKind,
    held_then,
    in_order,
)
from services.subscriptions.domain.charges import Item, Terms
from services.subscriptions.domain.coupon import AppliedDiscount
from services.subscriptions.domain.period import counted_until, whole_second
from services.subscriptions.domain.self_service import ChangeKind
from services.subscriptions.domain.subscription.agreement import (
    Agreement,
    Bill,
    PendingChange,
)
from services.subscriptions.domain.subscription.ending import Ending
from services.subscriptions.domain.subscription.items import (
    NO_USAGE,
    CurrencyMismatch,
    Usage,
    check_items,
    holdings,
    rate,
    slots_that_differ,
)
from services.subscriptions.domain.subscription.status import (
    FINAL,
    SERVED,
    DateInvalid,
    IllegalTransition,
    NothingScheduled,
    Status,
)
from shared.errors import Conflict, DomainError
from shared.events.subscriptions import (
    SubscriptionChanged,
    SubscriptionChangePending,
    SubscriptionChangeScheduled,
    SubscriptionChangeWithdrawn,
    SubscriptionDiscountsChanged,
    SubscriptionEvent,
)
from shared.ids import new_id

PAID_WITHIN = timedelta(hours=23)
#: Who moves many at once, over whatever they wait for themselves.
PRICE_MOVE = "price move"


class Proration(StrEnum):
    NOW = "prorate_now"
    NEXT = "prorate_next"
    NONE = "none"
    AT_PERIOD_END = "at_period_end"


class PaymentBehavior(StrEnum):
    """When a change that costs something now counts."""

    AT_ONCE = "at_once"
    PENDING_IF_UNPAID = "pending_if_unpaid"


class NothingChanges(Conflict):
    code = "nothing-changes"


class CouponHeld(Conflict):
    """The subscription has this coupon already."""

    code = "coupon-held"


@dataclass(frozen=True, slots=True)
class ChangeOrder:
    """A change as it was asked for. Without `proration`: up at once, down at the period's end."""

    change: Change
    by: str
    proration: Proration | None = None
    #: A date ahead; None for now, or the period's end.
    effective_at: datetime | None = None
    payment: PaymentBehavior = PaymentBehavior.AT_ONCE


class Changing(Ending):
    """Holds something else, and bills the difference."""

    def kinds_of(self, change: Change, terms: Terms) -> set[ChangeKind]:
        """What a change comes to, to tell who may ask for it."""
        now = change.apply(self.items)
        kinds = set()
        if change.price_id is not None and change.price_id != self.price_id:
            up = rate(now, terms) >= rate(self.items, terms)
            kinds.add(ChangeKind.UPGRADE if up else ChangeKind.DOWNGRADE)
        if change.quantity is not None and change.quantity != self.quantity:
            kinds.add(ChangeKind.QUANTITY)
        if change.addons is not None and _addons(now) != _addons(self.items):
            kinds.add(ChangeKind.ADDONS)
        return kinds

    def change(
        self, order: ChangeOrder, terms: Terms, *, at: datetime, usage: Usage = NO_USAGE
    ) -> list[SubscriptionEvent]:
        """Hold other prices, quantities or add-ons, now or later.

        A change that waits starts from what would be held then, so that it composes with what
        waits already; where it speaks of the same thing it replaces that, and reports it. What
        would make something that waits impossible is refused.
        """
        kept = self._kept()
        try:
            events = self._change(order, terms, at=at, usage=usage)
            events += self.report_moot(now=at)
            self._check_ahead(terms)
        except DomainError:
            self._take_up(kept)
            raise
        return events

    def _change(
        self, order: ChangeOrder, terms: Terms, *, at: datetime, usage: Usage
    ) -> list[SubscriptionEvent]:
        if self.status not in SERVED:
            raise IllegalTransition(f"A subscription that is {self.status} cannot be changed.")
        if order.effective_at is not None and order.effective_at <= at:
            raise DateInvalid("The date of a change lies ahead.", field="effective_at")
        events: list[SubscriptionEvent] = []
        items = order.change.apply(self.items)
        later = order.change.apply(self._held_before(order))
        stays = holdings(items) == holdings(self.items)
        proration = order.proration or self._usual_proration(items, terms)
        waits = order.effective_at is not None or proration is Proration.AT_PERIOD_END
        self._check(later if waits or stays else items, terms)
        if stays and order.effective_at is None:
            if holdings(later) == holdings(self._held_before(order)):
                raise NothingChanges("The subscription already holds exactly this.")
            waits = True  # it takes back what waits
        # Whatever was asked for last replaces a change that waits for its payment.
        events += self.lapse_change(now=at)
        if waits:
            return [*events, *self._schedule(order, terms, at=at)]
        events += self._replace_waiting(order, at=at)
        if order.payment is PaymentBehavior.PENDING_IF_UNPAID:
            pending = self._change_once_paid(order, proration, terms, at=at)
            if pending is not None:
                return [*events, pending]
        events.append(self._change_now(order.change, proration, terms, at=at, usage=usage))
        return events

    def change_by_agenda(
        self, terms: Terms, *, at: datetime, now: datetime, usage: Usage = NO_USAGE
    ) -> list[SubscriptionEvent]:
        """A change whose date has come."""
        entry = next(e for e in self.agenda if e.kind is EntryKind.CHANGE and e.at is not None)
        self._drop(entry)
        if holdings(entry.change.apply(self.items)) == holdings(self.items):
            return [self._event(SubscriptionChangeWithdrawn, now=now)]
        proration = Proration(entry.proration or Proration.NOW)
        return [self._change_now(entry.change, proration, terms, at=at, usage=usage, now=now)]

    def apply_pending(
        self, terms: Terms, *, now: datetime, usage: Usage = NO_USAGE
    ) -> list[SubscriptionEvent]:
        """The invoice for a pending change is paid: it counts from when it was asked for."""
        pending = self.pending_change
        if pending is None:
            return []
        self.pending_change = None
        before, started_at = self.items, self.period_start
        changed = self._change_now(
            pending.change,
            Proration(pending.proration),
            terms,
            at=pending.asked_at,
            now=now,
            usage=usage,
            billed_by=pending.charge_ids,
        )
        # Usage until the payment was of what was held until then, and is billed with it.
        kept = {item.id for item in before} if self.period_start == started_at else set()
        self._meter_new([item for item in self.items if item.id not in kept], terms, now)
        return [changed, *self.report_moot(now=now)]

    def _meter_new(self, items: Iterable[Item], terms: Terms, at: datetime) -> None:
        """Usage of these is counted from `at` on: where that of what they replace ends."""
        since = min(max(counted_until(at), self.period_start), self.period_end)
        new = {item.id for item in items if terms.price(item).is_metered}
        self.items = tuple(
            replace(item, metered_from=since) if item.id in new else item for item in self.items
        )

    def withdraw_change(self, terms: Terms, *, at: datetime) -> list[SubscriptionEvent]:
        """Nothing that waits, for the period's end, a date or its payment, will happen.

        Nor will a price move that would not go with what is held without that.
        """
        entries = [entry for entry in self.agenda if entry.kind is EntryKind.CHANGE]
        if self.status in FINAL or not (entries or self.pending_change):
            raise NothingScheduled("No change is scheduled.")
        events: list[SubscriptionEvent] = []
        events += self.lapse_change(now=at)
        if entries:
            self._drop(*entries)
            try:
                self._check_ahead(terms)
            except DomainError:
                self._drop(*(e for e in self.agenda if e.kind is EntryKind.PRICE_MOVE))
            events.append(self._event(SubscriptionChangeWithdrawn, now=at))
        return events

    def move_price(
        self, from_price_id: UUID, change: Change, terms: Terms, *, at: datetime
    ) -> SubscriptionChangeScheduled:
        """From the next period on, if it holds that price then: over nothing that waits."""
        entry = Entry(
            EntryKind.PRICE_MOVE, at, PRICE_MOVE, change=change, from_price_id=from_price_id
        )
        agenda = in_order((*self.agenda, entry))
        after, _ = held_then(self.items, self.plan_id, agenda, at=self.period_end)
        if holdings(after) == holdings(self.next_items):
            raise NothingChanges("It will not hold that price any more when its period ends.")
        before, self.agenda = self.agenda, agenda
        try:
            self._check_ahead(terms)
        except DomainError:
            self.agenda = before
            raise
        return self._scheduled(self.period_end, now=at)

    def add_discount(
        self, discount: AppliedDiscount, *, now: datetime
    ) -> SubscriptionDiscountsChanged:
        """Use a coupon from the next period on, after those that it has."""
        if self.status in FINAL:
            raise IllegalTransition(f"A subscription that is {self.status} takes no coupon.")
        if any(held.coupon_id == discount.coupon_id for held in self.discounts):
            raise CouponHeld("The subscription has this coupon already.")
        self.discounts = (*self.discounts, discount)
        return self._discounts_changed(now=now)

    def remove_discount(self, coupon_id: UUID, *, now: datetime) -> SubscriptionDiscountsChanged:
        """Bill without a coupon from now on."""
        if self.status in FINAL:
            raise IllegalTransition(f"A subscription that is {self.status} has no next bill.")
        self.discounts = tuple(d for d in self.discounts if d.coupon_id != coupon_id)
        return self._discounts_changed(now=now)

    def _discounts_changed(self, *, now: datetime) -> SubscriptionDiscountsChanged:
        published = tuple(discount.published() for discount in self.discounts)
        return self._event(SubscriptionDiscountsChanged, now=now, discounts=published)

    def _held_before(self, order: ChangeOrder) -> tuple[Item, ...]:
        """What is held when the change would happen, by everything that waits for before."""
        if order.effective_at is None or order.effective_at >= self.period_end:
            return self.held_at(order.effective_at)[0]
        due = [e for e in self.agenda if e.at is not None and e.is_due(order.effective_at)]
        return held_then(self.items, self.plan_id, due, at=order.effective_at)[0]

    def _usual_proration(self, items: tuple[Item, ...], terms: Terms) -> Proration:
        up = rate(items, terms) >= rate(self.items, terms)
        return Proration.NOW if up else Proration.AT_PERIOD_END

    def _counts_from(self, at: datetime) -> datetime:
        """Within the period, and when it is done late, not from before what was done since."""
        since = [self.period_start, *(one.starts_at for one in self.billed)]
        since += [one.covers_until for one in self.billed if one.covers_until < one.ends_at]
        return min(max(whole_second(at), *since), self.period_end)

    def _kept(self) -> dict[str, Any]:
        return {one.name: getattr(self, one.name) for one in fields(Agreement)}

    def _take_up(self, kept: Mapping[str, Any]) -> None:
        """Be as before: what was tried is refused, or was only to see what it comes to."""
        for name, value in kept.items():
            setattr(self, name, value)

    def _check_ahead(self, terms: Terms) -> None:
        """Refuse where what waits could not happen: then no period would open any more.

        Nor may it be impossible once a change is paid for that waits for that.
        """
        self._check_agenda(self.items, self.plan_id, terms)
        if self.pending_change is not None:
            change = self.pending_change.change
            self._check_agenda(change.apply(self.items), change.plan_id or self.plan_id, terms)

    def _check_agenda(self, items: tuple[Item, ...], plan_id: UUID, terms: Terms) -> None:
        waiting = [entry for entry in self.agenda if entry.changes_what_is_held]
        while waiting:
            at = min(entry.at or self.period_end for entry in waiting)
            together = waiting[:1]
            if at >= self.period_end:
                together = [entry for entry in waiting if entry.is_due(at)]
            items, plan_id = held_then(items, plan_id, together, at=at)
            self._check(items, terms)
            waiting = [entry for entry in waiting if entry not in together]

    def _check(self, items: tuple[Item, ...], terms: Terms) -> None:
        check_items(items, terms)
        if terms.price(items[0]).currency != self.currency:
            raise CurrencyMismatch(
                f"The subscription is in {self.currency}; another currency needs a new one.",
                field="price_id",
            )

    def _schedule(
        self, order: ChangeOrder, terms: Terms, *, at: datetime
    ) -> list[SubscriptionEvent]:
        """Let it wait, together with what waits for the same instant."""
        on = None if order.effective_at is None else whole_second(order.effective_at)
        same = [e for e in self.agenda if e.kind is EntryKind.CHANGE and e.at == on]
        change, replaces = order.change, False
        for entry in same:
            replaces = replaces or entry.change.without(order.change) != entry.change
            change = entry.change.then(order.change)
        self._drop(*same)
        before = self._held_before(order)
        events: list[SubscriptionEvent] = []
        if replaces:
            events.append(self._event(SubscriptionChangeWithdrawn, now=at))
        if holdings(change.apply(before)) == holdings(before):
            return events or [self._event(SubscriptionChangeWithdrawn, now=at)]
        proration = order.proration.value if order.proration and on is not None else None
        self._wait(Entry(EntryKind.CHANGE, at, order.by, at=on, change=change, proration=proration))
        self._check(self._held_before(order), terms)
        return [*events, self._scheduled(on or self.period_end, now=at)]

    def _scheduled(self, effective_at: datetime, *, now: datetime) -> SubscriptionChangeScheduled:
        items = self.held_at(max(effective_at, self.period_end))[0]
        return self._event(
            SubscriptionChangeScheduled,
            now=now,
            price_id=items[0].price_id,
            quantity=items[0].quantity,
            effective_at=effective_at,
        )

    def _replace_waiting(self, order: ChangeOrder, *, at: datetime) -> list[SubscriptionEvent]:
        """What waits and speaks of the same thing as a change that counts now."""
        if order.by == PRICE_MOVE:
            return []
        events: list[SubscriptionEvent] = []
        for entry in self.agenda:
            if entry.kind is not EntryKind.CHANGE or entry.at is not None:
                continue
            left = entry.change.without(order.change)
            if left == entry.change:
                continue
            self._drop(entry)
            events.append(self._event(SubscriptionChangeWithdrawn, now=at))
            if not left.is_empty:
                self._wait(replace(entry, change=left))
                events.append(self._scheduled(self.period_end, now=at))
        return events

    def _change_now(
        self,
        change: Change,
        proration: Proration,
        terms: Terms,
        *,
        at: datetime,
        usage: Usage,
        now: datetime | None = None,
        billed_by: tuple[UUID, ...] = (),
    ) -> SubscriptionChanged:
        """Hold it from `at` on. `billed_by`: the charges that bill it already."""
        previous_price_id = self.price_id
        at = self._counts_from(at)
        bill, opened = self._switch(change, proration, terms, at=at, usage=usage)
        if billed_by:
            self._note_billed_by(bill, billed_by)
        return self._billable(
            SubscriptionChanged,
            terms,
            now=now or at,
            bill=bill,
            previous_price_id=previous_price_id,
            quantity=self.quantity,
            # Another rhythm is billed at once: its next invoice may be a year away.
            invoice_now=opened or proration is not Proration.NEXT,
        )

    def _switch(
        self,
        change: Change,
        proration: Proration,
        terms: Terms,
        *,
        at: datetime,
        usage: Usage,
    ) -> tuple[Bill, bool]:
        """What is held changes; the bill for it, and whether that opened a period."""
        items, before = change.apply(self.items), self.items
        plan_id = change.plan_id or self.plan_id
        interval = check_items(items, terms)
        if self.status is Status.TRIALING:
            self._hold(items, plan_id)
            self.interval_unit, self.interval_count = interval.unit, interval.count
            return Bill(), False
        if interval != self.cadence.interval:
            take_backs = []
            if proration is not Proration.NONE:
                take_backs = self._take_back_all(terms, at)
            behind = self._bill_usage(terms, usage)
            self.billed = ()
            self._hold(items, plan_id)
            behind.add(self._open_period(terms, restart_at=at))
            self._meter_new(self.items, terms, at)
            behind.take_backs += take_backs
            return behind, True
        kept = {item.id for item in items}
        bill = self._bill_usage(terms, tuple(part for part in usage if part.item_id not in kept))
        new = {item.id for item in items} - {item.id for item in before}
        self._hold(items, plan_id)
        self._meter_new([item for item in items if item.id in new], terms, at)
        if proration is not Proration.NONE:
            places = slots_that_differ(before, items, terms)
            bill.add(self._bill_difference(terms, at, places))
        bill.add(self._discounted(self._bill_once(terms)))
        return bill, False

    def _change_once_paid(
        self, order: ChangeOrder, proration: Proration, terms: Terms, *, at: datetime
    ) -> SubscriptionChangePending | None:
        """Ask for the money first; None where the change asks for none now."""
        if self.status is Status.TRIALING or proration is not Proration.NOW:
            return None
        kept, asked_at = self._kept(), self._counts_from(at)
        bill, _ = self._switch(order.change, proration, terms, at=asked_at, usage=NO_USAGE)
        self._check_ahead(terms)
        bounds = {"period_start": self.period_start, "period_end": self.period_end}
        price_id = self.price_id
        self._take_up(kept)
        if not sum(charge.amount for charge in bill.charges):
            return None
        # It would count from before what happens at a date: so it lapses when that comes.
        dated = [e.at for e in self.agenda if e.kind is EntryKind.CHANGE and e.at is not None]
        self.pending_change = PendingChange(
            id=new_id(),
            change=order.change,
            proration=proration.value,
            asked_at=asked_at,
            expires_at=min([at + PAID_WITHIN, self.period_end, *dated]),
            by=order.by,
            charge_ids=tuple(charge.id for charge in bill.charges),
        )
        event: SubscriptionChangePending = self._billable(
            SubscriptionChangePending,
            terms,
            now=at,
            bill=bill,
            change_id=self.pending_change.id,
            expires_at=self.pending_change.expires_at,
        )
        # The bill speaks of what will be held; the event is about that.
        return event.model_copy(update={**bounds, "price_id": price_id})

    def _note_billed_by(self, bill: Bill, charge_ids: tuple[UUID, ...]) -> None:
        """The same charges were billed before, under these ids: only usage is billed now."""
        again = [charge for charge in bill.charges if charge.kind != "usage"]
        known: dict[UUID, UUID] = dict(
            zip((charge.id for charge in again), charge_ids, strict=False)
        )
        self.billed = tuple(
            replace(one, charge_id=known.get(one.charge_id, one.charge_id)) for one in self.billed
        )
        billed = set(known)
        bill.charges = [charge for charge in bill.charges if charge.id not in billed]
        bill.take_backs = [t for t in bill.take_backs if t.kind == "usage"]
        left = {charge.id for charge in bill.charges}
        bill.discounts = [d for d in bill.discounts if set(d.charge_ids or ()) <= left]


def _addons(items: tuple[Item, ...]) -> set[Any]:
    return {item.key for item in items if item.addon_id is not None}
