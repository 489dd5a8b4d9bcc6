"""Why a line is what it is, as arithmetic: read in every language."""

from collections.abc import Callable, Sequence
from decimal import Decimal
from fractions import Fraction
from math import floor
from typing import Any, Protocol

TIMES, DASH = "\u00d7", "\u2013"
#: What the columns of the line say already.
PLAIN = {"flat", "per unit", "quantity times unit amount, rounded half away from zero"}


class Writer(Protocol):
    """Writes numbers and amounts as the reader's language does."""

    minus: str

    def number(self, value: str) -> str: ...
    def price(self, minor: str) -> str: ...
    def money(self, minor: int) -> str: ...


def formulas(why: dict[str, Any], write: Writer, *, summed: bool = False) -> list[str]:
    """The computation of a line, as far as quantity times price does not say it.

    Nor what its terms say, where it is `summed` from them.

    `5 x 7.00 + 5 x 6.50 + 4 x 6.00 = 91.50` for tiers, `-20.00 x 14/31 = -9.03` for a part of a
    period, and what each coupon took off.
    """
    made = []
    steps = why.get("steps") or []
    if why.get("taken_back"):
        made += _taken_back(why["taken_back"], write)
    elif steps and not _plain(steps) and not summed:
        made.append(_formula(steps, write))
    elif not steps and why.get("rule") not in {None, *PLAIN}:
        made.append(str(why["rule"]))
    made += [
        f"{discount['code']}: {write.money(-discount['share'])}"
        for discount in why.get("discounts") or []
        if discount["share"]
    ]
    return made


def terms(parts: Sequence[dict[str, Any]], write: Writer) -> list[str]:
    """The terms of a line's sum, one below the other: `[0-5] 5 x 7.00 = 35.00`."""
    return [_sub_line(part, write) for part in parts]


def _sub_line(part: dict[str, Any], write: Writer) -> str:
    product = f"{write.number(part['quantity'])} {TIMES} {write.price(part['unit_amount'])}"
    flat = part["flat_amount"]
    whole = f"{product} + {write.price(flat)}" if Decimal(flat) else product
    # Tiers are told by their bounds; other names are in no reader's language.
    tier = part["description"].replace("-", DASH)
    named = f"[{tier}] {whole}" if part["description"][:1].isdigit() else whole
    return f"{named} = {write.price(part['amount'])}"


def _taken_back(taken: dict[str, Any], write: Writer) -> list[str]:
    """`-10.00 x 1/3 = -3.33`; what went back before is taken off."""
    share, whole, amount = Fraction(taken["fraction"]), taken["whole"], taken["amount"]
    before = floor(whole * share + Fraction(1, 2)) - abs(amount)
    if share == 1 and not before:
        return []
    formula = write.money(whole)
    if share != 1:
        formula = f"{formula} {TIMES} {taken['fraction']}"
    if before > 1:  # of a price with its tax in it, the net is rounded by itself
        formula = f"{formula} {write.minus} {write.money(before)}"
    if amount < 0:
        formula = f"{write.minus}({formula})" if before > 1 else f"{write.minus}{formula}"
    return [f"{formula} = {write.money(amount)}"]


def _plain(steps: Sequence[dict[str, Any]]) -> bool:
    return all(step["rule"] in {*PLAIN, "rounding"} for step in steps)


def _formula(steps: Sequence[dict[str, Any]], write: Writer) -> str:
    terms = [term for step in steps if (term := _term(step, write))]
    whole = " + ".join(terms)
    result = ""
    for step in steps:
        match step["rule"]:
            case "remaining seconds / seconds of the period":
                whole = f"({whole})" if len(terms) > 1 else whole
                whole = f"{whole} {TIMES} {step['fraction']}"
            case "rounding":
                rounded = int(step["rounded"])
                if rounded < 0:
                    whole = f"{write.minus}({whole})" if len(terms) > 1 else f"{write.minus}{whole}"
                result = f" = {write.money(rounded)}"
            case "less what was billed before":
                result = f"{result} {write.minus} {write.money(int(step['billed']))}"
    return whole + result


def _term(step: dict[str, Any], write: Writer) -> str | None:
    found = TERMS.get(step["rule"])
    return found(step, write) if found else None


def _tier(step: dict[str, Any], write: Writer) -> str:
    tier = str(step["tier"]).replace("-", DASH)
    term = f"[{tier}] {write.number(step['units'])} {TIMES} {write.price(step['unit_amount'])}"
    flat = step["flat_amount"]
    return f"{term} + {write.price(flat)}" if Decimal(flat) else term


def _packages(step: dict[str, Any], write: Writer) -> str:
    size = write.number(str(step["package_size"]))
    return (
        f"{step['packages']} {TIMES} {write.price(step['unit_amount'])}"
        f" ({write.number(step['units'])} / {size})"
    )


TERMS: dict[str, Callable[[dict[str, Any], Writer], str]] = {
    "flat": lambda step, write: write.price(step["amount"]),
    "per unit": lambda step, write: (
        f"{write.number(step['units'])} {TIMES} {write.price(step['unit_amount'])}"
    ),
    "a started package counts": _packages,
    "free units": lambda step, write: f"{write.number(step['units'])} {TIMES} {write.money(0)}",
    "graduated": _tier,
    "volume": _tier,
}
