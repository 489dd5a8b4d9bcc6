"""Take back part of a finalized invoice, or all of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from services.invoicing.domain.credit_note import (
    CreditNote,
    Earlier,
    Settle,
    Taken,
    require_creditable,
    take_all,
    take_amount,
    take_lines,
)
from services.invoicing.domain.invoice import Invoice
from services.invoicing.repository import InvoicingUnitOfWork
from services.invoicing.use_cases.take_back import earlier_of, give_when_paid
from services.invoicing.use_cases.write_credit_note import write_credit_note


@dataclass(frozen=True, kw_only=True)
class NewCreditNote:
    """By line, by amount (with tax), or, with neither, all that is left."""

    invoice_id: UUID
    reason: str
    settle: Settle
    lines: Mapping[UUID, int] | None = None
    amount: int | None = None


async def issue_credit_note(
    uow: InvoicingUnitOfWork, new: NewCreditNote, *, at: datetime
) -> CreditNote:
    """Under the invoice's lock, so that no two together take more than is owed or was paid."""
    invoice = await uow.invoices.get(new.invoice_id)
    taken = _take(invoice, await earlier_of(uow, invoice), new)
    require_creditable(invoice, taken)
    note = await write_credit_note(uow, invoice, taken, reason=new.reason, settle=new.settle, at=at)
    await give_when_paid(uow, invoice, at=at)
    return note


def _take(invoice: Invoice, earlier: Earlier, new: NewCreditNote) -> Taken:
    if new.lines is not None:
        return take_lines(invoice, earlier, new.lines)
    if new.amount is not None:
        return take_amount(invoice, earlier, new.amount)
    return take_all(invoice, earlier)
