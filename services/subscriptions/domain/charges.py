"""What is owed, line by line, each with the steps of its sum in words and numbers."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any
from uuid import UUID

from services.subscriptions.domain.period import BillingPeriod, zone_of
from services.subscriptions.domain.plan import Plan
from services.subscriptions.domain.price import Price, PriceNotFound, Quote, plain
from services.subscriptions.domain.proration import Factor, round_exact
from shared.events.subscriptions import Charge, ChargeKind
from shared.ids import new_id
from shared.money import Money

ROUNDING = "half away from zero, once for this line"


@dataclass(frozen=True, slots=True)
class Item:
    """One price that a subscription holds: the plan's own, or an add-on's."""

    id: UUID
    price_id: UUID
    quantity: int = 1
    addon_id: UUID | None = None
    #: Since when usage of a metered price is not billed yet; None for the period's start.
    metered_from: datetime | None = None


@dataclass(frozen=True)
class Terms:
    """What the items of a subscription refer to: its plan, prices, and what each is called."""

    plan: Plan
    prices: Mapping[UUID, Price]
    names: Mapping[UUID, str]
    #: By whose clock lines tell their days.
    time_zone: str = "UTC"

    def price(self, item: Item) -> Price:
        try:
            return self.prices[item.price_id]
        except KeyError:
            raise PriceNotFound(f"There is no price {item.price_id}.") from None

    def name(self, item: Item) -> str:
        return self.names[item.price_id]


def charge_ahead(item: Item, terms: Terms, period: BillingPeriod, factor: Factor) -> Charge:
    """A period's price, due at its start; a short first period pays its part."""
    kind: ChargeKind = "recurring" if item.addon_id is None else "addon"
    return _line(kind, item, terms, period, factor, sign=1)


def charge_rest(item: Item, terms: Terms, period: BillingPeriod, factor: Factor) -> Charge:
    """What a new item costs for the rest of the period."""
    return _line("proration_charge", item, terms, period, factor, sign=1)


def credit_rest(item: Item, terms: Terms, period: BillingPeriod, factor: Factor) -> Charge:
    """What comes back for the unused rest of an item that was paid ahead."""
    return _line("proration_credit", item, terms, period, factor, sign=-1)


def charge_once(item: Item, terms: Terms, period: BillingPeriod) -> Charge:
    """A one-off price."""
    whole = Factor(period.seconds, period.seconds)
    return _line("one_off", item, terms, period, whole, sign=1)


def charge_usage(
    item: Item,
    terms: Terms,
    window: BillingPeriod,
    used: Decimal,
    *,
    billed: int = 0,
    late: bool = False,
) -> Charge | None:
    """Usage of a window that is over. `billed`: what was charged for it before late events."""
    price = terms.price(item)
    quote = price.quote(used)
    amount = round_exact(quote.amount)
    if amount == billed and (late or used == 0):
        return None
    steps: list[dict[str, Any]] = [*quote.steps, _rounding(quote.amount, amount)]
    if late:
        steps.append({"rule": "less what was billed before", "billed": billed})
    words = f"{terms.name(item)}: {plain(used)} units used, {_dates(window, terms)}" + (
        ", late usage" if late else ""
    )
    return Charge(
        id=new_id(),
        kind="usage",
        description=words,
        quantity="1",
        unit_amount=str(amount - billed),
        amount=amount - billed,
        currency=price.currency,
        period_start=window.start,
        period_end=window.end,
        tax_category=price.tax_category,
        tax_behavior=price.tax_behavior.value,
        price_id=price.id,
        why={
            "text": f"{words}. Metered ({price.aggregation}), billed in arrears.",
            "quantity": plain(used),
            "period": _bounds(window),
            "steps": steps,
        },
    )


def _line(
    kind: ChargeKind, item: Item, terms: Terms, period: BillingPeriod, factor: Factor, *, sign: int
) -> Charge:
    price = terms.price(item)
    quote = price.quote(item.quantity)
    exact = sign * quote.amount * factor.exact
    amount = round_exact(exact)
    quantity, unit_amount = _per_unit(price, item, factor, amount)
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
        why=_why(words, price, quote, item, period, factor, exact, amount),
    )


def _per_unit(price: Price, item: Item, factor: Factor, amount: int) -> tuple[str, str]:
    """Quantity and unit amount whose product, rounded, is the amount: as e-invoices ask."""
    unit = price.unit_amount
    simple = unit is not None and price.package_size is None and not price.free_units
    if factor.is_whole and simple and item.quantity > 1 and price.type.value != "flat":
        return str(item.quantity), plain(unit or 0)
    return "1", str(amount)


def _describe(kind: ChargeKind, item: Item, terms: Terms, period: BillingPeriod) -> str:
    name, dates = terms.name(item), _dates(period, terms)
    what = f"{name} x {item.quantity}" if item.quantity != 1 else name
    match kind:
        case "proration_credit":
            return f"Unused time on {what}, {dates}"
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
    steps = [*quote.steps]
    text = f"{words}: {Money(amount, price.currency)}."
    if not factor.is_whole:
        steps.append({"rule": "remaining seconds / seconds of the period", **factor.why()})
        text += (
            f" Full price {plain(quote.amount)} minor units x {factor.remaining} of "
            f"{factor.whole} seconds."
        )
    return {
        "text": text,
        "quantity": str(item.quantity),
        "full_price": plain(quote.amount),
        "period": _bounds(period),
        "steps": [*steps, _rounding(exact, amount)],
    }


def _rounding(exact: Fraction, amount: int) -> dict[str, Any]:
    return {"rule": "rounding", "mode": ROUNDING, "exact": plain(exact), "rounded": amount}


def _bounds(period: BillingPeriod) -> dict[str, str]:
    return {"start": _iso(period.start), "end": _iso(period.end)}


def _iso(instant: datetime) -> str:
    return instant.isoformat().replace("+00:00", "Z")


def _dates(period: BillingPeriod, terms: Terms) -> str:
    """The first and the last day of it: what ends at midnight has no part of the next day."""
    zone = zone_of(terms.time_zone)
    last = max(period.end - timedelta(seconds=1), period.start)
    return f"{period.start.astimezone(zone):%Y-%m-%d} to {last.astimezone(zone):%Y-%m-%d}"
