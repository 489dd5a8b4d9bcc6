"""What a subscription holds: prices and quantities that go together, and what was used of them."""

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from uuid import UUID

from services.subscriptions.domain.charges import Item, Terms
from services.subscriptions.domain.period import BillingPeriod, Interval
from services.subscriptions.domain.price import Price
from services.subscriptions.domain.proration import round_exact
from shared.errors import Invalid

MOST_UNITS = 1_000_000


class CurrencyMismatch(Invalid):
    code = "currency-mismatch"


class QuantityInvalid(Invalid):
    code = "quantity-invalid"


class IntervalMismatch(Invalid):
    code = "interval-mismatch"


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


def difference(old: tuple[Item, ...], new: tuple[Item, ...]) -> tuple[list[Item], list[Item]]:
    """The items that go and those that come; what stays as it is is neither."""
    kept = holdings(old) & holdings(new)
    return (
        [item for item in old if (item.price_id, item.quantity, item.addon_id) not in kept],
        [item for item in new if (item.price_id, item.quantity, item.addon_id) not in kept],
    )


def cost_of(price: Price, quantity: int) -> int:
    """A whole period's cost in minor units."""
    return round_exact(price.quote(quantity).amount)
