"""Take back what was billed for what never began: a subscription, or a change of one."""

from datetime import datetime

from services.invoicing.domain.credit_note import Settle, Split, take_all
from services.invoicing.domain.invoice import Invoice, Status
from services.invoicing.domain.take_back import Return
from services.invoicing.repository import InvoicingUnitOfWork
from services.invoicing.use_cases.bill_subscription import pending_change_key
from services.invoicing.use_cases.take_back import earlier_of, write_return
from services.invoicing.use_cases.void_invoice import let_be, void_invoice
from shared.events.subscriptions import SubscriptionChangeLapsed, SubscriptionEvent


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
        await _refund(uow, invoice, reason="Canceled before it began", at=at)


async def take_back_change(uow: InvoicingUnitOfWork, event: SubscriptionChangeLapsed) -> None:
    """The change will not happen: its invoice is not owed, and its money goes back."""
    invoice_id = await uow.invoices.find_billed(pending_change_key(event))
    if invoice_id is None:
        return
    await uow.settle_invoices(event.account_id)
    invoice, others = await uow.invoices.with_those_it_takes_from(invoice_id)
    # Reduced to nothing it would count as paid, and what is held after all be given back.
    invoice.basis = []
    if invoice.status is Status.OPEN:
        await void_invoice(uow, invoice.id, at=event.occurred_at)
    elif invoice.status in (Status.PAID, Status.UNCOLLECTIBLE):
        let_be(invoice, others)
        await _refund(uow, invoice, reason="The change did not happen", at=event.occurred_at)


async def _refund(uow: InvoicingUnitOfWork, invoice: Invoice, *, reason: str, at: datetime) -> None:
    """All that is left of a paid invoice; what a bank holds waits until that is decided."""
    taken = take_all(invoice, await earlier_of(uow, invoice))
    if taken.total <= 0:
        return
    one = Return(
        invoice=invoice,
        taken=taken,
        split=Split.of(invoice, taken.total),
        take_backs={},
        settle=Settle.REFUND,
        because=reason,
    )
    await write_return(uow, one, at=at)
