"""Negative lines of releases before take-backs, and which lines had billed what they gave back.

Such a line has an amount and names nothing. What it gave back was billed by a line of the same
price, quantity and end, on the same invoice or on an earlier one. There it pays a part of what its
own invoice charges, which came to less for it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from uuid import UUID

from services.invoicing.domain.invoice import Invoice, InvoiceLine
from services.invoicing.domain.totals import CARRIED_OVER, TAKEN_BACK, round_fraction

#: What that release gave a rest of back.
COVERING = ("recurring", "addon", "proration_charge")
#: By which kinds of lines.
UNNAMED = (TAKEN_BACK, "usage")


@dataclass(frozen=True)
class Origin:
    """A negative line, and the line of an earlier invoice that billed what it gave back."""

    credit: InvoiceLine
    billed: InvoiceLine

    @property
    def gross(self) -> int:
        """What it gave back, with the tax that it bore."""
        credit = self.credit
        if credit.tax_behavior == "inclusive":
            return credit.discount - credit.amount
        return -credit.net - round_fraction(credit.net * Fraction(credit.tax_rate) / 100)


def is_unnamed(line: InvoiceLine) -> bool:
    """Whether it gives something back and does not say of what."""
    return line.takes_back is None and line.amount < 0 and line.kind in UNNAMED


def gives_back_unnamed(invoice: Invoice) -> bool:
    """Whether an invoice came to less than what it charges, for lines of earlier ones."""
    beside = taken_beside(invoice)
    return any(is_unnamed(line) and line.id not in beside for line in invoice.lines)


def carried_over(invoice: Invoice) -> int:
    """What of it the account has in credit since."""
    return sum(line.amount for line in invoice.lines if line.kind == CARRIED_OVER)


def taken_beside(invoice: Invoice) -> dict[UUID, UUID]:
    """By negative line, the line of the same invoice that it takes back."""
    own = {line.id for line in invoice.lines}
    beside = {line.id: line.takes_back for line in invoice.lines if line.takes_back in own}
    used: set[UUID] = set()
    for credit in invoice.lines:
        if not is_unnamed(credit):
            continue
        above = [line for line in invoice.lines if line.position < credit.position]
        billed = billed_by(credit, above[::-1], used)
        if billed is not None:
            beside[credit.id] = billed.id
            used.add(billed.id)
    return {credit: billed for credit, billed in beside.items() if billed is not None}


def billed_by(
    credit: InvoiceLine, newest_first: Sequence[InvoiceLine], used: Iterable[UUID]
) -> InvoiceLine | None:
    """The line that billed what this one gave back; one that was found before is another's."""
    return next(
        (line for line in newest_first if line.id not in used and _is_of(credit, line)), None
    )


def _is_of(credit: InvoiceLine, line: InvoiceLine) -> bool:
    same = line.kind == "usage" and line.period_start == credit.period_start
    if credit.kind != "usage":
        same = line.kind in COVERING and line.period_start <= credit.period_start
        same = same and line.why.get("quantity") == credit.why.get("quantity")
    return (
        same
        and line.amount > 0
        and credit.price_id is not None
        and (line.price_id, line.subscription_id) == (credit.price_id, credit.subscription_id)
        and line.period_end == credit.period_end
    )
