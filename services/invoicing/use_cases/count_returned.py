"""Count what goes back of an invoice's money: refunds, and what a payer's bank took."""

from services.invoicing.repository import InvoicingUnitOfWork
from services.invoicing.use_cases.take_back import give_withheld
from shared.events.payments import DisputeEvent, RefundEvent
from shared.observability import logger

log = logger(__name__)


async def count_returned(uow: InvoicingUnitOfWork, event: RefundEvent | DisputeEvent) -> None:
    """The invoice's amounts follow from all of its refunds and disputes, whatever came first."""
    invoice = await uow.invoices.get(event.invoice_id)
    await uow.returns.take_in(event)
    held = invoice.amount_disputed
    invoice.note_returns(await uow.returns.of_invoice(invoice.id))
    if invoice.withheld and invoice.amount_disputed < held:
        await give_withheld(uow, invoice, at=event.occurred_at)
    if invoice.amount_overreturned:
        log.error(
            "More was given back than was paid",
            invoice_id=str(invoice.id),
            amount=invoice.amount_overreturned,
        )
