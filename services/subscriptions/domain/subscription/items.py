"""What a subscription holds: prices and quantities that go together, and what was used of them."""

from dataclasses import dataclass
from fractions import Fraction
from uuid import UUID

from services.subscriptions.domain.charges import Item, Terms, UsageOf
from services.subscriptions.domain.period import Interval
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


#: Usage that is not billed yet, oldest window first.
Usage = tuple[UsageOf, ...]
NO_USAGE: Usage = ()


def check_items(items: tuple[Item, ...], terms: Terms) -> Interval:
    """One currency and one rhythm for all recurring items; sensible quantities."""
    main = terms.price(items[0])
    interval = main.interval
    if interval is None:
        raise IntervalMismatch("A subscription needs a price with an interval.", field="price_id")
    for item in items:
        price = terms.price(item)
        if price is not main:
            _check_beside(price, main.currency, interval)
        if not 1 <= item.quantity <= MOST_UNITS:
            raise QuantityInvalid(f"A quantity lies between 1 and {MOST_UNITS}.", field="quantity")
    return interval


def _check_beside(price: Price, currency: str, interval: Interval) -> None:
    if price.currency != currency:
        raise CurrencyMismatch("All prices of a subscription share one currency.", field="addons")
    if price.interval not in {None, interval}:
        raise IntervalMismatch(
            "All recurring prices of a subscription share one interval.", field="addons"
        )


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


def slots_that_differ(
    old: tuple[Item, ...], new: tuple[Item, ...], terms: Terms
) -> set[UUID | None]:
    """The places in which something else is held: the plan's own (None), and each add-on's.

    What is billed for a place is compared with what is held there only when somebody changes it:
    a difference that was let be (`none`) stays so until then, or until the next period.
    """

    def held_in(items: tuple[Item, ...]) -> dict[UUID | None, list[tuple[UUID, int]]]:
        places: dict[UUID | None, list[tuple[UUID, int]]] = {}
        for item in items:
            if terms.price(item).is_recurring:
                places.setdefault(item.addon_id, []).append((item.price_id, item.quantity))
        return {place: sorted(held) for place, held in places.items()}

    before, after = held_in(old), held_in(new)
    return {
        place for place in before.keys() | after.keys() if before.get(place) != after.get(place)
    }


def cost_of(price: Price, quantity: int) -> int:
    """A whole period's cost in minor units."""
    return round_exact(price.quote(quantity).amount)
