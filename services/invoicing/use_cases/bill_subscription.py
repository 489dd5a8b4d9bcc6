"""Turn what a subscription says is owed, and not owed any more, into documents, once."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, timedelta
from typing import Protocol
from uuid import UUID

from services.invoicing.domain.gathering import Gathering, gathers
from services.invoicing.domain.invoice import Invoice
from services.invoicing.domain.legal_entity import LegalEntity
from services.invoicing.domain.pending import PendingCharges
from services.invoicing.domain.supply import supplied_at
from services.invoicing.domain.totals import Bundle
from services.invoicing.repository import InvoicingUnitOfWork
from services.invoicing.use_cases.finalize_invoice import Filled, fill_invoice, finalize_computed
from services.invoicing.use_cases.gather_charges import gather_charges
from services.invoicing.use_cases.take_back import (
    find_lines,
    find_origins,
    take_back,
    take_back_at_last,
    wanted_of,
    with_origins,
)
from shared.events.invoicing import BillingReason
from shared.events.subscriptions import (
    Billable,
    SubscriptionCanceled,
    SubscriptionChanged,
    SubscriptionChangePending,
    SubscriptionEvent,
    SubscriptionStarted,
    SubscriptionUsageBilled,
    TakeBack,
)
from shared.ids import new_id

#: What waits for the next invoice is not taken in by these.
LEAVES_WAITING = SubscriptionChanged | SubscriptionChangePending | SubscriptionUsageBilled
#: Somebody waits for these to be paid: they are not looked at first.
PAID_FIRST = SubscriptionStarted | SubscriptionChangePending

REASONS: dict[type[Billable], BillingReason] = {
    SubscriptionStarted: "subscription_start",
    SubscriptionChanged: "subscription_change",
    SubscriptionChangePending: "subscription_pending_change",
    SubscriptionUsageBilled: "subscription_usage",
    SubscriptionCanceled: "subscription_cancel",
}


class AccountNotYetKnown(Exception):
    """The account's registration is still on its way here: try again in a moment."""


class ChangeOfSubscription(Protocol):
    """An event about a change that waits to be paid."""

    @property
    def subscription_id(self) -> UUID: ...
    @property
    def change_id(self) -> UUID: ...


def reason_of(event: Billable) -> BillingReason:
    return REASONS.get(type(event), "subscription_cycle")


def billing_key(event: Billable) -> str:
    """A period is billed once; within it, each change and each report of usage is billed once."""
    if isinstance(event, SubscriptionChangePending):
        return pending_change_key(event)
    start = event.period_start.astimezone(UTC).isoformat()
    key = f"{event.subscription_id}:{reason_of(event)}:{start}"
    of_many = isinstance(event, SubscriptionChanged | SubscriptionUsageBilled)
    return f"{key}:{event.sequence}" if of_many else key


def pending_change_key(event: ChangeOfSubscription) -> str:
    """A change that waits to be paid is billed once."""
    return f"{event.subscription_id}:subscription_pending_change:{event.change_id}"


async def prepare_billing(uow: InvoicingUnitOfWork, events: Sequence[SubscriptionEvent]) -> None:
    """Read and lock at once what billing all of these will need."""
    billable = [event for event in events if isinstance(event, Billable)]
    await uow.accounts.read({event.account_id for event in billable})
    await uow.accounts.hold_consolidated()
    await uow.pending.read({event.subscription_id for event in billable})
    await uow.invoices.know_billed({billing_key(event) for event in billable if event.charges})
    # Invoices before credit, as everywhere.
    bundles = [_bundle(event) for event in billable if event.take_backs]
    found = await find_lines(uow, wanted_of(bundles), quietly=True)
    await uow.invoices.hold(with_origins(found, await find_origins(uow, found)))
    await uow.credits.hold({(event.account_id, event.currency) for event in billable})


