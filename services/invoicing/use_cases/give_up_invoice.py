"""Expect the money of an invoice no more."""

from datetime import datetime
from uuid import UUID

from services.invoicing.domain.invoice import Invoice
from services.invoicing.repository import InvoicingUnitOfWork


async def give_up_invoice(uow: InvoicingUnitOfWork, invoice_id: UUID, *, at: datetime) -> Invoice:
    """Mark it uncollectible; money that comes later still counts."""
    invoice = await uow.invoices.get(invoice_id)
    uow.emit(invoice.give_up(at=at))
    return invoice
