"""Dated exchange rates, and an amount in another currency."""

from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from uuid import UUID

from shared.errors import Conflict, Invalid
from shared.money import exponent, round_half_away


class ExchangeRateExists(Conflict):
    code = "exchange-rate-exists"


@dataclass(eq=False, kw_only=True)
class ExchangeRate:
    """One unit of `base` is `rate` units of `quote`, as published for a day."""

    id: UUID
    base: str
    quote: str
    rate: Decimal
    on: date
    source: str = "staff"

    def __post_init__(self) -> None:
        if self.rate <= 0:
            raise Invalid("An exchange rate is above zero.", field="rate")
        if self.base == self.quote:
            raise Invalid("An exchange rate is between two currencies.", field="quote")


def convert(amount: int, rate: Decimal, *, base: str, quote: str) -> int:
    """Minor units of `base` in minor units of `quote`, rounded half away from zero."""
    scale = exponent(quote) - exponent(base)
    return round_half_away((Decimal(amount) * rate).scaleb(scale))
