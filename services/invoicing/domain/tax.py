"""Which tax a supply bears: the place, the rate of its date, and the reasons for none."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from enum import StrEnum
from typing import Protocol
from uuid import UUID

from shared.errors import Conflict, Invalid

#: Member states, by ISO 3166 (Greece is GR here and EL in a VAT number).
EU = frozenset(
    {
        "AT",
        "BE",
        "BG",
        "CY",
        "CZ",
        "DE",
        "DK",
        "EE",
        "ES",
        "FI",
        "FR",
        "GR",
        "HR",
        "HU",
        "IE",
        "IT",
        "LT",
        "LU",
        "LV",
        "MT",
        "NL",
        "PL",
        "PT",
        "RO",
        "SE",
        "SI",
        "SK",
    }
)

ZERO = Decimal(0)


class TaxCode(StrEnum):
    """The VAT categories of EN 16931 (UNCL 5305) that a subscription business meets."""

    STANDARD = "S"  # any rate above zero
    ZERO = "Z"
    EXEMPT = "E"
    REVERSE_CHARGE = "AE"
    EXPORT = "G"


class TaxRateOverlaps(Conflict):
    code = "tax-rate-overlaps"


@dataclass(eq=False, kw_only=True)
class TaxRate:
    """What a country takes of a category, from one date to another (the last excluded)."""

    id: UUID
    country: str
    category: str
    rate: Decimal
    valid_from: date
    valid_to: date | None = None
    source: str = "staff"

    def __post_init__(self) -> None:
        if not ZERO <= self.rate < Decimal(100):
            raise Invalid("A tax rate lies between 0 and 100 percent.", field="rate")
        if self.valid_to is not None and self.valid_to <= self.valid_from:
            raise Invalid("A rate ends after the day on which it begins.", field="valid_to")

    def covers(self, day: date) -> bool:
        return self.valid_from <= day and (self.valid_to is None or day < self.valid_to)


@dataclass(frozen=True, kw_only=True)
class Seller:
    """What the tax rules ask about the operator's side."""

    country: str
    vat_id: str | None = None
    small_business: bool = False


@dataclass(frozen=True, kw_only=True)
class Buyer:
    """What the tax rules ask about the account's side. `vat_id` is given only when valid."""

    country: str
    vat_id: str | None = None
    exemption_reason: str | None = None


@dataclass(frozen=True, kw_only=True)
class TaxDecision:
    """Category and rate of one line, with the reason for a person and for the e-invoice."""

    code: TaxCode
    rate: Decimal
    country: str
    why: str
    exemption_code: str | None = None
    exemption_reason: str | None = None

    def __post_init__(self) -> None:
        taxed = self.code is TaxCode.STANDARD
        if taxed != (self.rate > ZERO):
            raise Invalid(f"Category {self.code} with a rate of {self.rate} % is no tax there is.")
        if not taxed and self.code is not TaxCode.ZERO and not self.exemption_reason:
            raise Invalid(f"Category {self.code} needs its reason on the document.")


#: The rate of (country, category) on the supply date, or None where no rate is on file.
RateOf = Callable[[str, str], Decimal | None]


class TaxEngine(Protocol):
    """Decides the tax of one category. Found by entry point `perennial.tax_engines`.

    Asked inside the transaction that computes an invoice: it answers from what it is given, and
    calls nobody.
    """

    def decide(
        self, *, seller: Seller, buyer: Buyer, category: str, rate_of: RateOf
    ) -> TaxDecision: ...


class TableTaxEngine:
    """The default: rates from the table, place of supply by the rules for digital services."""

    def decide(
        self, *, seller: Seller, buyer: Buyer, category: str, rate_of: RateOf
    ) -> TaxDecision:
        decision = _without_tax(seller, buyer, category)
        if decision is not None:
            return decision
        rate = rate_of(buyer.country, category)
        name, note = category, ""
        if rate is None:
            # A lower rate is an exception that somebody has to know of.
            rate = rate_of(buyer.country, "standard")
            name, note = "standard", f" No {category} rate is on file."
        if rate is None:
            return _without_rate(seller, buyer, category)
        return TaxDecision(
            code=TaxCode.STANDARD if rate else TaxCode.ZERO,
            rate=rate,
            country=buyer.country,
            why=f"{name.capitalize()} rate of {buyer.country}: {rate.normalize():f} %.{note}",
        )


def _without_tax(seller: Seller, buyer: Buyer, category: str) -> TaxDecision | None:
    """The rules that come before any rate."""
    if seller.small_business:
        return _exempt(seller.country, "The seller is a small business and charges no tax.")
    if buyer.exemption_reason:
        return _exempt(buyer.country, buyer.exemption_reason)
    if category == "exempt":
        return _exempt(buyer.country, "The supply is exempt from tax.")
    if category == "zero":
        return TaxDecision(
            code=TaxCode.ZERO, rate=ZERO, country=buyer.country, why="Zero-rated supply."
        )
    abroad = buyer.country != seller.country
    if abroad and buyer.vat_id and {seller.country, buyer.country} <= EU:
        return TaxDecision(
            code=TaxCode.REVERSE_CHARGE,
            rate=ZERO,
            country=buyer.country,
            why=f"Reverse charge: business in {buyer.country} with VAT number {buyer.vat_id}.",
            exemption_code="VATEX-EU-AE",
            exemption_reason="Reverse charge",
        )
    return None


def _without_rate(seller: Seller, buyer: Buyer, category: str) -> TaxDecision:
    """No rate is on file: no tax, and the reason said."""
    if buyer.country != seller.country and buyer.country not in EU:
        return TaxDecision(
            code=TaxCode.EXPORT,
            rate=ZERO,
            country=buyer.country,
            why=f"No tax: supply to {buyer.country}, for which no tax rate is on file.",
            exemption_code="VATEX-EU-G",
            exemption_reason="Export outside the EU",
        )
    return _exempt(buyer.country, f"No {category} tax rate is on file for {buyer.country}.")


def _exempt(country: str, reason: str) -> TaxDecision:
    return TaxDecision(
        code=TaxCode.EXEMPT, rate=ZERO, country=country, why=reason, exemption_reason=reason
    )
