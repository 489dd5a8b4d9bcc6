"""Invoice a purchase of tokens at once, and give the money back when it is taken back."""

from services.invoicing.domain.credit_note import Settle
from services.invoicing.domain.invoice import Invoice
from services.invoicing.domain.totals import Bundle
from services.invoicing.repository import InvoicingUnitOfWork
from services.invoicing.use_cases.bill_subscription import AccountNotYetKnown
from services.invoicing.use_cases.finalize_invoice import fill_invoice, finalize_computed
from services.invoicing.use_cases.issue_credit_note import NewCreditNote, issue_credit_note
from shared.events.subscriptions import TokensOrdered, TokensRefunded
from shared.ids import new_id


class OrderNotYetBilled(Exception):
    """The order's invoice is still on its way here: try again in a moment."""


def order_key(event: TokensOrdered | TokensRefunded) -> str:
    """An order is billed once."""
    return f"token_order:{event.order_id}"


async def bill_token_order(uow: InvoicingUnitOfWork, event: TokensOrdered) -> None:
    """What was ordered is owed at once; the tokens come when it is paid."""
    key = order_key(event)
    if await uow.invoices.find_billed(key):
        return
    account = await uow.accounts.find(event.account_id)
    if account is None:
        raise AccountNotYetKnown(str(event.account_id))
    entity = await uow.legal_entities.of(account)
    invoice = Invoice(
        id=new_id(),
        account_id=event.account_id,
        legal_entity_id=entity.id,
        subscription_id=None,
        billing_reason="manual",
        billing_key=key,
        currency=event.currency,
        created_at=event.occurred_at,
        supplied_at=event.occurred_at,
        payment_method_id=event.payment_method_id,
    )
    bundles = [Bundle(event.charges, (), None)]
    filled = await fill_invoice(uow, invoice, bundles, account=account, entity=entity)
    uow.invoices.add(invoice)
    await finalize_computed(uow, invoice, entity=entity, filled=filled, at=event.occurred_at)


async def refund_token_order(uow: InvoicingUnitOfWork, event: TokensRefunded) -> None:
    """Nothing of it was used: all that was paid goes back the way it came."""
    invoice_id = await uow.invoices.find_billed(order_key(event))
    if invoice_id is None:
        raise OrderNotYetBilled(str(event.order_id))
    invoice = await uow.invoices.get(invoice_id)
    if invoice.amount_creditable:
        new = NewCreditNote(
            invoice_id=invoice.id, reason="Unused tokens taken back", settle=Settle.REFUND
        )
        await issue_credit_note(uow, new, at=event.occurred_at)
