"""The look of a document's number; the counting is the database's."""

from dataclasses import dataclass
from datetime import datetime
from string import Formatter
from uuid import UUID

from shared.errors import Conflict, Invalid

INVOICES = "invoice"
CREDIT_NOTES = "credit_note"

_FIELDS = {"year", "month", "seq", "series"}


class BadNumberPattern(Invalid):
    code = "bad-number-pattern"


class NumberSeriesNotFound(Conflict):
    code = "number-series-not-found"


@dataclass(eq=False, kw_only=True)
class NumberSeries:
    """One gapless count of one legal entity. `last` is the number that was given out last."""

    id: UUID
    legal_entity_id: UUID
    series: str
    pattern: str
    last: int = 0

    def __post_init__(self) -> None:
        check_pattern(self.pattern)


def check_pattern(pattern: str) -> None:
    """Refuse a pattern that cannot give every number a text of its own."""
    try:
        fields = {name for _, name, _, _ in Formatter().parse(pattern) if name is not None}
        sample = render(pattern, seq=1, on=datetime(2000, 1, 1), series="x")  # noqa: DTZ001
    except (ValueError, KeyError, IndexError, AttributeError, TypeError) as error:
        raise BadNumberPattern(
            f"The pattern {pattern!r} cannot be read: {error}.", field="number_pattern"
        ) from None
    if "seq" not in fields or fields - _FIELDS:
        raise BadNumberPattern(
            "A number pattern needs {seq} and may use {year}, {month} and {series}, "
            "for example INV-{year}-{seq:06}.",
            field="number_pattern",
        )
    if len(sample) > 60:  # noqa: PLR2004 - what banks and tax forms take
        raise BadNumberPattern("The pattern gives numbers that are too long.")


def render(pattern: str, *, seq: int, on: datetime, series: str) -> str:
    """`INV-{year}-{seq:06}` → `INV-2026-000001`."""
    return pattern.format(year=on.year, month=f"{on.month:02}", seq=seq, series=series)
