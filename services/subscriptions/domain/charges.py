"""What is owed, line by line, each with the steps of its sum in words and numbers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any
from uuid import UUID

from services.subscriptions.domain.period import BillingPeriod, zone_of
from services.subscriptions.domain.plan import Plan
from services.subscriptions.domain.price import Price, PriceNotFound, PriceType, Quote, plain
from services.subscriptions.domain.proration import Factor, round_exact
from shared.events.subscriptions import Charge, ChargeKind, ChargePart, Discount, TakeBack
from shared.ids import new_id
from shared.money import LARGEST_AMOUNT, Money

ROUNDING = "half away from zero, once for this line"
#: Kinds of charges that cover time ahead, of which a rest can be taken back.
COVERING: tuple[ChargeKind, ...] = ("recurring", "addon", "proration_charge")


@dataclass(frozen=True, slots=True)
class Item:
    """One price that a subscription holds: the plan's own, or an add-on's."""

    id: UUID
    price_id: UUID
    quantity: int = 1
    addon_id: UUID | None = None
    #: Since when usage of a metered price is not billed yet; None for the period's start.
    metered_from: datetime | None = None
    #: Of a one-off price: how many of its units were billed; None where an earlier release,
    #: which billed all that it held, wrote the item.
    units_billed: int | None = None

    @property
    def key(self) -> tuple[UUID, int, UUID | None]:
        """What makes two items the same thing to bill."""
        return self.price_id, self.quantity, self.addon_id


@dataclass(frozen=True, slots=True)
class Terms:
    """What the items of a subscription refer to: its plan, prices, and what each is called."""

    plan: Plan
    prices: Mapping[UUID, Price]
    names: Mapping[UUID, str]
    #: By whose clock lines tell their days.
    time_zone: str = "UTC"
    #: All plans that are held or wait to be held.
    plans: Mapping[UUID, Plan] = field(default_factory=dict)
    #: What one of a meter's quantity is called, by price.
    units: Mapping[UUID, str] = field(default_factory=dict)

    def price(self, item: "Item | BilledCharge") -> Price:
        try:
            return self.prices[item.price_id]
        except KeyError:
            raise PriceNotFound(f"There is no price {item.price_id}.") from None

    def name(self, item: "Item | BilledCharge") -> str:
        return self.names[item.price_id]

    def plan_of(self, plan_id: UUID) -> Plan:
        return self.plans.get(plan_id, self.plan)


@dataclass(frozen=True, slots=True)
class BilledCharge:
    """A charge that left in an event and covers time ahead, until it is taken back from an instant.

    What is owed for an item is compared with these; a bill is the difference.
    """

    charge_id: UUID
    kind: ChargeKind
    price_id: UUID
    quantity: int
    addon_id: UUID | None
    starts_at: datetime
    ends_at: datetime
    #: Up to here it still covers; its end, unless something of it was taken back.
    covers_until: datetime

    @property
    def key(self) -> tuple[UUID, int, UUID | None]:
        return self.price_id, self.quantity, self.addon_id

    @classmethod
    def of(cls, charge: Charge, item: Item) -> "BilledCharge":
        return cls(
            charge_id=charge.id,
            kind=charge.kind,
            price_id=item.price_id,
            quantity=item.quantity,
            addon_id=item.addon_id,
            starts_at=charge.period_start,
            ends_at=charge.period_end,
            covers_until=charge.period_end,
        )


@dataclass(frozen=True, slots=True)
class UsageOf:
    """Usage of one metered item in a window: what was used, and what of it was billed.

    `charge_id` is for the charge that bills it now; `billed_by` are those that did before.
    """

    item_id: UUID
    price: Price
    name: str
    window: BillingPeriod
    used: Decimal
    charge_id: UUID = field(default_factory=new_id)
    unit: str = ""
    billed: int = 0
    #: The window was billed before; only the difference is owed.
    late: bool = False
    billed_by: tuple[UUID, ...] = ()
    #: The percentages off with which the window was billed.
    discounts: tuple[Discount, ...] = ()

    @property
    def owed(self) -> int:
        """What all usage of the window costs, in whole minor units.

        The doors let no more in than can be billed; what an earlier release let in stops there.
        """
        return min(round_exact(self.price.quote(self.used).amount), LARGEST_AMOUNT)

    @property
    def is_billed_anew(self) -> bool:
        """Less is owed than was billed: all of that is taken back and the rest billed again."""
        return self.late and self.owed < self.billed

    @property
    def charges_after(self) -> tuple[UUID, ...]:
        """The charges that stand for the window once this is billed."""
        charged = (self.charge_id,) if self.owed and self.owed != self.billed else ()
        return charged if self.is_billed_anew else (*self.billed_by, *charged)


def charge_ahead(item: Item, terms: Terms, period: BillingPeriod, factor: Factor) -> Charge:
    """A period's price, due at its start; a short first period pays its part."""
    kind: ChargeKind = "recurring" if item.addon_id is None else "addon"
    return _line(kind, item, terms, period, factor)


