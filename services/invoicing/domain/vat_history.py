"""VAT rates of the EU that changed since 2020, and by what: the seed's source knows today's only.

A country and category that is not here has had one rate in all that time. Rates of other
categories than these differ by what is sold: staff put those on file that they need.
"""

from dataclasses import dataclass
from datetime import date
from decimal import Decimal

#: Before any supply that is billed here.
EARLIEST = date(2020, 1, 1)


@dataclass(frozen=True)
class DatedRate:
    """A rate in percent from one day up to another, the last excluded."""

    rate: Decimal
    valid_from: date
    valid_to: date | None
    source: str


#: (country, category) → the changes: from which day, which rate, by which act.
CHANGES: dict[tuple[str, str], list[tuple[date, str, str]]] = {
    ("DE", "standard"): [
        (EARLIEST, "19", "UStG § 12 (1)"),
        (date(2020, 7, 1), "16", "Zweites Corona-Steuerhilfegesetz of 29 June 2020"),
        (date(2021, 1, 1), "19", "UStG § 12 (1)"),
    ],
    ("DE", "reduced"): [
        (EARLIEST, "7", "UStG § 12 (2)"),
        (date(2020, 7, 1), "5", "Zweites Corona-Steuerhilfegesetz of 29 June 2020"),
        (date(2021, 1, 1), "7", "UStG § 12 (2)"),
    ],
    ("EE", "standard"): [
        (EARLIEST, "20", "Value-Added Tax Act § 15"),
        (date(2024, 1, 1), "22", "Act amending the Value-Added Tax Act, 2023"),
        (date(2025, 7, 1), "24", "Security Tax Act, 2024"),
    ],
    ("FI", "standard"): [
        (EARLIEST, "24", "Value Added Tax Act § 84"),
        (date(2024, 9, 1), "25.5", "Act amending the Value Added Tax Act, 2024"),
    ],
    ("IE", "standard"): [
        (EARLIEST, "23", "Value-Added Tax Consolidation Act 2010, s. 46"),
        (date(2020, 9, 1), "21", "Financial Provisions (Covid-19) (No. 2) Act 2020"),
        (date(2021, 3, 1), "23", "Value-Added Tax Consolidation Act 2010, s. 46"),
    ],
    ("LU", "standard"): [
        (EARLIEST, "17", "VAT Act, art. 39"),
        (date(2023, 1, 1), "16", "Law of 26 October 2022"),
        (date(2024, 1, 1), "17", "VAT Act, art. 39"),
    ],
    ("RO", "standard"): [
        (EARLIEST, "19", "Fiscal Code, art. 291"),
        (date(2025, 8, 1), "21", "Law 141/2025"),
    ],
    # Before, 9 and 5 percent: which of them was by what is sold.
    ("RO", "reduced"): [(date(2025, 8, 1), "11", "Law 141/2025")],
    ("SK", "standard"): [
        (EARLIEST, "20", "Act 222/2004 § 27"),
        (date(2025, 1, 1), "23", "Act 278/2024"),
    ],
}


def history(
    country: str, category: str, *, today: Decimal, known_on: date, source: str
) -> list[DatedRate]:
    """All rates since 2020, the last of them `today`'s, as `source` gave it on `known_on`.

    Where the source knows of a change that is not written here yet, it counts from the day on
    which the source was made: what was before is not rewritten.
    """
    changes = CHANGES.get((country, category), [(EARLIEST, str(today), source)])
    if Decimal(changes[-1][1]) != today:
        changes = [*changes, (known_on, str(today), source)]
    ends = [begin for begin, _, _ in changes[1:]]
    return [
        DatedRate(Decimal(rate), begin, end, act)
        for (begin, rate, act), end in zip(changes, [*ends, None], strict=True)
    ]
