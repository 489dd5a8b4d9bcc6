"""Money is exact: no unit is lost, and rounding is half away from zero."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from shared.errors import Invalid
from shared.money import Money, allocate, exponent, round_half_away


def test_exponents_come_from_iso_4217() -> None:
    assert [exponent(code) for code in ("EUR", "JPY", "KWD", "RSD")] == [2, 0, 3, 2]


def test_an_unknown_currency_is_refused_by_name() -> None:
    with pytest.raises(Invalid, match="XXQ"):
        exponent("XXQ")
    with pytest.raises(ValidationError):
        Money(1, "eur")


def test_two_currencies_are_never_added() -> None:
    with pytest.raises(ValueError, match="EUR and USD"):
        Money(1, "EUR") + Money(1, "USD")


def test_a_float_is_no_amount() -> None:
    with pytest.raises(ValidationError):
        Money.model_validate({"amount": 19.99, "currency": "EUR"})


@pytest.mark.parametrize(
    "wrong", [{}, {"amount": 5}, {"currency": "EUR"}, {"amount": 5, "currency": "EUR", "more": 1}]
)
def test_half_an_amount_from_outside_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Money.model_validate(wrong)


def test_money_survives_json() -> None:
    price = Money(1999, "EUR")

    assert Money.model_validate_json(price.model_dump_json()) == price
    assert str(price) == "19.99 EUR"
    assert str(Money(-5, "KWD")) == "-0.005 KWD"
    assert str(Money(12, "JPY")) == "12 JPY"


@pytest.mark.parametrize(
    ("exact", "rounded"),
    [("0.5", 1), ("-0.5", -1), ("1.4999", 1), ("-1.5", -2), ("2.5", 3), ("0.4999999", 0)],
)
def test_halves_round_away_from_zero(exact: str, rounded: int) -> None:
    assert round_half_away(Decimal(exact)) == rounded


def test_ties_go_to_the_first() -> None:
    assert allocate(100, [1, 1, 1]) == [34, 33, 33]
    assert allocate(-100, [1, 1, 1]) == [-34, -33, -33]
    assert allocate(5, [0, 1, 0]) == [0, 5, 0]


@given(
    st.integers(-(10**12), 10**12),
    st.lists(st.integers(0, 10**9), min_size=1, max_size=20).filter(any),
)
def test_allocation_loses_nothing_and_is_fair(total: int, weights: list[int]) -> None:
    parts = allocate(total, weights)

    assert sum(parts) == total
    whole = sum(weights)
    for part, weight in zip(parts, weights, strict=True):
        assert abs(part * whole - total * weight) < whole
