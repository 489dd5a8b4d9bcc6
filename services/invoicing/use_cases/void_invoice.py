"""Take an invoice back before it is paid."""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from services.invoicing.domain.account import CreditKind
from services.invoicing.domain.invoice import Invoice
from services.invoicing.repository import InvoicingUnitOfWork


async def void_invoice(uow: InvoicingUnitOfWork, invoice_id: UUID, *, at: datetime) -> Invoice:
    """Void it; the credit and the money that it had goes back to the account as credit.

    What its negative lines took back of earlier invoices was not taken back after all.
    """
    invoice, others = await uow.invoices.with_those_it_takes_from(invoice_id)
    uow.emit(invoice.void(at=at))
    let_be(invoice, others)
    returned = invoice.amount_returned_by_void
    if returned:
        await uow.credits.add(
            invoice.account_id,
            invoice.currency,
            returned,
            CreditKind.RETURNED,
            at=at,
            invoice_id=invoice.id,
        )
    return invoice


def let_be(invoice: Invoice, others: Sequence[Invoice]) -> None:
    """Undo what the negative lines of an invoice took back of others."""
    if invoice.amount_given > invoice.credit_applied + invoice.amount_paid:
        return  # a part of what they took was given back with the lines that they paid
    whose = {line.id: other for other in others for line in other.lines}
    for line in invoice.lines:
        if line.takes_back in whose:
            whose[line.takes_back].amount_moved -= line.brought
    invoice.amount_brought = 0
