"""Take back what was billed for a subscription that never began."""

from services.invoicing.domain.credit_note import Settle
from services.invoicing.domain.invoice import Status
from services.invoicing.repository import InvoicingUnitOfWork
from services.invoicing.use_cases.issue_credit_note import NewCreditNote, issue_credit_note
from services.invoicing.use_cases.void_invoice import void_invoice
from shared.events.subscriptions import SubscriptionEvent


async def take_back_start(
    uow: InvoicingUnitOfWork, event: SubscriptionEvent, *, refund: bool
) -> None:
    """Void what is open. With `refund`, what was paid a moment before goes back as it came."""
    at = event.occurred_at
    for invoice in await uow.invoices.list_of(event.subscription_id, Status.OPEN):
        await void_invoice(uow, invoice.id, at=at)
    if not refund:
        return
    for invoice in await uow.invoices.list_of(event.subscription_id, Status.PAID):
        if invoice.total:
            new = NewCreditNote(
                invoice_id=invoice.id,
                reason="Canceled before it began",
                settle=Settle.REFUND,
            )
            await issue_credit_note(uow, new, at=at)