async def bill_subscription(uow: InvoicingUnitOfWork, event: Billable) -> Invoice | None:
    """The invoice (a draft where the entity wants it), or None: nothing owed, or billed before.

    What is taken back stands on the invoice where it fits, else on credit notes.
    """
    if isinstance(event, SubscriptionChanged) and not event.invoice_now:
        await _keep_for_later(uow, event)
        return None
    waiting = await uow.pending.waiting(event.subscription_id, event.currency)
    if isinstance(event, LEAVES_WAITING):
        if not isinstance(event, SubscriptionChangePending):
            event = _take_back_of_waiting(event, waiting)
        waiting = []
    if not event.charges and not event.take_backs and not waiting:
        return None
    key = billing_key(event)
    if await uow.invoices.is_billed(key):
        return None
    bundles = [*[one.bundle for one in waiting], _bundle(event)]
    if not any(bundle.charges for bundle in bundles):
        await take_back(uow, event.account_id, bundles, at=event.occurred_at)
        for one in waiting:
            await uow.pending.drop(one)
        return None
    invoice = await _bill(uow, event, key, bundles)
    for one in waiting:
        one.invoice_id = invoice.id
    return invoice


async def _bill(
    uow: InvoicingUnitOfWork, event: Billable, key: str, bundles: Sequence[Bundle]
) -> Invoice:
    account = await uow.accounts.find(event.account_id)
    if account is None:
        raise AccountNotYetKnown(str(event.account_id))
    entity = await uow.legal_entities.of(account)
    if gathers(event, account):
        gathering = Gathering.of(event, account, entity)
        invoice = await gather_charges(uow, event, bundles, gathering=gathering)
        await uow.invoices.note_gathered(key, invoice)
        return invoice
    at = event.occurred_at
    invoice = Invoice(
        id=new_id(),
        account_id=event.account_id,
        legal_entity_id=entity.id,
        subscription_id=event.subscription_id,
        billing_reason=reason_of(event),
        billing_key=key,
        currency=event.currency,
        created_at=at,
        supplied_at=supplied_at(event),
        payment_method_id=event.payment_method_id,
        dunning=event.dunning.model_dump(mode="json"),
    )
    is_draft = entity.draft_hours > 0 and not isinstance(event, PAID_FIRST)
    filled = await fill_invoice(
        uow,
        invoice,
        bundles,
        account=account,
        entity=entity,
        at=None if is_draft else at,
        may_lapse=isinstance(event, SubscriptionChangePending),
    )
    uow.invoices.add(invoice)
    if is_draft:
        invoice.basis = [bundle.as_json() for bundle in bundles]
        invoice.finalizes_at = at + timedelta(hours=entity.draft_hours)
        uow.emit(invoice.draft(at=at))
    elif isinstance(event, SubscriptionChangePending):
        await _finalize_pending_change(uow, invoice, bundles, entity=entity, filled=filled)
    else:
        await finalize_computed(uow, invoice, entity=entity, filled=filled, at=at)
    return invoice


async def _finalize_pending_change(
    uow: InvoicingUnitOfWork,
    invoice: Invoice,
    bundles: Sequence[Bundle],
    *,
    entity: LegalEntity,
    filled: Filled,
) -> None:
    """What is no negative line of it is taken back once it is paid: it may lapse."""
    here = {one for back in filled.as_lines for one in back.answers}
    if any(one.id not in here for bundle in bundles for one in bundle.take_backs):
        invoice.basis = [
            {**replace(bundle, charges=(), discounts=()).as_json(), "when_paid": True}
            for bundle in bundles
        ]
    alone, at = replace(filled, as_notes=()), invoice.created_at
    await finalize_computed(uow, invoice, entity=entity, filled=alone, at=at)
    if invoice.basis and not invoice.amount_due:
        invoice.basis = []
        await take_back_at_last(uow, invoice, bundles, at=at)


def _bundle(event: Billable) -> Bundle:
    return Bundle(
        event.charges,
        event.discounts,
        event.subscription_id,
        take_backs=event.take_backs,
        give_back=event.give_back,
    )


def _take_back_of_waiting(event: Billable, waiting: Sequence[PendingCharges]) -> Billable:
    """What is taken back of charges that wait is taken back where they wait."""
    rest: list[TakeBack] = [
        one for one in event.take_backs if not any(charges.take_back(one) for charges in waiting)
    ]
    return event.model_copy(update={"take_backs": tuple(rest)})


async def _keep_for_later(uow: InvoicingUnitOfWork, event: Billable) -> None:
    if event.charges or event.take_backs:
        await uow.pending.add(
            PendingCharges.of(
                account_id=event.account_id,
                subscription_id=event.subscription_id,
                currency=event.currency,
                charges=event.charges,
                discounts=event.discounts,
                take_backs=event.take_backs,
                give_back=event.give_back,
                at=event.occurred_at,
            )
        )
