"""Put what a subscription owes on the account's consolidated draft of the day."""

from collections.abc import Sequence
from datetime import datetime

from services.invoicing.domain.gathering import Gathering
from services.invoicing.domain.invoice import Invoice
from services.invoicing.domain.supply import supplied_at
from services.invoicing.domain.totals import Bundle
from services.invoicing.repository import InvoicingUnitOfWork
from services.invoicing.use_cases.draft_invoice import refill_draft
from shared.events.subscriptions import Billable
from shared.ids import new_id


async def gather_charges(
    uow: InvoicingUnitOfWork, event: Billable, bundles: Sequence[Bundle], *, gathering: Gathering
) -> Invoice:
    """The draft with these charges on it; a new one where there is none, or none any more.

    What comes after the draft of its day was finalized is invoiced by itself, as late as it is.
    """
    # Under the account's lock, so that two subscriptions at once find the same draft.
    await uow.accounts.get(gathering.account_id)
    invoice = await uow.invoices.find_gathering(gathering.key)
    if invoice is None:
        invoice = Invoice(
            id=new_id(),
            account_id=gathering.account_id,
            legal_entity_id=gathering.legal_entity_id,
            subscription_id=None,
            billing_reason="subscription_cycle",
            billing_key=None,
            gathering_key=gathering.key,
            currency=gathering.currency,
            created_at=event.occurred_at,
            supplied_at=supplied_at(event),
            payment_method_id=event.payment_method_id,
            dunning=event.dunning.model_dump(mode="json"),
            finalizes_at=gathering.closes_at,
        )
        uow.invoices.add(invoice)
    invoice.gather(
        bundles, event.subscription_id, supplied_at=supplied_at(event), at=event.occurred_at
    )
    uow.fill_later(invoice, lambda: _fill(uow, invoice, at=event.occurred_at))
    return invoice


async def _fill(uow: InvoicingUnitOfWork, invoice: Invoice, *, at: datetime) -> None:
    await refill_draft(uow, invoice)
    uow.emit(invoice.draft(at=at))
