"""Compute a subscription's next invoice with the code that will make it."""

from datetime import datetime
from uuid import UUID
from zoneinfo import ZoneInfo

from services.invoicing.domain.account import AccountNotFound
from services.invoicing.domain.invoice import Invoice
from services.invoicing.domain.upcoming import NothingUpcoming
from services.invoicing.repository import InvoicingUnitOfWork
from services.invoicing.use_cases.finalize_invoice import fill_invoice
from shared.ids import new_id


async def preview_upcoming(
    uow: InvoicingUnitOfWork, subscription_id: UUID, *, at: datetime
) -> Invoice:
    """A draft that is stored nowhere, with what waits for the next invoice and credit applied.

    With consolidated billing it has what the account's other subscriptions renew on that day.
    """
    upcoming = await uow.upcoming.find(subscription_id)
    if upcoming is None or upcoming.ended:
        raise NothingUpcoming("This subscription has no next invoice.")
    account = await uow.accounts.find(upcoming.account_id)
    if account is None:
        raise AccountNotFound("There is no such account.")
    together = [upcoming]
    if account.consolidated_billing:
        zone = ZoneInfo(account.time_zone)
        of_account = await uow.upcoming.list_of(account.account_id)
        together = [other for other in of_account if upcoming.is_billed_with(other, zone)]
    bundles = []
    for one in together:
        waiting = await uow.pending.waiting(one.id, one.currency)
        bundles += [pending.bundle for pending in waiting]
        bundles.append(one.bundle())
    if not any(bundle.charges for bundle in bundles):
        raise NothingUpcoming("Nothing of the next invoice is known yet.")
    alone = len(together) == 1
    entity = await uow.legal_entities.of(account)
    invoice = Invoice(
        id=new_id(),
        account_id=upcoming.account_id,
        legal_entity_id=entity.id,
        subscription_id=subscription_id if alone else None,
        subscription_ids=[] if alone else [one.id for one in together],
        billing_reason="subscription_cycle",
        billing_key=None,
        currency=upcoming.currency,
        created_at=at,
        supplied_at=min(one.period_end for one in together),
        finalizes_at=upcoming.period_end,
    )
    await fill_invoice(uow, invoice, bundles, account=account, entity=entity)
    credit = await uow.credits.find(account.account_id, invoice.currency)
    if credit is not None:
        invoice.credit_applied = min(credit.balance, invoice.total)
    return invoice
