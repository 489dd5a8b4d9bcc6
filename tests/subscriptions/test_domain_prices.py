"""Prices of every type, exact to the last digit."""

from dataclasses import replace
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.subscriptions.domain.charges import charge_ahead
from services.subscriptions.domain.period import BillingPeriod
from services.subscriptions.domain.price import (
    Aggregation,
    Price,
    PriceInvalid,
    PriceType,
    Tier,
    plain,
)
from services.subscriptions.domain.proration import Factor, round_exact
from shared.errors import Invalid
from shared.ids import new_id
from tests.subscriptions.factories import a_price, an_item, at, terms_of, tiered


def cost(price: Price, quantity: int | str) -> Fraction:
    return price.quote(Decimal(quantity)).amount


@pytest.mark.parametrize(("quantity", "expected"), [(5, 3500), (6, 3900), (20, 12000)])
def test_volume(quantity: int, expected: int) -> None:
    assert cost(tiered(PriceType.VOLUME), quantity) == expected


@pytest.mark.parametrize(("quantity", "expected"), [(6, 4150), (20, 12750)])
def test_graduated(quantity: int, expected: int) -> None:
    assert cost(tiered(PriceType.GRADUATED), quantity) == expected


def test_a_graduated_price_shows_its_tiers() -> None:
    steps = tiered(PriceType.GRADUATED).quote(6).steps

    assert [(step["tier"], step["units"], step["amount"]) for step in steps] == [
        ("1-5", "5", "3500"),
        ("6-10", "1", "650"),
    ]


def test_a_flat_amount_is_due_once_its_tier_is_entered() -> None:
    tiers = (Tier(10, Decimal(0), Decimal(500)), Tier(None, Decimal(10), Decimal(300)))

    assert cost(a_price(None, type=PriceType.GRADUATED, tiers=tiers), 11) == 500 + 300 + 10
    assert cost(a_price(None, type=PriceType.GRADUATED, tiers=tiers), 0) == 0
    assert cost(a_price(None, type=PriceType.VOLUME, tiers=tiers), 11) == 300 + 110


@pytest.mark.parametrize(("used", "packages"), [("0", 0), ("1", 1), ("100", 1), ("100.5", 2)])
def test_a_started_package_counts(used: str, packages: int) -> None:
    assert cost(a_price(250, type=PriceType.PACKAGE, package_size=100), used) == packages * 250


def test_flat_and_per_unit() -> None:
    assert cost(a_price(1999), 7) == 1999
    assert cost(a_price(650, type=PriceType.PER_UNIT), 7) == 4550


def test_fractions_of_a_minor_unit_are_rounded_once_at_the_end() -> None:
    price = metered("0.0375", free_units=1000)

    assert cost(price, 900) == 0
    assert cost(price, 13345) == Fraction(12345) * Fraction(375, 10000)
    assert round_exact(cost(price, 13345)) == 463


def test_a_metered_price_may_have_tiers_or_packages() -> None:
    tiers = (Tier(100, Decimal(2)), Tier(None, Decimal(1)))

    assert cost(metered(None, tiers=tiers), 150) == 250
    assert cost(metered(None, tiers=tiers, tier_mode="volume"), 150) == 150
    assert cost(metered(10, package_size=1000), 1001) == 20


def metered(amount: int | str | None, **more: object) -> Price:
    return a_price(
        amount,
        type=PriceType.METERED,
        meter_id=new_id(),
        aggregation=Aggregation.SUM,
        **more,
    )


@pytest.mark.parametrize(
    "wrong",
    [
        {"amount": None},
        {"amount": -1},
        {"type": PriceType.GRADUATED},
        {"type": PriceType.PACKAGE},
        {"type": PriceType.METERED},
        {"type": PriceType.ONE_OFF},
        {"interval_unit": None},
        {"interval_count": 0},
        {"meter_id": new_id()},
        {"aggregation": Aggregation.SUM},
        {"package_size": 10},
        {"free_units": -1},
        {"plan_id": None},
        {"addon_id": new_id(), "plan_id": new_id()},
        {"amount": None, "tiers": (Tier(None),)},
    ],
)
def test_a_price_that_makes_no_sense_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(Invalid):
        a_price(**{"amount": 100, **wrong})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "tiers",
    [
        (Tier(5), Tier(10)),
        (Tier(None), Tier(10)),
        (Tier(5), Tier(5), Tier(None)),
        (Tier(5, Decimal(-1)), Tier(None)),
    ],
)
def test_tiers_that_make_no_sense_are_refused(tiers: tuple[Tier, ...]) -> None:
    with pytest.raises(PriceInvalid):
        a_price(None, type=PriceType.VOLUME, tiers=tiers)


def test_a_price_knows_what_it_costs_at_least_for_range_queries() -> None:
    assert a_price(1999).amount == 1999
    assert tiered(PriceType.VOLUME).amount == 700


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (Decimal("650.00"), "650"),
        (Decimal("0.050"), "0.05"),
        (Decimal("1E+3"), "1000"),
        (Fraction(1, 4), "0.25"),
        (Fraction(-1, 3), "-1/3"),
        (7, "7"),
        (Fraction(1, 8 * 10**30), "0.000000000000000000000000000000125"),
        (
            Fraction(Decimal("12345678901234567890123456789012.5")),
            "12345678901234567890123456789012.5",
        ),
    ],
)
def test_numbers_are_written_plainly(number: Decimal | Fraction | int, text: str) -> None:
    assert plain(number) == text


bounds = st.lists(st.integers(1, 10_000), min_size=0, max_size=6, unique=True).map(sorted)
amounts = st.decimals(0, 10_000, places=6, allow_nan=False)


@given(bounds, st.data(), st.integers(0, 20_000))
def test_graduated_is_the_sum_of_each_unit_in_its_own_tier(
    ends: list[int], data: st.DataObject, units: int
) -> None:
    tiers = tuple(Tier(end, data.draw(amounts)) for end in [*ends, None])
    price = a_price(None, type=PriceType.GRADUATED, tiers=tiers)

    expected, low = Fraction(0), 0
    for tier in tiers:
        high = units if tier.up_to is None else min(units, tier.up_to)
        expected += max(high - low, 0) * Fraction(tier.unit_amount)
        low = max(low, high)
    assert cost(price, units) == expected


@given(st.integers(0, 10**9), st.integers(1, 10**6))
def test_packages_cover_what_is_used_and_no_more_than_one_is_started(used: int, size: int) -> None:
    packages = cost(a_price(1, type=PriceType.PACKAGE, package_size=size), used)

    assert packages * size >= used
    assert (packages - 1) * size < used or packages == 0


@given(st.fractions())
def test_rounding_goes_to_the_nearest_and_halves_go_away_from_zero(amount: Fraction) -> None:
    rounded = round_exact(amount)

    assert abs(rounded - amount) <= Fraction(1, 2)
    assert round_exact(-amount) == -rounded


def test_a_line_tells_its_days_by_the_accounts_clock_and_the_last_one_is_in_it() -> None:
    price = a_price("10.00")
    terms = replace(terms_of(price), time_zone="Europe/Berlin")
    february = BillingPeriod(at(2026, 1, 31, 23), at(2026, 2, 28, 23))

    line = charge_ahead(an_item(price), terms, february, Factor(1, 1))

    assert line.description == "Team, 2026-02-01 to 2026-02-28"
    assert line.why["text"].startswith(line.description)
