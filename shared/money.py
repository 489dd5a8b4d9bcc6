"""Exact money: whole minor units and a currency, never a float."""

from collections.abc import Iterable, Sequence
from decimal import ROUND_HALF_UP, Decimal
from fractions import Fraction
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, Self

import iso4217
from pydantic import AfterValidator, BaseModel, ConfigDict, StrictInt

from shared.errors import Invalid


@cache
def exponent(currency: str) -> int:
    """How many decimal digits a currency has: EUR 2, JPY 0, KWD 3 (ISO 4217).

    Raises `Invalid` for a code that is not an active currency with minor units.
    """
    try:
        found = iso4217.Currency(currency).exponent
    except ValueError:
        raise Invalid(f"{currency!r} is not an ISO 4217 currency.", field="currency") from None
    if found is None:
        raise Invalid(f"{currency} cannot be charged: it has no minor unit.", field="currency")
    return int(found)


def _known(currency: str) -> str:
    try:
        exponent(currency)
    except Invalid as refusal:
        raise ValueError(str(refusal)) from refusal
    return currency


#: An upper-case ISO 4217 code, checked.
Currency = Annotated[str, AfterValidator(_known)]


class Money(BaseModel):
    """An amount of minor units in one currency. Adding two currencies is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    amount: StrictInt
    currency: Currency

    if TYPE_CHECKING:

        def __init__(self, amount: int, currency: str) -> None: ...

    else:

        def __init__(self, *amount_and_currency: Any, **named: Any) -> None:
            # What comes from outside arrives here too, whatever it holds or lacks.
            given = dict(zip(("amount", "currency"), amount_and_currency, strict=False))
            super().__init__(**given, **named)

    @classmethod
    def zero(cls, currency: str) -> Self:
        return cls(0, currency)

    @classmethod
    def sum(cls, parts: Iterable["Money"], currency: str) -> "Money":
        total = Money.zero(currency)
        for part in parts:
            total += part
        return total

    def __add__(self, other: "Money") -> "Money":
        return Money(self.amount + self._same(other), self.currency)

    def __sub__(self, other: "Money") -> "Money":
        return Money(self.amount - self._same(other), self.currency)

    def __neg__(self) -> "Money":
        return Money(-self.amount, self.currency)

    def __str__(self) -> str:
        digits = exponent(self.currency)
        return f"{Decimal(self.amount).scaleb(-digits):.{digits}f} {self.currency}"

    def _same(self, other: "Money") -> int:
        if other.currency != self.currency:
            raise ValueError(f"{self.currency} and {other.currency} cannot be added")
        return other.amount


#: The largest amount that may enter, in minor units: sums of thousands of such fit the database.
LARGEST_AMOUNT = 10**15


class AmountTooLarge(Invalid):
    """The amount is larger than any that can be billed."""

    code = "amount-too-large"


def require_billable(amount: Fraction | Decimal | int, *, field: str) -> None:
    """Refuse an amount in minor units above `LARGEST_AMOUNT`, where it enters."""
    if not -LARGEST_AMOUNT <= amount <= LARGEST_AMOUNT:
        raise AmountTooLarge(f"An amount is at most {LARGEST_AMOUNT} minor units.", field=field)


def round_half_away(amount: Decimal) -> int:
    """To the nearest whole minor unit, halves away from zero: 0.5 → 1, -0.5 → -1."""
    return int(amount.quantize(Decimal(1), rounding=ROUND_HALF_UP))


def allocate(total: int, weights: Sequence[int]) -> list[int]:
    """Split `total` by `weights` without losing a unit (largest remainder, ties by order).

    `allocate(100, [1, 1, 1]) == [34, 33, 33]`. Weights are not negative and not all zero.
    """
    whole = sum(weights)
    if whole <= 0 or min(weights) < 0:
        raise ValueError("weights must be non-negative and not all zero")
    sign = -1 if total < 0 else 1
    shares = [divmod(abs(total) * weight, whole) for weight in weights]
    parts = [share for share, _ in shares]
    left = abs(total) - sum(parts)
    by_remainder = sorted(range(len(shares)), key=lambda i: -shares[i][1])
    for i in by_remainder[:left]:
        parts[i] += 1
    return [sign * part for part in parts]
