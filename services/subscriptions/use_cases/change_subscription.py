"""Hold another price, quantity or other add-ons."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from services.subscriptions.domain.agenda import Change
from services.subscriptions.domain.period import counted_until
from services.subscriptions.domain.subscription import (
    RUNNING,
    ChangeOrder,
    PaymentBehavior,
    Proration,
    Subscription,
    Usage,
)
from services.subscriptions.repository import SubscriptionsUnitOfWork
from services.subscriptions.use_cases.bill import bill
from services.subscriptions.use_cases.choose_items import (
    AddonChoice,
    check_amounts,
    choose_change,
)
from services.subscriptions.use_cases.gather_usage import billed_now, gather_usage, mark_billed
from services.subscriptions.use_cases.who_may_ask import Asker
from shared.events.subscriptions import SubscriptionEvent


@dataclass(frozen=True, kw_only=True)
class RequestedChange:
    """What should be different; None leaves it as it is."""

    asker: Asker
    price_id: UUID | None = None
    quantity: int | None = None
    addons: Sequence[AddonChoice] | None = None
    proration: Proration | None = None
    effective_at: datetime | None = None
    payment: PaymentBehavior = PaymentBehavior.AT_ONCE

    @property
    def is_empty(self) -> bool:
        return self.price_id is None and self.quantity is None and self.addons is None


async def change_subscription(
    uow: SubscriptionsUnitOfWork,
    subscription: Subscription,
    request: RequestedChange,
    *,
    now: datetime,
) -> Subscription:
    """Change it: at once, at the period's end, at a date, or once it is paid."""
    before = _holds(subscription)
    events, usage = await decide_change(uow, subscription, request, now=now)
    await mark_billed(uow, subscription, usage)
    await bill(uow, events)
    uow.audit("subscription.change", subscription.id, before=before, after=_holds(subscription))
    return subscription


async def withdraw_change(
    uow: SubscriptionsUnitOfWork, subscription: Subscription, *, now: datetime
) -> Subscription:
    """Take back a change that waits, for its time or for its payment."""
    terms = await uow.catalog.terms_of(subscription)
    await bill(uow, subscription.withdraw_change(terms, at=now))
    uow.audit("subscription.withdraw_change", subscription.id)
    return subscription


async def decide_change(
    uow: SubscriptionsUnitOfWork,
    subscription: Subscription,
    request: RequestedChange,
    *,
    now: datetime,
) -> tuple[list[SubscriptionEvent], Usage]:
    """Change it; with the usage that is billed by that."""
    asked = () if request.price_id is None else (request.price_id,)
    await uow.catalog.load([subscription], besides=asked)
    following = subscription.next_items
    held = (*subscription.items, *following)
    change = await choose_change(
        uow,
        subscription.account_id,
        price_id=request.price_id,
        quantity=request.quantity,
        addons=request.addons,
        held=held,
    )
    if change.plan_id not in {None, subscription.plan_id, subscription.held_at()[1]}:
        (await uow.catalog.plan(change.plan_id or subscription.plan_id)).require_published()
    terms = await uow.catalog.terms_of(subscription, besides=change.price_ids)
    await check_amounts(uow, change.apply(subscription.items), held)
    if following != subscription.items:
        await check_amounts(uow, change.apply(following), held)
    policy = await request.asker.policy(uow, subscription)
    proration = request.proration.value if request.proration else None
    policy.require_change(subscription.kinds_of(change, terms), proration)
    order = ChangeOrder(
        change,
        request.asker.name,
        request.proration,
        request.effective_at,
        request.payment,
    )
    return await apply_order(uow, subscription, order, now=now)


async def apply_order(
    uow: SubscriptionsUnitOfWork, subscription: Subscription, order: ChangeOrder, *, now: datetime
) -> tuple[list[SubscriptionEvent], Usage]:
    """Do what was found to be possible and allowed."""
    terms = await uow.catalog.terms_of(subscription, besides=order.change.price_ids)
    usage = await gather_usage(uow, subscription, terms, until=counted_until(now))
    started_at = subscription.period_start
    events = subscription.change(order, terms, at=now, usage=usage)
    return events, billed_now(subscription, usage, since=started_at)


async def apply_pending_change(
    uow: SubscriptionsUnitOfWork, subscription: Subscription, change_id: UUID, *, now: datetime
) -> list[SubscriptionEvent]:
    """The invoice for a change that waited for its payment is paid: now it counts."""
    pending = subscription.pending_change
    if pending is None or pending.id != change_id or subscription.status not in RUNNING:
        return []
    terms = await uow.catalog.terms_of(subscription)
    # What was used since it was asked for was used of what was still held.
    usage = await gather_usage(uow, subscription, terms, until=counted_until(now))
    started_at = subscription.period_start
    events = subscription.apply_pending(terms, now=now, usage=usage)
    await mark_billed(uow, subscription, billed_now(subscription, usage, since=started_at))
    return events


async def change_for_all(
    uow: SubscriptionsUnitOfWork, price_id: UUID, subscription: Subscription
) -> Change:
    """What moving a subscription to a price changes."""
    return await choose_change(
        uow,
        subscription.account_id,
        price_id=price_id,
        quantity=None,
        addons=None,
        held=(*subscription.items, *subscription.next_items),
    )


def _holds(subscription: Subscription) -> dict[str, object]:
    waits = subscription.scheduled_change
    return {
        "price_id": str(subscription.price_id),
        "quantity": subscription.quantity,
        "next_price_id": str(waits.items[0].price_id) if waits else None,
        "next_quantity": waits.items[0].quantity if waits else None,
    }
