"""The sums of an invoice: discounts, tax, and the arithmetic of EN 16931."""

from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.invoicing.domain.tax import TaxCode, TaxDecision
from services.invoicing.domain.totals import CARRIED_OVER, Bundle, Totals, compute
from shared.errors import Invalid
from tests.invoicing.factories import a_bundle, a_charge, a_discount, taxed_at

RATES = ("0", "5.5", "7", "10", "19", "20", "21", "23", "25.5", "27")


def totals(*bundles: Bundle, rate: str = "20") -> Totals:
    return compute(bundles, currency="EUR", decide=lambda _category: taxed_at(rate))


def test_tax_is_rounded_once_per_group_and_not_per_line() -> None:
    computed = totals(a_bundle(33, 33, 33))

    assert (computed.net, computed.tax, computed.total) == (99, 20, 119)


def test_an_inclusive_price_is_the_total_and_its_tax_is_taken_out() -> None:
    computed = totals(a_bundle(1200, tax_behavior="inclusive"))

    assert (computed.net, computed.tax, computed.total) == (1000, 200, 1200)


def test_a_fixed_discount_is_split_by_largest_remainder_with_ties_by_order() -> None:
    discount = a_discount(amount=100, currency="EUR")

    computed = totals(a_bundle(1000, 1000, 1000, discounts=(discount,)))

    assert [line.discount for line in computed.lines] == [34, 33, 33]
    assert computed.discount == 100
    assert computed.lines[0].why["discounts"][0]["share"] == 34


def test_a_fixed_discount_takes_no_more_than_there_is() -> None:
    discount = a_discount(amount=5000, currency="EUR")

    computed = totals(a_bundle(1000, 500, discounts=(discount,)))

    assert (computed.discount, computed.total, computed.carried_over) == (1500, 0, 0)


def test_a_fixed_discount_in_another_currency_does_not_apply() -> None:
    computed = totals(a_bundle(1000, discounts=(a_discount(amount=500, currency="USD"),)))

    assert computed.discount == 0


def test_a_percentage_covers_credits_as_well() -> None:
    computed = totals(a_bundle(-500, 1000, discounts=(a_discount(percent="50"),)), rate="0")

    assert [line.discount for line in computed.lines] == [-250, 500]
    assert computed.total == 250


def test_discounts_apply_to_the_charges_of_their_bundle_alone() -> None:
    discounted = a_bundle(1000, discounts=(a_discount(percent="10"),))

    computed = totals(discounted, a_bundle(1000))

    assert [line.net for line in computed.lines] == [900, 1000]


def test_a_negative_total_becomes_account_credit_and_the_tax_is_taken_back() -> None:
    computed = totals(a_bundle(-500))

    assert (computed.total, computed.carried_over) == (0, 600)
    assert computed.tax == -100
    assert computed.lines[-1].kind == CARRIED_OVER
    assert computed.net + computed.tax == 0


def test_a_charge_in_another_currency_is_refused() -> None:
    with pytest.raises(Invalid):
        totals(a_bundle(100, currency="USD"))


def test_two_rates_are_two_groups() -> None:
    bundle = Bundle((a_charge(1000), a_charge(500, tax_category="reduced")))

    computed = compute(
        [bundle],
        currency="EUR",
        decide=lambda category: taxed_at("19" if category == "standard" else "7"),
    )

    assert [(g.rate, g.taxable, g.tax) for g in computed.groups] == [
        (Decimal(19), 1000, 190),
        (Decimal(7), 500, 35),
    ]


amounts = st.integers(-1_000_000, 10_000_000)
behaviors = st.sampled_from(["exclusive", "inclusive"])
charges = st.builds(
    lambda amount, behavior, category: a_charge(
        amount, tax_behavior=behavior, tax_category=category
    ),
    amounts,
    behaviors,
    st.sampled_from(["a", "b", "c"]),
)
discounts = st.one_of(
    st.builds(lambda percent: a_discount(percent=str(percent)), st.integers(1, 100)),
    st.builds(lambda off: a_discount(amount=off, currency="EUR"), st.integers(1, 1_000_000)),
)
bundles = st.lists(
    st.builds(
        lambda some, off: Bundle(tuple(some), tuple(off)),
        st.lists(charges, min_size=1, max_size=6),
        st.lists(discounts, max_size=2),
    ),
    min_size=1,
    max_size=3,
)
rates = st.tuples(*[st.sampled_from(RATES)] * 3)


