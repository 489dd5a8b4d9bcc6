"""Which tax a supply bears."""

from datetime import date
from decimal import Decimal

import pytest

from services.invoicing.domain.tax import (
    Buyer,
    RateOf,
    Seller,
    TableTaxEngine,
    TaxCode,
    TaxDecision,
    TaxRate,
)
from services.invoicing.domain.vat import VatNumberInvalid, check_vat_id
from shared.errors import Invalid
from shared.ids import new_id

GERMAN = Seller(country="DE", vat_id="DE136695976")


def rates(**known: str) -> RateOf:
    def rate_of(country: str, category: str) -> Decimal | None:
        rate = known.get(f"{country}_{category}")
        return Decimal(rate) if rate else None

    return rate_of


def decide(buyer: Buyer, seller: Seller = GERMAN, category: str = "standard") -> TaxDecision:
    rate_of = rates(DE_standard="19", DE_reduced="7", AT_standard="20", CH_special="8.1")
    return TableTaxEngine().decide(seller=seller, buyer=buyer, category=category, rate_of=rate_of)


@pytest.mark.parametrize(
    ("buyer", "code", "rate"),
    [
        (Buyer(country="DE"), TaxCode.STANDARD, "19"),
        (Buyer(country="DE", vat_id="DE136695976"), TaxCode.STANDARD, "19"),
        (Buyer(country="AT"), TaxCode.STANDARD, "20"),
        (Buyer(country="AT", vat_id="ATU13585627"), TaxCode.REVERSE_CHARGE, "0"),
        (Buyer(country="US"), TaxCode.EXPORT, "0"),
        (Buyer(country="FR"), TaxCode.EXEMPT, "0"),
        (Buyer(country="DE", exemption_reason="An embassy."), TaxCode.EXEMPT, "0"),
    ],
)
def test_the_place_of_supply_decides(buyer: Buyer, code: TaxCode, rate: str) -> None:
    decision = decide(buyer)

    assert (decision.code, decision.rate) == (code, Decimal(rate))
    assert decision.why


def test_each_category_has_its_rate() -> None:
    assert decide(Buyer(country="DE"), category="reduced").rate == Decimal(7)
    assert decide(Buyer(country="DE"), category="zero").code is TaxCode.ZERO
    assert decide(Buyer(country="DE"), category="exempt").code is TaxCode.EXEMPT


def test_a_small_business_charges_no_tax() -> None:
    decision = decide(Buyer(country="DE"), Seller(country="DE", small_business=True))

    assert decision.code is TaxCode.EXEMPT
    assert "small business" in decision.why


def test_no_rate_on_file_is_no_tax_with_the_reason_said() -> None:
    assert "on file for FR" in decide(Buyer(country="FR")).why


def test_a_rate_covers_its_first_day_and_not_its_last() -> None:
    rate = TaxRate(
        id=new_id(),
        country="DE",
        category="standard",
        rate=Decimal(16),
        valid_from=date(2020, 7, 1),
        valid_to=date(2021, 1, 1),
    )

    assert rate.covers(date(2020, 7, 1))
    assert not rate.covers(date(2021, 1, 1))


def test_a_rate_that_ends_before_it_begins_is_refused() -> None:
    with pytest.raises(Invalid):
        TaxRate(
            id=new_id(),
            country="DE",
            category="standard",
            rate=Decimal(16),
            valid_from=date(2020, 7, 1),
            valid_to=date(2020, 7, 1),
        )


def test_vat_numbers_are_checked_by_their_digits() -> None:
    assert check_vat_id("DE 136 695 976") == "DE136695976"
    assert check_vat_id("che-123.456.788") == "CHE123456788"
    for wrong in ("DE136695977", "12", "X"):
        with pytest.raises(VatNumberInvalid):
            check_vat_id(wrong)
