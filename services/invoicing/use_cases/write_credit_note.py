"""Write a credit note over what is taken back of an invoice, and do what it says."""

from collections.abc import Mapping
from datetime import datetime
from uuid import UUID

from services.invoicing.domain.account import CreditKind
from services.invoicing.domain.credit_note import (
    CreditNote,
    Settle,
    Taken,
    credit,
)
from services.invoicing.domain.document import Subject
from services.invoicing.domain.invoice import Invoice, zone_of
from services.invoicing.domain.numbering import CREDIT_NOTES
from services.invoicing.repository import InvoicingUnitOfWork
from shared.events.subscriptions import TakeBack


async def write_credit_note(
    uow: InvoicingUnitOfWork,
    invoice: Invoice,
    taken: Taken,
    *,
    reason: str,
    settle: Settle,
    at: datetime,
    take_backs: Mapping[UUID, TakeBack] | None = None,
) -> CreditNote:
    """Under the invoice's lock, so that no two together take more than there is.

    What was not paid is not owed any more; the rest goes back, or to the account's credit.
    """
    day = at.astimezone(zone_of(invoice.seller))
    [number] = await uow.take_numbers(invoice.legal_entity_id, CREDIT_NOTES, [day])
    note = credit(
        invoice,
        taken,
        number=number,
        reason=reason,
        settle=settle,
        by_provider=await uow.receipts.by_provider(invoice.id) if settle is Settle.REFUND else 0,
        at=at,
    )
    for line, (of_invoice, _) in zip(note.lines, taken.lines, strict=True):
        if take_backs and of_invoice.id in take_backs:
            line.describe(take_backs[of_invoice.id], of_invoice, invoice=note.invoice_number)
    uow.credit_notes.add(note)
    uow.emit(note.issue(at=at))
    if note.reduction:
        uow.emit(invoice.reduce(note.reduction, at=at))
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
