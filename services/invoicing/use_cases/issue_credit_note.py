"""Take back part of a finalized invoice, or all of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from services.invoicing.domain.account import CreditKind
from services.invoicing.domain.credit_note import (
    CreditNote,
    Earlier,
    Settle,
    Taken,
    credit,
    require_creditable,
    take_all,
    take_amount,
    take_lines,
)
from services.invoicing.domain.document import Subject
from services.invoicing.domain.invoice import Invoice, zone_of
from services.invoicing.domain.numbering import CREDIT_NOTES
from services.invoicing.repository import InvoicingUnitOfWork


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
    """Under the invoice's lock, so that no two together take more than was paid."""
    invoice = await uow.invoices.get(new.invoice_id)
    taken = _take(invoice, Earlier.of(await uow.credit_notes.list_of(invoice.id)), new)
    require_creditable(invoice, taken)
    day = at.astimezone(zone_of(invoice.seller))
    [number] = await uow.take_numbers(invoice.legal_entity_id, CREDIT_NOTES, [day])
    note = credit(
        invoice,
        taken,
        number=number,
        reason=new.reason,
        settle=new.settle,
        by_provider=await uow.receipts.by_provider(invoice.id),
        at=at,
    )
    uow.credit_notes.add(note)
    uow.emit(note.issue(at=at))
    uow.documents.want(note.id, note.account_id, Subject.CREDIT_NOTE)
    uow.wake("render_documents")
    if note.credit:
        await uow.credits.add(
            note.account_id,
            note.currency,
            note.credit,
            CreditKind.CREDIT_NOTE,
            at=at,
            invoice_id=invoice.id,
            note=note.number,
        )
    return note


def _take(invoice: Invoice, earlier: Earlier, new: NewCreditNote) -> Taken:
    if new.lines is not None:
        return take_lines(invoice, earlier, new.lines)
    if new.amount is not None:
        return take_amount(invoice, earlier, new.amount)
    return take_all(invoice, earlier)
