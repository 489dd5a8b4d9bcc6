"""The reference: what subscriptions owe, worked out apart from the code, slowly and plainly.

It gets the commands that were accepted, and the news of money, with their instants, and says which
bills there must be: charges, and take-backs that name a charge and from when. It shares no code
with the services. What the bills come to in invoices, tax and credit is in `books.py`.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from math import ceil
from typing import Any, cast
from uuid import UUID
from zoneinfo import ZoneInfo

MONTHS = {"month": 1, "quarter": 3, "year": 12}
DAYS = {"day": 1, "week": 7}
FIRST_PAYMENT_WITHIN = timedelta(hours=23)
#: How long usage may come late, by the meters of the catalogs.
GRACE = timedelta(hours=72)
#: What is used in the second in which somebody ends something is of what ends.
A_SECOND = timedelta(seconds=1)
#: When it is looked once more for usage that was on its way while a subscription came to rest.
STRAGGLERS_WITHIN = timedelta(hours=1)
#: In these somebody has the service.
SERVED = {"trialing", "active", "past_due"}
#: In these periods go on.
RUNNING = {"active", "past_due"}
FINAL = {"canceled", "incomplete_expired"}


def nearest(amount: Fraction) -> int:
    """To the nearest whole number, halves away from zero."""
    whole = (abs(amount) + Fraction(1, 2)).__floor__()
    return whole if amount >= 0 else -whole


# ---- what is for sale ----------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Price:
    """A price as the API tells it."""

    told: dict[str, Any]

    @property
    def id(self) -> str:
        return str(self.told["id"])

    @property
    def type(self) -> str:
        return str(self.told["type"])

    @property
    def addon(self) -> str | None:
        return cast("str | None", self.told["addon_id"])

    @property
    def plan(self) -> str | None:
        return cast("str | None", self.told["plan_id"])

    @property
    def interval(self) -> tuple[str, int] | None:
        unit = self.told["interval"]
        return None if unit is None else (unit, self.told["interval_count"])

    @property
    def is_ahead(self) -> bool:
        return self.type not in {"metered", "one_off"}

    def cost(self, units: Decimal | int) -> Fraction:
        """So many units for one whole period, exact."""
        exact = max(Decimal(units) - int(self.told["free_units"]), Decimal(0))
        tiers = self.told["tiers"]
        if tiers:
            by = self.told["tier_mode"] if self.type == "metered" else self.type
            return self._volume(exact) if by == "volume" else self._graduated(exact)
        unit = Fraction(self.told["unit_amount_decimal"])
        if self.type == "flat":
            return unit
        if self.told["package_size"]:
            return ceil(Fraction(exact) / int(self.told["package_size"])) * unit
        return Fraction(exact) * unit

    def _volume(self, units: Decimal) -> Fraction:
        if units <= 0:
            return Fraction(0)
        for tier in self.told["tiers"]:
            if tier["up_to"] is None or units <= tier["up_to"]:
                flat = Fraction(tier["flat_amount"])
                return Fraction(units) * Fraction(tier["unit_amount_decimal"]) + flat
        raise ValueError("the last tier has no bound")

    def _graduated(self, units: Decimal) -> Fraction:
        total, low = Fraction(0), Decimal(0)
        for tier in self.told["tiers"]:
            high = units if tier["up_to"] is None else min(units, Decimal(tier["up_to"]))
            if high <= low and not (low == 0 and units > 0 and high > 0):
                break
            total += Fraction(high - low) * Fraction(tier["unit_amount_decimal"])
            total += Fraction(tier["flat_amount"])
            low = high
            if low >= units:
                break
        return total

    def per_day(self, units: int) -> Fraction:
        """About what it costs a day, to tell up from down."""
        if self.interval is None:
            return Fraction(0)
        unit, count = self.interval
        days = DAYS[unit] * count if unit in DAYS else MONTHS[unit] * count * 365 // 12
        return self.cost(units) / days


@dataclass(frozen=True, eq=False)
class Coupon:
    told: dict[str, Any]

    @property
    def periods(self) -> int | None:
        duration = self.told["duration"]
        return {"once": 1, "forever": None}.get(duration, self.told["periods"])


@dataclass(eq=False)
class CouponInUse:
    """`left` None: for ever. `now`: whether it counts in the running period."""

    coupon: Coupon
    left: int | None
    now: bool = False
    #: Of a fixed amount, what was not given yet in the running period.
    rest: int = 0

    def counts_for(self, plan: str) -> bool:
        plans = self.coupon.told["plan_ids"]
        return not plans or plan in plans


# ---- periods -------------------------------------------------------------------------------------


def wall(instant: datetime, zone: str) -> datetime:
    return instant.astimezone(ZoneInfo(zone)).replace(tzinfo=None)


def instant(at: datetime, zone: str) -> datetime:
    return at.replace(tzinfo=ZoneInfo(zone), fold=0).astimezone(UTC)


def shifted(start: datetime, zone: str, interval: tuple[str, int], times: int) -> datetime:
    """So many intervals later by the clock on the wall; the 31st becomes a month's last day."""
    unit, count = interval
    if times == 0:
        return start
    here = wall(start, zone)
    if unit in DAYS:
        return instant(here + timedelta(days=DAYS[unit] * count * times), zone)
    months = here.year * 12 + here.month - 1 + MONTHS[unit] * count * times
    day = here.day
    while True:
        try:
            return instant(here.replace(year=months // 12, month=months % 12 + 1, day=day), zone)
        except ValueError:
            day -= 1


# ---- what is billed ------------------------------------------------------------------------------


@dataclass(eq=False)
class Charge:
    """One amount. `starts` to `ends` is what it covers."""

    subscription: UUID
    kind: str  # ahead, rest, once, usage
    price: Price
    quantity: Decimal
    starts: datetime
    ends: datetime
    amount: int
    #: Not owed from here on, and since when of that is given back.
    until: datetime | None = None
    taken_back: datetime | None = None
    #: As the service called it; known once the bills were compared.
    id: UUID | None = None

    @property
    def slot(self) -> str | None:
        return self.price.addon

    @property
    def covers_until(self) -> datetime:
        return self.until or self.ends

    def __repr__(self) -> str:
        days = f"{self.starts:%Y-%m-%dT%H:%M}..{self.ends:%Y-%m-%dT%H:%M}"
        return f"{self.kind} {self.amount} ({self.price.told['type']} x {self.quantity}) {days}"


@dataclass(frozen=True)
class TakenBack:
    """A charge is not owed from here on, and what was billed for the rest goes back."""

    charge: Charge
    starts: datetime


@dataclass(frozen=True)
class Off:
    """A coupon's effect on charges of one bill: a percentage, or a fixed amount."""

    coupon: Coupon
    charges: tuple[Charge, ...]
    amount: int | None = None


@dataclass(eq=False)
class Bill:
    """What one act asked for."""

    subscription: UUID
    event: str
    at: datetime
    charges: list[Charge] = field(default_factory=list)
    taken_back: list[TakenBack] = field(default_factory=list)
    off: list[Off] = field(default_factory=list)
    #: False: it waits for the next invoice of the subscription.
    now: bool = True
    give_back: str = "credit"

    @property
    def is_empty(self) -> bool:
        return not self.charges and not self.taken_back


# ---- what is held --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Held:
    """One price and how many of it."""

    price: Price
    quantity: int

    @property
    def slot(self) -> str | None:
        return self.price.addon


@dataclass(frozen=True)
class Wish:
    """What should be different; None leaves it as it is.

    A price brings with it what its plan counts beside it: its components.
    """

    price: Price | None = None
    components: tuple[Held, ...] = ()
    quantity: int | None = None
    addons: tuple[Held, ...] | None = None

    @property
    def is_empty(self) -> bool:
        return self == Wish()

    def then(self, later: "Wish") -> "Wish":
        return Wish(
            later.price or self.price,
            later.components if later.price else self.components,
            later.quantity or self.quantity,
            self.addons if later.addons is None else later.addons,
        )

    def without(self, other: "Wish") -> "Wish":
        """What is left of it where another one speaks of the same thing."""
        return Wish(
            self.price if other.price is None else None,
            self.components if other.price is None else (),
            self.quantity if other.quantity is None else None,
            self.addons if other.addons is None else None,
        )

    def applied_to(self, held: list[Held]) -> list[Held]:
        main, *others = held
        own = [one for one in others if one.slot is None]
        addons = [one for one in others if one.slot is not None]
        return [
            Held(self.price or main.price, self.quantity or main.quantity),
            *(own if self.price is None else self.components),
            *(addons if self.addons is None else self.addons),
        ]


@dataclass(frozen=True)
class Waiting:
    """What waits: for an instant, or (None) for the period's end."""

    kind: str  # cancel, change, move, pause, resume
    at: datetime | None = None
    wish: Wish = Wish()
    #: How a change at a date is billed.
    proration: str = "prorate_now"
    moved_from: str | None = None
    credit: bool = False
    refund: bool = False


@dataclass(frozen=True)
class Unpaid:
    """A change that counts, from when it was asked for, once its invoice is paid."""

    wish: Wish
    asked: datetime
    expires: datetime
    charges: tuple[Charge, ...]


ORDER = [
    *("expire", "lapse", "cancel", "end_trial", "change", "move", "pause", "resume", "renew"),
    "bill_usage",
]


@dataclass
class Invoice:
    """How far an invoice of a subscription has come, as the news say."""

    dunned: bool = False
    exhausted: str | None = None
    exhausted_at: datetime | None = None
    #: When it was paid, voided or given up.
    settled_at: datetime | None = None
    paid: bool = False
    voided: bool = False

    @property
    def lapsed(self) -> bool:
        """Whether dunning came to nothing before it was settled, and not at the same instant."""
        if self.exhausted_at is None:
            return False
        return self.settled_at is None or self.exhausted_at < self.settled_at

    @property
    def is_owed(self) -> bool:
        if self.lapsed:
            return not (self.paid or self.voided)
        return self.dunned and self.settled_at is None


class Subscription:
    """One subscription's life; `bills` are what it must have asked for, in order."""

    def __init__(
        self,
        id_: UUID,
        held: list[Held],
        *,
        at: datetime,
        zone: str,
        trial_days: int = 0,
        coupon: Coupon | None = None,
        calendar: bool = False,
        now: datetime | None = None,
        imported: bool = False,
    ) -> None:
        self.id = id_
        self.held = held
        self.zone = zone
        self.calendar = calendar
        self.plan = held[0].price.plan or ""
        self.coupons = [CouponInUse(coupon, coupon.periods)] if coupon else []
        #: By coupon that was taken off, the periods that were left.
        self.coupons_off: dict[str, int | None] = {}
        self.bills: list[Bill] = []
        self.billed: list[Charge] = []
        self.once: dict[str, int] = {}
        self.waiting: list[Waiting] = []
        self.status = "incomplete"
        self.expires: datetime | None = None
        self.lapsed_at: datetime | None = None
        self.invoices: dict[UUID, Invoice] = {}
        self.first_paid = False
        self.trial_end: datetime | None = None
        self.usage: list[dict[str, Any]] = []
        self.metered: list[Metered] = []
        #: When what changed of usage that was billed before is billed, while no periods go on.
        self.usage_due: datetime | None = None
        self.unpaid: Unpaid | None = None
        #: What of a change that waited was reported not to happen.
        self.reported: Counter[str] = Counter()
        self._bills_no_usage = False
        self._used_until: datetime | None = None
        interval = held[0].price.interval
        assert interval is not None
        self._interval: tuple[str, int] = interval
        at = at.replace(microsecond=0)
        self.anchor = self.start = self.basis = at
        self.index = 0
        self.end = at
        if trial_days:
            self.status = "trialing"
            self.end = instant(wall(at, zone) + timedelta(days=trial_days), zone)
            self.trial_end = self.end
            self._bill("started", Bill(id_, "started", at))
        elif imported:
            self._import(at, now or at)
        else:
            bill = self._open(at, "started", fresh=True)
            if bill.charges:
                self.expires = (now or at) + FIRST_PAYMENT_WITHIN
            else:
                self.status = "active"

    @property
    def interval(self) -> tuple[str, int]:
        return self._interval

    # ---- time ----------------------------------------------------------------------------------

    def next_act(self) -> tuple[datetime, str] | None:
        acts: list[tuple[datetime, str]] = []
        if self.usage_due is not None and self.status not in RUNNING:
            acts.append((self.usage_due, "bill_usage"))
        if self.status in FINAL:
            return acts[0] if acts else None
        if self.status == "incomplete" and self.expires:
            acts.append((self.expires, "expire"))
        if self.status == "trialing":
            acts.append((self.end, "end_trial"))
        if self.status in RUNNING:
            acts.append((self.end, "renew"))
        if self.unpaid is not None:
            acts.append((self.unpaid.expires, "lapse"))
        for one in self.waiting:
            if self._happens(one):
                # Another rhythm may have moved the end after which it was to rest.
                at = max(one.at or self.end, self.end) if one.kind == "resume" else one.at
                acts.append((at or self.end, one.kind))
        return min(acts, key=lambda act: (act[0], ORDER.index(act[1])), default=None)

    def _happens(self, one: Waiting) -> bool:
        """Whether it happens by itself; the rest is part of opening a period."""
        match one.kind:
            case "cancel":
                return self.status != "incomplete" or one.at is not None
            case "change":
                return one.at is not None and one.at < self.end and self.status in SERVED
            case "pause":
                return self.status in RUNNING
            case "resume":
                return self.status == "paused" and self.lapsed_at is None
            case _:
                return False

    def pass_to(self, now: datetime) -> None:
        """Do what time alone does, up to and including `now`."""
        while (following := self.next_act()) is not None and following[0] <= now:
            at, act = following
            getattr(self, f"_do_{act}")(at, now)

    def _do_expire(self, _at: datetime, _now: datetime) -> None:
        self.status = "incomplete_expired"

    def _do_cancel(self, at: datetime, _now: datetime) -> None:
        notice = next(one for one in self.waiting if one.kind == "cancel")
        self.cancel(at, credit=notice.credit, refund=notice.refund, until=at)

    def _do_lapse(self, _at: datetime, _now: datetime) -> None:
        self._lapse()

    def _lapse(self) -> None:
        if self.unpaid is not None:
            self.unpaid = None
            self.reported["lapsed"] += 1

    def _do_change(self, at: datetime, _now: datetime) -> None:
        one = next(one for one in self.waiting if one.kind == "change" and one.at == at)
        self.waiting.remove(one)
        wanted = one.wish.applied_to(self.held)
        if not _same(wanted, self.held):
            self._change(wanted, one.proration, at)
        else:
            self.reported["withdrawn"] += 1

    def _do_end_trial(self, at: datetime, _now: datetime) -> None:
        self.status = "active"
        self._open(at, "trial_ended", fresh=True)

    def _do_renew(self, at: datetime, _now: datetime) -> None:
        self._open(at, "renewed", fresh=False)

    def _do_pause(self, at: datetime, _now: datetime) -> None:
        bill = Bill(self.id, "usage_billed", at)
        self._bill_usage(bill, at)
        self._bill("usage_billed", bill)
        self._await_stragglers(at)
        self.status = "paused"
        self.waiting = [one for one in self.waiting if one.kind != "pause"]

    def _do_resume(self, at: datetime, _now: datetime) -> None:
        self.resume(at)

    # ---- opening a period ----------------------------------------------------------------------

    def _open(
        self,
        at: datetime,
        event: str,
        *,
        fresh: bool,
        behind: Bill | None = None,
        used_until: datetime | None = None,
    ) -> Bill:
        """The one door: what waits is applied, coupons are used, everything ahead is charged."""
        bill = behind if behind is not None else Bill(self.id, event, at)
        if behind is None and event != "started":
            self._bill_usage(bill, at)
        self.usage_due = None
        due = [
            one
            for one in self.waiting
            if one.kind in {"change", "move"} and (one.at is None or one.at <= at)
        ]
        for number, one in enumerate(due):
            then = _after(self.held, due[:number])
            self.reported["withdrawn"] += one.kind == "move" and then[0].price.id != one.moved_from
        self._hold(_after(self.held, due))
        self.waiting = [one for one in self.waiting if one not in due]
        interval = self.held[0].price.interval
        assert interval is not None
        if fresh or interval != self._interval:
            self._interval = interval
            self._anchor(at)
        else:
            self.start = self.basis = at
            while True:
                self.index += 1
                self.end = shifted(self.anchor, self.zone, self.interval, self.index)
                if self.end > at:
                    break
        self._use_coupons()
        ahead = [
            self._charge("ahead", held, self.start) for held in self.held if held.price.is_ahead
        ]
        once = self._charge_once()
        bill.charges += [*ahead, *once]
        bill.off += self._discounts([*once, *ahead])
        self._meter(at if behind is None else min(max(used_until or at, at), self.end))
        self._bill(event, bill)
        return bill

    def _anchor(self, at: datetime) -> None:
        anchor = at
        if self.calendar:
            anchor = instant(_calendar_start(wall(at, self.zone), self.interval[0]), self.zone)
        self.anchor, self.index = anchor, 0
        while shifted(anchor, self.zone, self.interval, self.index + 1) <= at:
            self.index += 1
        self.basis = shifted(anchor, self.zone, self.interval, self.index)
        self.start = at
        self.index += 1
        self.end = shifted(anchor, self.zone, self.interval, self.index)

    def _import(self, at: datetime, now: datetime) -> None:
        """It ran elsewhere and is paid for: bills begin with the next period."""
        self._anchor(at)
        while self.end <= now:
            self.start = self.basis = self.end
            self.index += 1
            self.end = shifted(self.anchor, self.zone, self.interval, self.index)
        self.once = {one.price.id: one.quantity for one in self.held}
        self._meter(self.start)
        self.status = "active"

    def _use_coupons(self) -> None:
        for one in self.coupons:
            one.now, one.rest = False, 0
            if one.left == 0 or not one.counts_for(self.plan):
                continue
            one.now = True
            one.left = None if one.left is None else one.left - 1
            one.rest = one.coupon.told["amount"] or 0

    def _discounts(self, charges: Iterable[Charge]) -> list[Off]:
        """What the running period's coupons take off charges of it."""
        mine = tuple(charges)
        if not mine:
            return []
        left = Fraction(sum(charge.amount for charge in mine))
        found = []
        for one in self.coupons:
            if not one.now or not one.counts_for(self.plan):
                continue
            percent = one.coupon.told["percent"]
            if percent is not None:
                off = nearest(left * Fraction(percent) / 100)
                left -= off
                if off:
                    found.append(Off(one.coupon, mine))
                continue
            amount = min(one.rest, int(left))
            if amount > 0:
                one.rest -= amount
                left -= amount
                found.append(Off(one.coupon, mine, amount))
        return found

    def _charge(self, kind: str, held: Held, starts: datetime) -> Charge:
        """The price of what is held from `starts` to the period's end."""
        share = Fraction(_seconds(starts, self.end), _seconds(self.basis, self.end))
        charge = Charge(
            self.id,
            kind,
            held.price,
            Decimal(held.quantity),
            starts,
            self.end,
            nearest(held.price.cost(held.quantity) * share),
        )
        self.billed.append(charge)
        return charge

    def _charge_once(self) -> list[Charge]:
        """Units of one-offs that never were billed while they are held."""
        charges = []
        for held in self.held:
            units = held.quantity - self.once.get(held.price.id, 0)
            if held.price.type != "one_off" or units <= 0:
                continue
            self.once[held.price.id] = held.quantity
            amount = nearest(held.price.cost(units))
            charges.append(
                Charge(self.id, "once", held.price, Decimal(units), self.start, self.end, amount)
            )
        return charges

    def _hold(self, held: list[Held]) -> None:
        self.held = held
        self.plan = held[0].price.plan or self.plan
        kept = {one.price.id: one.quantity for one in held}
        self.once = {price: min(n, kept[price]) for price, n in self.once.items() if price in kept}

    # ---- what somebody asks for ----------------------------------------------------------------

    def change(
        self,
        wish: Wish,
        proration: str | None,
        at: datetime,
        *,
        on: datetime | None = None,
        once_paid: bool = False,
    ) -> None:
        """Another price, quantity or add-ons, as it was accepted; `on`: at a date ahead."""
        self._lapse()
        if on is not None:
            on = on.replace(microsecond=0)
            self._wait_for(Waiting("change", on, wish, proration or "prorate_now"))
            return
        asked, at = at, min(max(at.replace(microsecond=0), self.start), self.end)
        wanted = wish.applied_to(self.held)
        if proration is None:
            up = _per_day(wanted) >= _per_day(self.held)
            proration = "prorate_now" if up else "at_period_end"
        # What asks for what is held already is about what waits.
        if proration == "at_period_end" or _same(wanted, self.held):
            self._wait_for(Waiting("change", wish=wish))
            return
        waiting = []
        for one in self.waiting:
            if one.kind == "change" and one.at is None:
                left = one.wish.without(wish)
                self.reported["withdrawn"] += left != one.wish
                if left.is_empty:
                    continue
                one = replace(one, wish=left)  # noqa: PLW2901
            waiting.append(one)
        self.waiting = waiting
        if once_paid and proration == "prorate_now" and self._ask_first(wish, wanted, at, asked):
            return
        self._change(wanted, proration, at)

    def _wait_for(self, one: Waiting) -> None:
        """Together with what waits for the same instant: where both speak, the later one counts."""
        alike = [other for other in self.waiting if (other.kind, other.at) == ("change", one.at)]
        replaces = any(other.wish.without(one.wish) != other.wish for other in alike)
        for other in alike:
            self.waiting.remove(other)
            one = replace(one, wish=other.wish.then(one.wish))
        before = self._then(one.at)
        waits = not _same(one.wish.applied_to(before), before)
        self.reported["withdrawn"] += replaces or not waits
        if waits:
            self.waiting.append(one)

    def _then(self, at: datetime | None, *, with_one: Waiting | None = None) -> list[Held]:
        """What will be held at a date, or (None) from the next period on."""
        if at is None:
            due = [one for one in self.waiting if one.at is None or one.at <= self.end]
        elif at < self.end:
            due = [one for one in self.waiting if one.at is not None and one.at <= at]
        else:
            due = [one for one in self.waiting if one.at is None or one.at <= at]
        return _after(self.held, [*due, *([with_one] if with_one else [])])

    def _ask_first(self, wish: Wish, wanted: list[Held], at: datetime, asked: datetime) -> bool:
        """Whether there is something to pay for it now; then it waits for that."""
        if self.status == "trialing":
            return False
        kept = {name: _copied(value) for name, value in vars(self).items()}
        untils = {charge: (charge.until, charge.taken_back) for charge in self.billed}
        uses = {one: (one.left, one.now, one.rest) for one in self.coupons}
        self._bills_no_usage = True
        self._change(wanted, "prorate_now", at)
        bill = self.bills[-1] if len(self.bills) > len(kept["bills"]) else None
        vars(self).update(kept)
        for charge, until in untils.items():
            charge.until, charge.taken_back = until
        for one, use in uses.items():
            one.left, one.now, one.rest = use
        if bill is None or not sum(charge.amount for charge in bill.charges):
            return False
        bill.event = "change_pending"
        self.bills.append(bill)
        dated = [one.at for one in self.waiting if one.kind == "change" and one.at is not None]
        expires = min([asked + FIRST_PAYMENT_WITHIN, self.end, *dated])
        self.unpaid = Unpaid(wish, at, expires, tuple(bill.charges))
        return True

    def _apply_unpaid(self, at: datetime) -> None:
        """It is paid: the same charges were billed before, and only usage is billed now."""
        unpaid, self.unpaid = self.unpaid, None
        if unpaid is None or self.status not in RUNNING:
            return
        before = len(self.bills)
        # What was used until it was paid was used of what was still held.
        self._used_until = at.replace(microsecond=0) + A_SECOND
        self._change(unpaid.wish.applied_to(self.held), "prorate_now", unpaid.asked)
        self._used_until = None
        if len(self.bills) == before:
            return
        bill = self.bills.pop()
        again = [charge for charge in bill.charges if charge.kind != "usage"]
        for charge, known in zip(again, unpaid.charges, strict=True):
            if charge in self.billed:
                self.billed[self.billed.index(charge)] = known
        bill.charges = [charge for charge in bill.charges if charge.kind == "usage"]
        bill.taken_back = [one for one in bill.taken_back if one.charge.kind == "usage"]
        bill.off = [off for off in bill.off if set(off.charges) <= set(bill.charges)]
        self._bill("changed", bill)

    def _change(self, wanted: list[Held], proration: str, at: datetime) -> None:
        before = self.held
        interval = wanted[0].price.interval
        if self.status == "trialing":
            self._hold(wanted)
            self._interval = interval or self._interval
            self._bill("changed", Bill(self.id, "changed", at))
            return
        bill = Bill(self.id, "changed", at, now=proration != "prorate_next")
        used_until = self._used_until or at + A_SECOND
        if interval != self.interval:
            self._bill_usage(bill, used_until)
            if proration != "none":
                self._take_back(bill, self.billed, at)
            else:
                for charge in self.billed:
                    charge.until = min(charge.covers_until, at)
            bill.now = True
            self._hold(wanted)
            self._open(at, "changed", fresh=True, behind=bill, used_until=used_until)
            return
        gone = {one.price.id for one in before} - {one.price.id for one in wanted}
        self._bill_usage(bill, used_until, only=gone)
        self._hold(wanted)
        if proration != "none":
            self._compare(bill, before, at)
        once = self._charge_once()
        bill.charges += once
        bill.off += self._discounts(once)
        self._meter(min(max(used_until, self.start), self.end))
        self._bill("changed", bill)

    def _compare(self, bill: Bill, before: list[Held], at: datetime) -> None:
        """In each place that differs: what is held for the rest, less what was billed for it."""
        for slot in _places(before) | _places(self.held):
            if _in_place(before, slot) == _in_place(self.held, slot):
                continue
            missing = _in_place(self.held, slot)
            surplus = []
            for charge in self.billed:
                if charge.slot != slot or charge.covers_until <= at:
                    continue
                same = Held(charge.price, int(charge.quantity))
                if same in missing:
                    missing.remove(same)
                else:
                    surplus.append(charge)
            self._take_back(bill, surplus, at)
            if at < self.end:
                fresh = [self._charge("rest", held, at) for held in missing]
                bill.charges += fresh
                bill.off += self._discounts(fresh)

    def _take_back(self, bill: Bill, charges: Iterable[Charge], at: datetime) -> None:
        for charge in charges:
            if charge.covers_until > at:
                charge.until = charge.taken_back = max(at, charge.starts)
                bill.taken_back.append(TakenBack(charge, charge.until))

    def withdraw_change(self) -> None:
        self._lapse()
        self.reported["withdrawn"] += any(one.kind == "change" for one in self.waiting)
        self.waiting = [one for one in self.waiting if one.kind != "change"]

    def move(self, moved_from: str, to: Wish) -> None:
        """Staff move everybody who holds a price, at the period's end: where that is possible."""
        one = Waiting("move", wish=to, moved_from=moved_from)
        before, after = self._then(None), self._then(None, with_one=one)
        rhythms = {held.price.interval for held in after} - {None}
        if len(rhythms) == 1 and not _same(before, after):
            self.waiting.append(one)

    def put_coupon(self, coupon: Coupon) -> None:
        left = self.coupons_off.pop(coupon.told["id"], 0)
        self.coupons.append(CouponInUse(coupon, coupon.periods if left == 0 else left))

    def take_coupon_off(self, coupon_id: str) -> None:
        self.coupons_off |= {
            one.coupon.told["id"]: one.left
            for one in self.coupons
            if one.coupon.told["id"] == coupon_id
        }
        self.coupons = [one for one in self.coupons if one.coupon.told["id"] != coupon_id]

    def end_trial(self, at: datetime, now: datetime) -> None:
        """The trial ends then, or (now) at once."""
        if at > now:
            self.end = self.anchor = self.trial_end = at
        else:
            self._do_end_trial(max(now.replace(microsecond=0), self.start), now)

    def cancel_later(
        self, at: datetime | None, *, credit: bool = False, refund: bool = False
    ) -> None:
        self.uncancel()
        if at is not None:
            at = at.replace(microsecond=0)
        self.waiting.append(Waiting("cancel", at, credit=credit, refund=refund))

    def uncancel(self) -> None:
        self.waiting = [one for one in self.waiting if one.kind != "cancel"]

    def cancel(
        self,
        at: datetime,
        *,
        credit: bool = False,
        refund: bool = False,
        lapsed: bool = False,
        until: datetime | None = None,
    ) -> None:
        bill = Bill(self.id, "canceled", at)
        bill.give_back = "refund" if refund else "credit"
        was = self.status
        if not lapsed:
            self._lapse()
            self.reported["withdrawn"] += any(w.kind in {"change", "move"} for w in self.waiting)
        # The second in which somebody ends it included.
        self._bill_usage(bill, until or at + A_SECOND)
        if (credit or refund) and was not in {"incomplete", "trialing"}:
            self._take_back(bill, self.billed, max(at.replace(microsecond=0), self.start))
        self.status = "canceled"
        self.expires = self.usage_due = None
        if was not in {"incomplete", "trialing"}:
            self._await_stragglers(at)
        self.lapsed_at = at if lapsed else None
        if not lapsed:
            self.waiting = []
        self._bill("canceled", bill)

    def close(self, at: datetime) -> None:
        """The account is closed: it ends now, as it would have at the end that waited."""
        if self.status not in FINAL:
            notice = next((one for one in self.waiting if one.kind == "cancel"), Waiting("cancel"))
            self.cancel(at, credit=notice.credit, refund=notice.refund)

    def pause_later(self, resumes_at: datetime | None) -> None:
        self.waiting = [one for one in self.waiting if one.kind not in {"pause", "resume"}]
        self.waiting.append(Waiting("pause"))
        if resumes_at is not None:
            self.waiting.append(Waiting("resume", resumes_at))

    def resume(self, at: datetime) -> None:
        """Wake it, or take back a pause that has not begun."""
        self.waiting = [one for one in self.waiting if one.kind not in {"pause", "resume"}]
        if self.status == "paused":
            self.status = "active"
            self._open(at.replace(microsecond=0), "resumed", fresh=True)

    # ---- money ---------------------------------------------------------------------------------

    def hear(self, kind: str, invoice_id: UUID, at: datetime, **more: Any) -> None:
        """News of one of its invoices; what follows from all of them."""
        invoice = self.invoices.setdefault(invoice_id, Invoice())
        match kind:
            case "paid":
                invoice.paid = True
                self.first_paid = self.first_paid or more["first"]
                if more["for_change"]:
                    invoice.settled_at = invoice.settled_at or at
                    self._follow(at)
                    self._apply_unpaid(at)
            case "voided":
                invoice.voided = True
            case "dunned":
                invoice.dunned = True
            case "exhausted":
                invoice.exhausted, invoice.exhausted_at = more["then"], at
        if kind in {"paid", "voided", "given_up"}:
            invoice.settled_at = invoice.settled_at or at
        self._follow(at)

    def _follow(self, at: datetime) -> None:
        lapsed = [one for one in self.invoices.values() if one.lapsed]
        owes = any(one.is_owed for one in self.invoices.values())
        ended = any(one.exhausted == "cancel" for one in lapsed)
        rests = next((one.exhausted for one in lapsed if one.is_owed), None)
        verdict = "cancel" if ended else rests
        if self.status == "incomplete" and self.first_paid:
            self.status, self.expires = "active", None
        elif self.status == "past_due" and not owes:
            self.status = "active"
        elif self.status == "canceled" and self.lapsed_at and not ended:
            # The dunning was moot: it goes on as if nothing had been.
            self.status, since, self.lapsed_at = "active", self.lapsed_at, None
            self._meter(max(since.replace(microsecond=0), self.start))
        elif (
            self.status == "unpaid" or (self.status == "paused" and self.lapsed_at)
        ) and verdict is None:
            self._come_back(at)
        if self.status in FINAL | {"incomplete"}:
            return
        if verdict == "cancel":
            self.cancel(at, lapsed=True)
            return
        if owes and self.status == "active":
            self.status = "past_due"
        if verdict is not None and self.status in RUNNING:
            bill = Bill(self.id, "usage_billed", at)
            self._bill_usage(bill, at + A_SECOND)
            self._await_stragglers(at)
            self._bill("usage_billed", bill)
            self.lapsed_at = at
            self.status = "unpaid" if verdict == "unpaid" else "paused"

    def _come_back(self, at: datetime) -> None:
        rest = [one for one in self.waiting if one.kind in {"pause", "resume"}]
        if self.end <= at and any(one.kind == "resume" and (one.at or at) <= at for one in rest):
            self.waiting = [one for one in self.waiting if one not in rest]
        elif self.end <= at and any(one.kind == "pause" for one in rest):
            # It was to rest when the period ended.
            self.status, self.lapsed_at = "paused", None
            self.waiting = [one for one in self.waiting if one.kind != "pause"]
            return
        self.lapsed_at = None
        self.status = "active"
        if self.end <= at:
            self._open(at.replace(microsecond=0), "resumed", fresh=True)
        else:
            self._meter(max(at.replace(microsecond=0), self.start))

    # ---- usage ---------------------------------------------------------------------------------

    def use(self, event: dict[str, Any]) -> None:
        """Usage that was accepted."""
        self.usage.append(event)
        for window in self.metered:
            if window.takes(event):
                window.events.append(event)
        self._look_back(event)

    def void_usage(self, event_id: str) -> None:
        gone = [event for event in self.usage if event["id"] == event_id]
        self.usage = [event for event in self.usage if event["id"] != event_id]
        for event in gone:
            self._look_back(event)
            for window in self.metered:
                if event in window.events:
                    window.events.remove(event)

    def _look_back(self, event: dict[str, Any]) -> None:
        """What was billed before is billed anew, with the next usage or after the grace."""
        if self.status in RUNNING and any(one.price.type == "metered" for one in self.held):
            return
        for window in self.metered:
            if window.until is not None and event in window.events:
                due = window.until + GRACE
                self.usage_due = min(self.usage_due or due, due)

    def _do_bill_usage(self, at: datetime, _now: datetime) -> None:
        bill = Bill(self.id, "usage_billed", at)
        self._bill_usage(bill, at)
        self._bill("usage_billed", bill)
        self.usage_due = None

    def _await_stragglers(self, at: datetime) -> None:
        metered = any(one.price.type == "metered" for one in self.held)
        self.usage_due = at + STRAGGLERS_WITHIN if metered else None

    def _meter(self, since: datetime) -> None:
        """Metered prices that are held are counted from here on."""
        going_on = {one.price.id for one in self.metered if one.until is None}
        for held in self.held:
            if held.price.type == "metered" and held.price.id not in going_on:
                self.metered.append(Metered(held.price, since))

    def _bill_usage(self, bill: Bill, until: datetime, *, only: set[str] | None = None) -> None:
        """Close the windows that are counted, and charge what happened in them.

        Also what changed of windows that were billed before. `only`: within a period what is not
        held any more, for the rest is billed at its end.
        """
        if self._bills_no_usage:
            return
        until = min(until.replace(microsecond=0), self.end)
        fresh = []
        going_on = [one.price.id for one in self.metered if one.until is None]
        for window in self.metered:
            if window.until is not None:
                if only is None or window.price.id not in going_on or window.price.id in only:
                    self._bill_anew(bill, window)
                continue
            if only is not None and window.price.id not in only:
                continue
            window.until = until
            if window.since >= until:
                continue
            window.billed_used = window.used()
            window.amount = nearest(window.price.cost(window.billed_used))
            window.coupons = [
                one.coupon
                for one in self.coupons
                if one.now and one.counts_for(self.plan) and one.coupon.told["percent"] is not None
            ]
            if window.billed_used or window.amount:
                fresh.append(self._usage(window, window.billed_used, window.amount))
        bill.charges += fresh
        bill.off += self._discounts(fresh)

    def _bill_anew(self, bill: Bill, window: "Metered") -> None:
        """A window that was billed before: the difference, or all of it again where it is less."""
        used = window.used()
        amount = nearest(window.price.cost(used))
        if used == window.billed_used:
            return
        before, window.amount, window.billed_used = window.amount, amount, used
        if amount == before:
            return
        if amount < before:
            bill.taken_back += [TakenBack(charge, window.since) for charge in window.charges]
            window.charges, before = [], 0
        if amount:
            charge = self._usage(window, used, amount - before)
            bill.charges.append(charge)
            bill.off += [Off(coupon, (charge,)) for coupon in window.coupons]

    def _usage(self, window: "Metered", used: Decimal, amount: int) -> Charge:
        assert window.until is not None
        charge = Charge(self.id, "usage", window.price, used, window.since, window.until, amount)
        if amount:
            window.charges.append(charge)
        return charge

    # ---- helpers -------------------------------------------------------------------------------

    def _bill(self, event: str, bill: Bill) -> None:
        bill.event = event
        if not bill.is_empty:
            self.bills.append(bill)


@dataclass(eq=False)
class Metered:
    """A metered price, counted from an instant to another (None: still)."""

    price: Price
    since: datetime
    until: datetime | None = None
    #: What was billed of it when it was over, with which percentages off, and by which charges.
    billed_used: Decimal = Decimal(0)
    amount: int = 0
    coupons: list[Coupon] = field(default_factory=list)
    charges: list[Charge] = field(default_factory=list)

    #: What counts in it: told while it was counted, or late.
    events: list[dict[str, Any]] = field(default_factory=list)

    def takes(self, event: dict[str, Any]) -> bool:
        if event["meter_id"] != self.price.told["meter_id"] or event["at"] < self.since:
            return False
        return self.until is None or event["at"] < self.until

    def used(self) -> Decimal:
        values = [Decimal(event["value"]) for event in self.events]
        found = {
            "sum": sum(values, Decimal(0)),
            "count": Decimal(len(values)),
            "max": max(values, default=Decimal(0)),
        }[self.price.told["aggregation"]]
        return max(found, Decimal(0))


def _per_day(held: list[Held]) -> Fraction:
    ahead = (one for one in held if one.price.is_ahead)
    return sum((one.price.per_day(one.quantity) for one in ahead), Fraction(0))


def _after(held: list[Held], waiting: Iterable[Waiting]) -> list[Held]:
    """What is held once these have happened: by date, then those of a period's end."""
    last = datetime.max.replace(tzinfo=UTC)
    for one in sorted(waiting, key=lambda one: (one.at or last, ORDER.index(one.kind))):
        if one.kind == "move" and held[0].price.id != one.moved_from:
            continue
        if one.kind in {"change", "move"}:
            held = one.wish.applied_to(held)
    return held


def _copied(value: Any) -> Any:
    """A container that what follows does not change."""
    return value.copy() if isinstance(value, list | dict) else value


def _same(one: list[Held], other: list[Held]) -> bool:
    return set(one) == set(other)


def _places(held: list[Held]) -> set[str | None]:
    return {one.slot for one in held if one.price.is_ahead}


def _in_place(held: list[Held], slot: str | None) -> list[Held]:
    return [one for one in held if one.slot == slot and one.price.is_ahead]


def _seconds(start: datetime, end: datetime) -> int:
    return int((end - start).total_seconds())


def _calendar_start(at: datetime, unit: str) -> datetime:
    day = at.replace(hour=0, minute=0, second=0, microsecond=0)
    if unit == "week":
        return day - timedelta(days=day.weekday())
    if unit == "day":
        return day
    month = {"month": day.month, "quarter": (day.month - 1) // 3 * 3 + 1, "year": 1}[unit]
    return day.replace(month=month, day=1)


__all__ = [
    "Bill",
    "Charge",
    "Coupon",
    "Held",
    "Price",
    "Subscription",
    "TakenBack",
    "Wish",
    "replace",
]