def charge_rest(item: Item, terms: Terms, period: BillingPeriod, factor: Factor) -> Charge:
    """What a new item costs for the rest of the period."""
    return _line("proration_charge", item, terms, period, factor)


def charge_once(item: Item, terms: Terms, period: BillingPeriod) -> Charge:
    """A one-off price, for so many units."""
    return _line("one_off", item, terms, period, Factor(period.seconds, period.seconds))


def take_back(billed: BilledCharge, terms: Terms, at: datetime) -> TakeBack:
    """What is left of a charge from `at` on is not owed; invoicing says what that is worth."""
    rest = BillingPeriod(at, billed.ends_at)
    whole = BillingPeriod(billed.starts_at, billed.ends_at)
    factor = Factor(rest.seconds, whole.seconds)
    what = _what(terms.name(billed), billed.quantity)
    text = f"Unused time on {what}, {_dates(rest, terms.time_zone)}"
    currency = terms.price(billed).currency
    return TakeBack(
        id=new_id(),
        charge_id=billed.charge_id,
        starts_at=at,
        kind=billed.kind,
        price_id=billed.price_id,
        period_start=billed.starts_at,
        period_end=billed.ends_at,
        description=text,
        why={
            "text": f"{text}. Given back: {factor.remaining} of {factor.whole} seconds.",
            "quantity": str(billed.quantity),
            "period": _bounds(rest),
            "steps": [_share(factor, currency, sense="take_back")],
        },
    )


def charge_usage(part: UsageOf, time_zone: str) -> Charge | None:
    """Usage of a window that is over, or of one that was billed before, the difference."""
    price, amount = part.price, part.owed
    if amount == part.billed and (part.late or part.used == 0):
        return None
    if part.is_billed_anew and amount == 0:
        return None
    quote = price.quote(part.used)
    before = 0 if part.is_billed_anew else part.billed
    quantity, unit_amount, parts = _quantities(price, quote, part.unit)
    steps = [*_steps(quote, price.currency), _rounding(quote.amount, amount, price.currency)]
    if before:
        quantity, unit_amount, parts = "1", str(amount - before), ()
        step = {"rule": "less what was billed before", "billed": before}
        steps.append(_step(step, price.currency, kind="billed"))
    used = f"{plain(part.used)} {part.unit or 'units'}"
    words = f"{part.name}: {used} used, {_dates(part.window, time_zone)}" + (
        ", corrected" if part.is_billed_anew else ", late usage" if part.late else ""
    )
    return Charge(
        id=part.charge_id,
        kind="usage",
        description=words,
        quantity=quantity,
        unit_amount=unit_amount,
        amount=amount - before,
        currency=price.currency,
        period_start=part.window.start,
        period_end=part.window.end,
        tax_category=price.tax_category,
        tax_behavior=price.tax_behavior.value,
        price_id=price.id,
        unit=part.unit or None,
        parts=parts,
        why={
            "text": f"{words}. Metered ({price.aggregation}), billed in arrears.",
            "quantity": plain(part.used),
            "period": _bounds(part.window),
            "steps": steps,
        },
    )


def take_back_usage(part: UsageOf, time_zone: str) -> list[TakeBack]:
    """All that was billed for a window of which less is owed now."""
    text = f"{part.name}: corrected usage, {_dates(part.window, time_zone)}"
    whole = Factor(part.window.seconds, part.window.seconds)
    return [
        TakeBack(
            id=new_id(),
            charge_id=charge_id,
            starts_at=part.window.start,
            kind="usage",
            price_id=part.price.id,
            period_start=part.window.start,
            period_end=part.window.end,
            description=text,
            why={
                "text": f"{text}. Given back, and billed anew.",
                "quantity": plain(part.used),
                "period": _bounds(part.window),
                "steps": [_share(whole, part.price.currency, sense="take_back")],
            },
        )
        for charge_id in part.billed_by
    ]


def _line(
    kind: ChargeKind, item: Item, terms: Terms, period: BillingPeriod, factor: Factor
) -> Charge:
    price = terms.price(item)
    quote = price.quote(item.quantity)
    exact = quote.amount if factor.is_whole else quote.amount * factor.exact
    amount = round_exact(exact)
    quantity, unit_amount = "1", str(amount)
    parts: tuple[ChargePart, ...] = ()
    if factor.is_whole:
        quantity, unit_amount, parts = _quantities(price, quote, terms.units.get(price.id, ""))
    words = _describe(kind, item, terms, period)
    return Charge(
        id=new_id(),
        kind=kind,
        description=words,
        quantity=quantity,
        unit_amount=unit_amount,
        amount=amount,
        currency=price.currency,
        period_start=period.start,
        period_end=period.end,
        tax_category=price.tax_category,
        tax_behavior=price.tax_behavior.value,
        price_id=price.id,
        parts=parts,
        why=_why(words, price, quote, item, period, factor, exact, amount),
    )