def decide_by(chosen: tuple[str, ...]) -> dict[str, TaxDecision]:
    return {category: taxed_at(rate) for category, rate in zip("abc", chosen, strict=True)}


@given(bundles, rates)
def test_totals_add_up_as_en_16931_asks(some: list[Bundle], chosen: tuple[str, ...]) -> None:
    decisions = decide_by(chosen)

    computed = compute(some, currency="EUR", decide=decisions.__getitem__)

    lines, groups = computed.lines, computed.groups
    assert sum(line.subtotal for line in lines) == computed.subtotal  # BR-CO-10
    assert sum(line.subtotal - line.net for line in lines) == computed.discount  # BR-CO-11
    # BR-CO-12: there are no charges on the level of the document.
    assert computed.subtotal - computed.discount == computed.net  # BR-CO-13
    assert sum(group.tax for group in groups) == computed.tax  # BR-CO-14
    assert computed.net + computed.tax == computed.total  # BR-CO-15
    assert computed.total >= 0
    for group in groups:
        mine = [line for line in lines if line.decision.rate == group.rate]
        mine = [line for line in mine if line.decision.code is group.code]
        assert sum(line.net for line in mine) == group.taxable
        exact = Fraction(group.taxable) * Fraction(group.rate) / 100
        if all(line.inclusive for line in mine):
            # The gross that was promised stands; see the property below.
            assert abs(group.tax - exact) < Fraction(3, 2)
        else:
            assert abs(group.tax - exact) <= Fraction(1, 2)  # BR-CO-17


@given(st.integers(0, 10_000_000), st.sampled_from(RATES))
def test_the_tax_in_an_inclusive_price_fits_its_net_wherever_any_does(
    gross: int, rate: str
) -> None:
    computed = totals(a_bundle(gross, tax_behavior="inclusive"), rate=rate)

    assert computed.total == gross

    def tax_on(net: int) -> int:
        return int(Fraction(net) * Fraction(rate) / 100 + Fraction(1, 2))

    fitting = [net for net in range(computed.net - 2, computed.net + 3) if net >= 0]
    if any(net + tax_on(net) == gross for net in fitting):
        assert tax_on(computed.net) == computed.tax  # BR-CO-17, exactly


@given(st.lists(amounts, min_size=1, max_size=8), behaviors, st.sampled_from(RATES))
def test_what_is_charged_and_given_back_at_once_comes_to_nothing(
    some: list[int], behavior: str, rate: str
) -> None:
    both = [*some, *(-amount for amount in some)]

    computed = totals(a_bundle(*both, tax_behavior=behavior), rate=rate)

    assert (computed.net, computed.tax, computed.total, computed.carried_over) == (0, 0, 0, 0)


@given(bundles, rates)
def test_no_discount_turns_a_charge_into_a_credit(
    some: list[Bundle], chosen: tuple[str, ...]
) -> None:
    computed = compute(some, currency="EUR", decide=decide_by(chosen).__getitem__)

    for line in computed.lines:
        assert line.amount * line.discounted >= 0
        assert abs(line.discount) <= abs(line.amount)


def test_without_tax_the_group_says_why() -> None:
    reverse = TaxDecision(
        code=TaxCode.REVERSE_CHARGE,
        rate=Decimal(0),
        country="AT",
        why="Reverse charge: business in AT.",
        exemption_code="VATEX-EU-AE",
        exemption_reason="Reverse charge",
    )

    computed = compute([a_bundle(1000)], currency="EUR", decide=lambda _category: reverse)

    group = computed.groups[0].as_json()
    assert (group["category"], group["tax"], group["exemption_code"]) == ("AE", 0, "VATEX-EU-AE")
