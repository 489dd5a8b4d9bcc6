"""Count what goes back of an invoice's money: refunds, and what a payer's bank took."""

from services.invoicing.repository import InvoicingUnitOfWork
from shared.events.payments import DisputeEvent, RefundEvent
from shared.observability import logger

log = logger(__name__)


async def count_returned(uow: InvoicingUnitOfWork, event: RefundEvent | DisputeEvent) -> None:
    """The invoice's amounts follow from all of its refunds and disputes, whatever came first."""
    invoice = await uow.invoices.get(event.invoice_id)
    await uow.returns.take_in(event)
    invoice.note_returns(await uow.returns.of_invoice(invoice.id))
    if invoice.amount_overreturned:
        log.error(
            "More was given back than was paid",
            invoice_id=str(invoice.id),
            amount=invoice.amount_overreturned,
        )
