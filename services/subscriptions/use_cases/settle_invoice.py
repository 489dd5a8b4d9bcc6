"""What becomes of a subscription when its invoices are paid, not paid, or given up."""

from datetime import datetime
from uuid import UUID

from services.subscriptions.domain.account import InvoiceState
from services.subscriptions.domain.subscription import FINAL, RUNNING, Status, Subscription
from services.subscriptions.repository import SubscriptionsUnitOfWork
from services.subscriptions.use_cases.bill import bill
from services.subscriptions.use_cases.cancel_subscription import cancel_now
from services.subscriptions.use_cases.gather_usage import gather_usage, mark_billed
from shared.events.invoicing import (
    InvoiceEvent,
    InvoiceFinalized,
    InvoiceMarkedUncollectible,
    InvoicePaid,
    InvoiceVoided,
)
from shared.events.payments import DunningExhausted, DunningStarted
from shared.events.subscriptions import SubscriptionEvent

InvoiceNews = (
    InvoiceFinalized
    | InvoicePaid
    | InvoiceVoided
    | InvoiceMarkedUncollectible
    | DunningStarted
    | DunningExhausted
)


async def settle_invoice(uow: SubscriptionsUnitOfWork, news: InvoiceNews) -> None:
    """Note how far an invoice has come, and let each subscription that it bills follow.

    What is noted only grows, and the subscriptions follow from all that is noted: the same
    news again or in another order ends in the same state.
    """
    told = _told(news)
    billed = told or await uow.subscriptions.billed_by(news.invoice_id)
    # Locked in one order, whoever else settles an invoice of theirs.
    found = [await uow.subscriptions.find(one) for one in sorted(billed)]
    subscriptions = [subscription for subscription in found if subscription is not None]
    if told and not subscriptions:
        return  # none of ours: an invoice that staff wrote by hand
    state = await uow.subscriptions.invoice_state(news.invoice_id)
    if state is None:
        state = InvoiceState(invoice_id=news.invoice_id, account_id=news.account_id)
        uow.subscriptions.add_invoice_state(state)
    _note(state, news)
    for subscription in subscriptions:
        if isinstance(news, InvoiceFinalized) and (
            subscription.latest_invoice_id is None
            or subscription.latest_invoice_id < news.invoice_id
        ):
            subscription.latest_invoice_id = news.invoice_id
        await bill(uow, await _follow(uow, subscription, now=news.occurred_at))


def _told(news: InvoiceNews) -> list[UUID]:
    """Whom the invoice bills, where the news says so: dunning of several does not."""
    if isinstance(news, InvoiceEvent):
        return list(news.subscriptions)
    return [news.subscription_id] if news.subscription_id else []


def _note(state: InvoiceState, news: InvoiceNews) -> None:
    state.subscription_id = news.subscription_id
    if isinstance(news, InvoiceEvent):
        state.subscription_ids = list(news.subscription_ids)
    match news:
        case InvoiceFinalized() | InvoicePaid():
            state.is_first = state.is_first or news.billing_reason == "subscription_start"
            state.paid = state.paid or isinstance(news, InvoicePaid)
        case InvoiceVoided():
            state.dropped = True
        case InvoiceMarkedUncollectible():
            state.dropped = True
        case DunningStarted():
            state.dunning = True
        case DunningExhausted():
            state.exhausted = news.then


async def _follow(
    uow: SubscriptionsUnitOfWork, subscription: Subscription, *, now: datetime
) -> list[SubscriptionEvent]:
    if subscription.status in FINAL:
        return []
    invoices = await uow.subscriptions.invoice_states(subscription.id)
    overdue = [invoice for invoice in invoices if invoice.is_overdue]
    terms = await uow.catalog.terms_of(subscription)
    if subscription.status is Status.INCOMPLETE:
        paid = any(invoice.is_first and invoice.paid for invoice in invoices)
        return subscription.activate(terms, now=now) if paid else []
    if not overdue:
        if subscription.status in {Status.PAST_DUE, Status.UNPAID}:
            return subscription.activate(terms, now=now)
        return []
    events: list[SubscriptionEvent] = []
    if subscription.status is Status.ACTIVE:
        events.append(subscription.mark_past_due(now=now))
    policy = next((invoice.exhausted for invoice in overdue if invoice.exhausted), None)
    if policy is None or subscription.status not in RUNNING:
        return events
    match policy:
        case "cancel":
            events.append(
                await cancel_now(
                    uow, subscription, now=now, credit=False, reason="payment_not_received"
                )
            )
        case "unpaid":
            events.append(subscription.mark_unpaid(now=now))
        case _:
            usage = await gather_usage(uow, subscription, terms, until=now)
            items = subscription.items
            events += subscription.pause(terms, at=now, now=now, usage=usage)
            await mark_billed(uow, subscription, items, terms, usage)
    return events
