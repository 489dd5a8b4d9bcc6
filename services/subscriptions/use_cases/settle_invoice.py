"""What becomes of a subscription when its invoices are paid, not paid, or given up."""

from datetime import datetime
from uuid import UUID

from services.subscriptions.domain.charges import Terms
from services.subscriptions.domain.period import counted_until
from services.subscriptions.domain.standing import InvoiceState, Standing
from services.subscriptions.domain.subscription import FINAL, RUNNING, Act, Status, Subscription
from services.subscriptions.repository import SubscriptionsUnitOfWork
from services.subscriptions.use_cases.advance_subscriptions import do_act
from services.subscriptions.use_cases.bill import bill
from services.subscriptions.use_cases.cancel_subscription import cancel_now, close_subscription
from services.subscriptions.use_cases.change_subscription import apply_pending_change
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

#: What money can bring back, or bring about.
COMES_BACK = frozenset(Status) - {Status.TRIALING, Status.ACTIVE}

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
    news again or in another order ends in the same state (the rule is in `domain/standing.py`).
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
        events = await follow_standing(uow, subscription, now=news.occurred_at)
        if isinstance(news, InvoicePaid) and news.change_id is not None:
            events += await apply_pending_change(
                uow, subscription, news.change_id, now=news.occurred_at
            )
        await bill(uow, events)


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
            if isinstance(news, InvoicePaid):
                state.note_settled(news.occurred_at, paid=True)
        case InvoiceVoided():
            state.note_settled(news.occurred_at, voided=True)
        case InvoiceMarkedUncollectible():
            state.note_settled(news.occurred_at)
        case DunningStarted():
            state.dunning = True
        case DunningExhausted():
            state.note_exhausted(news.then, news.occurred_at)


async def follow_standing(
    uow: SubscriptionsUnitOfWork, subscription: Subscription, *, now: datetime
) -> list[SubscriptionEvent]:
    """Bring the subscription to where its invoices and its account's state put it."""
    standing = Standing.of(await uow.subscriptions.invoice_states(subscription.id))
    events = await _come_back(uow, subscription, standing, now=now)
    if events:
        account = await uow.accounts.find(subscription.account_id)
        if account is not None and account.closed:
            return [*events, *await close_subscription(uow, subscription, now=now)]
    if subscription.status in FINAL | {Status.INCOMPLETE}:
        return events
    if standing.verdict == "cancel":
        return [*events, *await _give_up(uow, subscription, standing, now=now)]
    if standing.owes and subscription.status is Status.ACTIVE:
        events.append(subscription.mark_past_due(now=now))
    if standing.verdict is not None and subscription.status in RUNNING:
        events += await _give_up(uow, subscription, standing, now=now)
    return events


async def _come_back(  # noqa: PLR0911  (one way out per status)
    uow: SubscriptionsUnitOfWork, subscription: Subscription, standing: Standing, *, now: datetime
) -> list[SubscriptionEvent]:
    """Whatever its status was for want of money that is there."""
    if subscription.status not in COMES_BACK:
        return []
    terms = await uow.catalog.terms_of(subscription)
    match subscription.status:
        case Status.INCOMPLETE if standing.first_is_paid:
            return subscription.activate(terms, now=now)
        case Status.INCOMPLETE_EXPIRED if standing.first_is_paid:
            # Invoicing voids what an expired start owes; what is paid was paid before that.
            return [subscription.reinstate(terms, now=now)]
        case Status.CANCELED if subscription.lapsed_at and standing.verdict != "cancel":
            return [subscription.reinstate(terms, now=now)]
        case Status.PAST_DUE if not standing.owes:
            return subscription.activate(terms, now=now)
        case Status.UNPAID if standing.verdict is None:
            return await _wake(uow, subscription, standing, terms, now=now)
        case Status.PAUSED if subscription.lapsed_at and standing.verdict is None:
            return await _wake(uow, subscription, standing, terms, now=now)
    return []


async def _wake(
    uow: SubscriptionsUnitOfWork,
    subscription: Subscription,
    standing: Standing,
    terms: Terms,
    *,
    now: datetime,
) -> list[SubscriptionEvent]:
    upcoming = subscription.next_act()
    if upcoming is not None and upcoming[1] is Act.CANCEL and upcoming[0] <= now:
        # It was to end before the money came; the run that does what is due had not come to it.
        events, usage = await do_act(uow, subscription, Act.CANCEL, at=upcoming[0], now=now)
        await mark_billed(uow, subscription, usage)
        return events
    if standing.has_lapsed:
        return subscription.activate(terms, now=now)
    return [subscription.reinstate(terms, now=now)]


async def _give_up(
    uow: SubscriptionsUnitOfWork, subscription: Subscription, standing: Standing, *, now: datetime
) -> list[SubscriptionEvent]:
    """Do what the plan's policy says when dunning has come to nothing."""
    since = standing.since or now
    now = max(now, since)
    if standing.verdict == "cancel":
        events: list[SubscriptionEvent] = []
        if subscription.status is Status.ACTIVE:
            events.append(subscription.mark_past_due(now=now))
        reason = "payment_not_received"
        ended, usage = await cancel_now(uow, subscription, now=now, reason=reason, lapsed_at=since)
        await mark_billed(uow, subscription, usage)
        return [*events, *ended]
    terms = await uow.catalog.terms_of(subscription)
    # What was taken until the news came was served, whenever dunning came to nothing.
    usage = await gather_usage(uow, subscription, terms, until=counted_until(now))
    if standing.verdict == "unpaid":
        given_up = subscription.mark_unpaid(terms, now=now, usage=usage)
    else:
        given_up = subscription.pause(terms, at=since, now=now, usage=usage, lapsed=True)
    await mark_billed(uow, subscription, usage)
    return given_up
