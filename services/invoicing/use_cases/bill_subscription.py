"""Turn what a subscription says is owed into an invoice, once."""

from collections.abc import Sequence
from datetime import UTC, timedelta

from services.invoicing.domain.gathering import Gathering, gathers
from services.invoicing.domain.invoice import Invoice
from services.invoicing.domain.pending import PendingCharges
from services.invoicing.domain.supply import supplied_at
from services.invoicing.domain.totals import Bundle
from services.invoicing.repository import InvoicingUnitOfWork
from services.invoicing.use_cases.finalize_invoice import fill_invoice, finalize_computed
from services.invoicing.use_cases.gather_charges import gather_charges
from shared.events.invoicing import BillingReason
from shared.events.subscriptions import (
    Billable,
    SubscriptionCanceled,
    SubscriptionChanged,
    SubscriptionEvent,
    SubscriptionStarted,
)
from shared.ids import new_id


class AccountNotYetKnown(Exception):
    """The account's registration is still on its way here: try again in a moment."""


def reason_of(event: Billable) -> BillingReason:
    if isinstance(event, SubscriptionStarted):
        return "subscription_start"
    if isinstance(event, SubscriptionChanged):
        return "subscription_change"
    if isinstance(event, SubscriptionCanceled):
        return "subscription_cancel"
    return "subscription_cycle"


def billing_key(event: Billable) -> str:
    """A period is billed once; within it, each change is billed once."""
    start = event.period_start.astimezone(UTC).isoformat()
    key = f"{event.subscription_id}:{reason_of(event)}:{start}"
    return f"{key}:{event.sequence}" if isinstance(event, SubscriptionChanged) else key


async def prepare_billing(uow: InvoicingUnitOfWork, events: Sequence[SubscriptionEvent]) -> None:
    """Read and lock at once what billing all of these will need."""
    billable = [event for event in events if isinstance(event, Billable)]
    subscriptions = {event.subscription_id for event in billable}
    await uow.upcoming.hold(subscriptions)
    await uow.accounts.read({event.account_id for event in billable})
    await uow.accounts.hold_consolidated()
    await uow.pending.read(subscriptions)
    await uow.invoices.know_billed({billing_key(event) for event in billable if event.charges})
    await uow.credits.hold({(event.account_id, event.currency) for event in billable})


async def bill_subscription(uow: InvoicingUnitOfWork, event: Billable) -> Invoice | None:
    """The invoice (a draft where the entity wants it), or None: nothing owed, or billed before."""
    if isinstance(event, SubscriptionChanged) and not event.invoice_now:
        await _keep_for_later(uow, event)
        return None
    changed = isinstance(event, SubscriptionChanged)
    pending = [] if changed else await uow.pending.waiting(event.subscription_id, event.currency)
    if not event.charges and not (pending and isinstance(event, SubscriptionCanceled)):
        return None
    key = billing_key(event)
    if await uow.invoices.is_billed(key):
        return None
    account = await uow.accounts.find(event.account_id)
    if account is None:
        raise AccountNotYetKnown(str(event.account_id))
    entity = await uow.legal_entities.of(account)
    bundles = [waiting.bundle for waiting in pending]
    bundles.append(Bundle(event.charges, event.discounts, event.subscription_id))
    if gathers(event, account):
        invoice = await gather_charges(
            uow, event, bundles, gathering=Gathering.of(event, account, entity)
        )
        await uow.invoices.note_gathered(key, invoice)
        for waiting in pending:
            waiting.invoice_id = invoice.id
        return invoice
    invoice = Invoice(
        id=new_id(),
        account_id=event.account_id,
        legal_entity_id=entity.id,
        subscription_id=event.subscription_id,
        billing_reason=reason_of(event),
        billing_key=key,
        currency=event.currency,
        created_at=event.occurred_at,
        supplied_at=supplied_at(event),
        payment_method_id=event.payment_method_id,
        dunning=event.dunning.model_dump(mode="json"),
    )
    totals = await fill_invoice(uow, invoice, bundles, account=account, entity=entity)
    uow.invoices.add(invoice)
    for waiting in pending:
        waiting.invoice_id = invoice.id
    # A start is not looked at first: the subscription waits for its invoice to be paid.
    if entity.draft_hours and not isinstance(event, SubscriptionStarted):
        invoice.basis = [bundle.as_json() for bundle in bundles]
        invoice.finalizes_at = event.occurred_at + timedelta(hours=entity.draft_hours)
        uow.emit(invoice.draft(at=event.occurred_at))
        return invoice
    await finalize_computed(
        uow, invoice, entity=entity, carried_over=totals.carried_over, at=event.occurred_at
    )
    return invoice


async def _keep_for_later(uow: InvoicingUnitOfWork, event: Billable) -> None:
    if event.charges:
        await uow.pending.add(
            PendingCharges.of(
                account_id=event.account_id,
                subscription_id=event.subscription_id,
                currency=event.currency,
                charges=event.charges,
                discounts=event.discounts,
                at=event.occurred_at,
            )
        )
