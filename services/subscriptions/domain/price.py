"""Prices: immutable, of every type, exact to the last digit."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from fractions import Fraction
from math import ceil
from typing import Any
from uuid import UUID

from services.subscriptions.domain.catalog import Editable
from services.subscriptions.domain.period import Interval, IntervalUnit
from shared.errors import Conflict, Invalid, NotFound
from shared.money import require_billable


class PriceType(StrEnum):
    FLAT = "flat"
    PER_UNIT = "per_unit"
    GRADUATED = "graduated"
    VOLUME = "volume"
    PACKAGE = "package"
    METERED = "metered"
    ONE_OFF = "one_off"


class Aggregation(StrEnum):
    SUM = "sum"
    COUNT = "count"
    MAX = "max"
    LATEST = "latest"
    UNIQUE = "unique"


class TaxBehavior(StrEnum):
    EXCLUSIVE = "exclusive"
    INCLUSIVE = "inclusive"


class PriceNotFound(NotFound):
    code = "price-not-found"


class PriceNotOnSale(Conflict):
    code = "price-not-on-sale"


class PriceInvalid(Invalid):
    code = "price-invalid"


@dataclass(frozen=True, slots=True)
class Tier:
    """Units up to and including `up_to` (the last tier: all above) cost `unit_amount` each."""

    up_to: int | None
    unit_amount: Decimal = Decimal(0)
    flat_amount: Decimal = Decimal(0)


@dataclass(frozen=True, slots=True)
class Quote:
    """What a quantity costs before rounding, and by which steps."""

    amount: Fraction
    steps: tuple[dict[str, Any], ...]


def plain(number: Decimal | Fraction | int) -> str:
    """The shortest decimal text without an exponent: 650, 0.05; an endless one keeps its form."""
    if isinstance(number, Fraction):
        if number.denominator == 1:
            return str(number.numerator)
        # It ends where its denominator has no factor but 2 and 5; each digit takes one of them off.
        digits = number.denominator.bit_length()
        if 10**digits % number.denominator:
            return str(number)
        number = Decimal(f"{number.numerator * (10**digits // number.denominator)}E-{digits}")
    text = f"{Decimal(number):f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


@dataclass(eq=False, kw_only=True)
class Price(Editable):
    """Amount, currency and interval of a plan or an add-on. Replaced, never changed.

    What is edited is whether it is on sale.
    """

    id: UUID
    plan_id: UUID | None = None
    addon_id: UUID | None = None
    currency: str
    type: PriceType
    interval_unit: IntervalUnit | None = None
    interval_count: int = 1
    unit_amount: Decimal | None = None
    tiers: tuple[Tier, ...] = ()
    #: How tiers of a metered price are read.
    tier_mode: str | None = None
    package_size: int | None = None
    free_units: int = 0
    meter_id: UUID | None = None
    aggregation: Aggregation | None = None
    tax_behavior: TaxBehavior = TaxBehavior.EXCLUSIVE
    tax_category: str = "standard"
    account_id: UUID | None = None
    #: It comes with every other price of its plan in the same currency and rhythm.
    component: bool = False
    #: Among the prices that sell the same: each takes the one before off sale.
    version: int = 1
    revision: int = 1
    active: bool = True
    #: What one unit, package or first tier costs: for range queries.
    amount: Decimal = field(default=Decimal(0))
    created_at: datetime

    def __post_init__(self) -> None:
        self._check()
        if self.unit_amount is not None:
            self.amount = self.unit_amount
        elif self.tiers:
            self.amount = self.tiers[0].unit_amount + self.tiers[0].flat_amount

    @property
    def interval(self) -> Interval | None:
        return Interval(self.interval_unit, self.interval_count) if self.interval_unit else None

    @property
    def is_metered(self) -> bool:
        return self.type is PriceType.METERED

    @property
    def is_recurring(self) -> bool:
        """Billed ahead for every period."""
        return self.type not in {PriceType.METERED, PriceType.ONE_OFF}

    def sells_what(self, other: "Price") -> bool:
        """Whether it is a version of `other`: of such, one is on sale at a time."""
        return (
            self.currency == other.currency
            and self.interval == other.interval
            and self.type is other.type
            and self.meter_id == other.meter_id
            and self.component == other.component
            and self.account_id == other.account_id
        )

    def quote(self, quantity: Decimal | int) -> Quote:
        """The exact cost of `quantity` units for one whole period."""
        units = max(Decimal(quantity) - self.free_units, Decimal(0))
        if self.tiers:
            mode = self.tier_mode if self.type is PriceType.METERED else self.type
            quote = (
                volume(self.tiers, units)
                if mode == PriceType.VOLUME
                else graduated(self.tiers, units)
            )
        else:
            quote = self._simple(units)
        if self.free_units:
            free = {
                "rule": "free units",
                "units": plain(min(Decimal(quantity), Decimal(self.free_units))),
            }
            return Quote(quote.amount, (free, *quote.steps))
        return quote

    def _simple(self, units: Decimal) -> Quote:
        unit = self.unit_amount or Decimal(0)
        if self.type is PriceType.FLAT:
            return Quote(Fraction(unit), ({"rule": "flat", "amount": plain(unit)},))
        if self.package_size is not None:
            packages = ceil(Fraction(units) / self.package_size)
            step = {
                "rule": "a started package counts",
                "units": plain(units),
                "package_size": self.package_size,
                "packages": packages,
                "unit_amount": plain(unit),
            }
            return Quote(packages * Fraction(unit), (step,))
        step = {"rule": "per unit", "units": plain(units), "unit_amount": plain(unit)}
        return Quote(Fraction(units) * Fraction(unit), (step,))

    def _check(self) -> None:
        def refuse(when: bool, text: str, at: str) -> None:
            if when:
                raise PriceInvalid(text, field=at)

        tiered = self.type in {PriceType.GRADUATED, PriceType.VOLUME}
        metered = self.type is PriceType.METERED
        refuse(
            (self.plan_id is None) == (self.addon_id is None),
            "A price belongs to a plan or to an add-on.",
            "plan_id",
        )
        refuse(
            (self.interval_unit is None) != (self.type is PriceType.ONE_OFF),
            "Every price but a one-off has an interval, and a one-off has none.",
            "interval",
        )
        if self.interval_unit is not None:
            Interval(self.interval_unit, self.interval_count)
        refuse(tiered and not self.tiers, "A graduated or volume price needs tiers.", "tiers")
        refuse(
            bool(self.tiers) and not (tiered or metered),
            "Only graduated, volume and metered prices have tiers.",
            "tiers",
        )
        refuse(
            bool(self.tiers) == (self.unit_amount is not None),
            "A price has either tiers or a unit amount.",
            "unit_amount",
        )
        refuse(
            self.unit_amount is not None and self.unit_amount < 0,
            "An amount is not negative.",
            "unit_amount",
        )
        refuse(
            (self.type is PriceType.PACKAGE) and self.package_size is None,
            "A package price needs a package size.",
            "package_size",
        )
        refuse(
            self.package_size is not None
            and (self.package_size < 1 or not (metered or self.type is PriceType.PACKAGE)),
            "A package size is at least 1, on package and metered prices.",
            "package_size",
        )
        refuse(
            self.package_size is not None and bool(self.tiers),
            "A metered price has tiers or a package, not both.",
            "package_size",
        )
        refuse(self.free_units < 0, "Free units are not negative.", "free_units")
        refuse(
            self.component and (not metered or self.plan_id is None),
            "Only a metered price of a plan is a component.",
            "component",
        )
        refuse(
            metered != (self.meter_id is not None),
            "A metered price, and no other, names its meter.",
            "meter_id",
        )
        refuse(
            metered != (self.aggregation is not None),
            "A metered price, and no other, says how usage is aggregated.",
            "aggregation",
        )
        if self.unit_amount is not None:
            require_billable(self.unit_amount, field="unit_amount")
        if self.tiers:
            check_tiers(self.tiers)


def check_tiers(tiers: Sequence[Tier]) -> None:
    bounds = [tier.up_to for tier in tiers]
    ends = [bound for bound in bounds[:-1] if bound is not None]
    if bounds[-1] is not None or len(ends) != len(bounds) - 1:
        raise PriceInvalid("The last tier, and no other, has no upper bound.", field="tiers")
    if any(b <= a for a, b in zip([0, *ends], ends, strict=False)):
        raise PriceInvalid("The bounds of tiers grow from one to the next.", field="tiers")
    if any(tier.unit_amount < 0 or tier.flat_amount < 0 for tier in tiers):
        raise PriceInvalid("An amount is not negative.", field="tiers")
    for tier in tiers:
        require_billable(max(tier.unit_amount, tier.flat_amount), field="tiers")


def graduated(tiers: Sequence[Tier], units: Decimal) -> Quote:
    """Each unit costs what its own tier says; a tier's flat amount is due once it is entered."""
    total, low, steps = Fraction(0), 0, []
    for tier in tiers:
        if units <= low:
            break
        inside = (units if tier.up_to is None else min(units, Decimal(tier.up_to))) - low
        cost = Fraction(inside) * Fraction(tier.unit_amount) + Fraction(tier.flat_amount)
        steps.append(_tier_step("graduated", tier, low, inside, cost))
        total += cost
        low = tier.up_to or low
    return Quote(total, tuple(steps))


def volume(tiers: Sequence[Tier], units: Decimal) -> Quote:
    """All units cost what the tier of the whole quantity says."""
    if units <= 0:
        return Quote(Fraction(0), ())
    low = 0
    for tier in tiers:
        if tier.up_to is None or units <= tier.up_to:
            break
        low = tier.up_to
    cost = Fraction(units) * Fraction(tier.unit_amount) + Fraction(tier.flat_amount)
    return Quote(cost, (_tier_step("volume", tier, low, units, cost),))


def _tier_step(rule: str, tier: Tier, low: int, units: Decimal, cost: Fraction) -> dict[str, Any]:
    return {
        "rule": rule,
        "tier": f"{low + 1}-{tier.up_to}" if tier.up_to else f"{low + 1}+",
        "units": plain(units),
        "unit_amount": plain(tier.unit_amount),
        "flat_amount": plain(tier.flat_amount),
        "amount": plain(cost),
    }
