"""Take an invoice back before it is paid."""

from datetime import datetime
from uuid import UUID

from services.invoicing.domain.account import CreditKind
from services.invoicing.domain.invoice import Invoice
from services.invoicing.repository import InvoicingUnitOfWork


async def void_invoice(uow: InvoicingUnitOfWork, invoice_id: UUID, *, at: datetime) -> Invoice:
    """Void it; the credit and the money that it had goes back to the account as credit."""
    invoice = await uow.invoices.get(invoice_id)
    uow.emit(invoice.void(at=at))
    returned = invoice.credit_applied + invoice.amount_paid
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