def _quantities(price: Price, quote: Quote, unit: str) -> tuple[str, str, tuple[ChargePart, ...]]:
    """Quantity and unit amount whose product, rounded, is the amount: as e-invoices ask.

    Where one term says it all, they are its own; else the line has one unit, and its parts.
    """
    if price.type is PriceType.FLAT:
        return "1", plain(quote.amount), ()
    parts = _parts(quote.steps, unit)
    priced = [part for part in parts if Decimal(part.amount)]
    if not parts or (len(priced) == 1 and not Decimal(priced[0].flat_amount)):
        one = priced[0] if priced else None
        if one is not None:
            return one.quantity, one.unit_amount, parts if len(parts) > 1 else ()
        return "1", plain(quote.amount), ()
    return "1", str(round_exact(quote.amount)), parts


def _parts(steps: Sequence[Mapping[str, Any]], unit: str) -> tuple[ChargePart, ...]:
    parts = []
    for step in steps:
        match step["rule"]:
            case "per unit":
                text, units, flat = unit or "units", step["units"], "0"
            case "a started package counts":
                text = f"packages of {step['package_size']}"
                units, flat = str(step["packages"]), "0"
            case "graduated" | "volume":
                text, units, flat = str(step["tier"]), step["units"], step["flat_amount"]
            case "free units":
                text, units, flat = "free", step["units"], "0"
            case _:
                continue
        price = step.get("unit_amount", "0")
        amount = Fraction(units) * Fraction(price) + Fraction(flat)
        parts.append(
            ChargePart(
                description=text,
                quantity=units,
                unit_amount=price,
                flat_amount=flat,
                amount=plain(amount),
            )
        )
    return tuple(parts)


def _what(name: str, quantity: int) -> str:
    return f"{name} x {quantity}" if quantity != 1 else name


def _describe(kind: ChargeKind, item: Item, terms: Terms, period: BillingPeriod) -> str:
    flat = terms.price(item).type is PriceType.FLAT
    what = _what(terms.name(item), 1 if flat else item.quantity)
    dates = _dates(period, terms.time_zone)
    match kind:
        case "proration_charge":
            return f"Remaining time on {what}, {dates}"
        case "one_off":
            return what
        case _:
            return f"{what}, {dates}"


def _why(  # noqa: PLR0917  (the pieces of one line, in the order they are read)
    words: str,
    price: Price,
    quote: Quote,
    item: Item,
    period: BillingPeriod,
    factor: Factor,
    exact: Fraction,
    amount: int,
) -> dict[str, Any]:
    steps = _steps(quote, price.currency)
    text = f"{words}: {Money(amount, price.currency)}."
    if not factor.is_whole:
        steps.append(_share(factor, price.currency))
        text += (
            f" Full price {plain(quote.amount)} minor units x {factor.remaining} of "
            f"{factor.whole} seconds."
        )
    return {
        "text": text,
        "quantity": str(item.quantity),
        "full_price": plain(quote.amount),
        "period": _bounds(period),
        "steps": [*steps, _rounding(exact, amount, price.currency)],
    }


def _step(
    step: Mapping[str, Any], currency: str, *, kind: str, sense: str = "charge"
) -> dict[str, Any]:
    """A step as a page can format it: its currency, what kind it is, and which way it goes."""
    return {**step, "currency": currency, "kind": kind, "sense": sense}


def _steps(quote: Quote, currency: str) -> list[dict[str, Any]]:
    return [_step(step, currency, kind="price") for step in quote.steps]


def _share(factor: Factor, currency: str, *, sense: str = "charge") -> dict[str, Any]:
    step = {"rule": "remaining seconds / seconds of the period", **factor.why()}
    return _step(step, currency, kind="proration", sense=sense)


def _rounding(exact: Fraction, amount: int, currency: str) -> dict[str, Any]:
    step = {"rule": "rounding", "mode": ROUNDING, "exact": plain(exact), "rounded": amount}
    return _step(step, currency, kind="rounding")


def _bounds(period: BillingPeriod) -> dict[str, str]:
    return {"start": _iso(period.start), "end": _iso(period.end)}


def _iso(instant: datetime) -> str:
    return instant.isoformat().replace("+00:00", "Z")


def _dates(period: BillingPeriod, time_zone: str) -> str:
    """The first and the last day of it: what ends at midnight has no part of the next day."""
    zone = zone_of(time_zone)
    last = max(period.end - timedelta(seconds=1), period.start)
    return f"{period.start.astimezone(zone):%Y-%m-%d} to {last.astimezone(zone):%Y-%m-%d}"
