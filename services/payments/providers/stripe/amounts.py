"""Amounts as Stripe counts them: ISO minor units, but for its own odd currencies."""

from services.payments.providers.base import Limits
from shared.errors import Invalid
from shared.money import Money, exponent

#: Stripe counts these in whole units (its documentation; MGA has two digits in ISO 4217).
ZERO_DECIMAL = frozenset(
    "BIF CLP DJF GNF JPY KMF KRW MGA PYG RWF VND VUV XAF XOF XPF".split()  # noqa: SIM905
)
#: ISO 4217 gives these no minor unit; Stripe wants them in hundredths, ending in 00.
IN_HUNDREDTHS = frozenset(["ISK", "UGX"])
#: Three digits, of which the last must be 0.
THREE_DECIMAL = frozenset(["BHD", "JOD", "KWD", "OMR", "TND"])
LARGEST = 99_999_999
NOT_CHARGED_IN = frozenset(["XXX", "XTS", "XAU", "XAG"])


def limits_of(currency: str) -> Limits | None:
    """What one charge may amount to; None for what is no currency that anybody pays in."""
    try:
        exponent(currency)
    except Invalid:
        return None
    return None if currency in NOT_CHARGED_IN else Limits(minimum=1, maximum=LARGEST)


def to_stripe(money: Money) -> int:
    """ISO minor units as Stripe counts them. Raises ValueError for what it cannot take."""
    if money.currency in IN_HUNDREDTHS:
        return money.amount * 100
    if money.currency in ZERO_DECIMAL:
        unit: int = 10 ** exponent(money.currency)
        if money.amount % unit:
            raise ValueError(f"Stripe takes whole units of {money.currency}, not {money}.")
        return money.amount // unit
    if money.currency in THREE_DECIMAL and money.amount % 10:
        raise ValueError(f"Stripe takes {money.currency} in steps of 0.010, not {money}.")
    return money.amount


def from_stripe(amount: int, currency: str) -> Money:
    """What Stripe counts, in ISO minor units."""
    code = currency.upper()
    if code in IN_HUNDREDTHS:
        return Money(amount // 100, code)
    if code in ZERO_DECIMAL:
        return Money(amount * 10 ** exponent(code), code)
    return Money(amount, code)
