"""Dated exchange rates, and an amount in another currency."""

from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from uuid import UUID

from shared.errors import Conflict, Invalid
from shared.ids import new_id
from shared.money import exponent, round_half_away

EURO = "EUR"


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


def across(of_base: ExchangeRate, of_quote: ExchangeRate) -> ExchangeRate:
    """The rate between two currencies from what one euro is in each; of the older day."""
    rate = (of_quote.rate / of_base.rate).quantize(Decimal("1.000000000000"))
    return ExchangeRate(
        id=new_id(),
        base=of_base.quote,
        quote=of_quote.quote,
        rate=rate,
        on=min(of_base.on, of_quote.on),
        source=f"{of_quote.source}, by way of EUR",
    )
