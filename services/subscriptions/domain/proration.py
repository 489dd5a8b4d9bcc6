"""The part of a price that falls on part of a period: an exact fraction, rounded once per line."""

from dataclasses import dataclass
from datetime import datetime
from fractions import Fraction
from typing import Any

from services.subscriptions.domain.period import BillingPeriod, whole_second


def round_exact(amount: Fraction) -> int:
    """To the nearest whole minor unit, halves away from zero."""
    numerator, denominator = amount.numerator, amount.denominator
    whole = (2 * abs(numerator) + denominator) // (2 * denominator)
    return -whole if numerator < 0 else whole


@dataclass(frozen=True, slots=True)
class Factor:
    """Remaining seconds over seconds of the whole period."""

    remaining: int
    whole: int

    @classmethod
    def of_rest(cls, period: BillingPeriod, at: datetime) -> "Factor":
        """What is left of the period at `at`: one at its start, zero at its end."""
        at = min(max(whole_second(at), period.start), period.end)
        return cls(int((period.end - at).total_seconds()), period.seconds)

    @property
    def exact(self) -> Fraction:
        return Fraction(self.remaining, self.whole)

    @property
    def is_whole(self) -> bool:
        return self.remaining == self.whole

    def why(self) -> dict[str, Any]:
        return {
            "remaining_seconds": self.remaining,
            "period_seconds": self.whole,
            "fraction": str(self.exact),
        }


def prorated(amount: Fraction, factor: Factor) -> int:
    return round_exact(amount * factor.exact)
