"""Finalize a draft whose time to be looked at is over."""

from services.invoicing.domain.invoice import Invoice
from services.invoicing.repository import InvoicingUnitOfWork
from services.invoicing.use_cases.draft_invoice import finalize_draft


async def finalize_due_draft(uow: InvoicingUnitOfWork, invoice: Invoice) -> None:
    """As of the moment at which it was due: a late run gives what an on-time run would have."""
    if invoice.finalizes_at is not None:
        await finalize_draft(uow, invoice, at=invoice.finalizes_at)
