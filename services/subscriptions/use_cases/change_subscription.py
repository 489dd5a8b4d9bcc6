"""Hold another price, quantity or other add-ons."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from services.subscriptions.domain.charges import Item
from services.subscriptions.domain.subscription import Proration, Subscription
from services.subscriptions.repository import SubscriptionsUnitOfWork
from services.subscriptions.use_cases.bill import bill
from services.subscriptions.use_cases.choose_items import AddonChoice, choose_items
from services.subscriptions.use_cases.gather_usage import gather_usage, mark_billed
from shared.events.subscriptions import SubscriptionChanged, SubscriptionEvent


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What should be different; None leaves it as it is."""

    price_id: UUID | None = None
    quantity: int | None = None
    addons: Sequence[AddonChoice] | None = None
    proration: Proration | None = None

    @property
    def is_empty(self) -> bool:
        return self.price_id is None and self.quantity is None and self.addons is None


async def change_subscription(
    uow: SubscriptionsUnitOfWork, subscription: Subscription, wish: Wish, *, now: datetime
) -> Subscription:
    """Change it, at once or at the period's end."""
    before = {"price_id": str(subscription.price_id), "quantity": subscription.quantity}
    event = await decide_change(uow, subscription, wish, now=now, remember=True)
    await bill(uow, [event])
    after = {"price_id": str(subscription.price_id), "quantity": subscription.quantity}
    uow.audit("subscription.change", subscription.id, before=before, after=after)
    return subscription


async def withdraw_change(
    uow: SubscriptionsUnitOfWork, subscription: Subscription, *, now: datetime
) -> Subscription:
    """Take back a change that waits for the period's end."""
    await bill(uow, [subscription.withdraw_change(at=now)])
    uow.audit("subscription.withdraw_change", subscription.id)
    return subscription


async def decide_change(
    uow: SubscriptionsUnitOfWork,
    subscription: Subscription,
    wish: Wish,
    *,
    now: datetime,
    remember: bool = False,
) -> SubscriptionEvent:
    """Change it. `remember`: also what of its usage is billed by that."""
    items = await choose_items(
        uow,
        subscription.account_id,
        price_id=wish.price_id or subscription.price_id,
        quantity=wish.quantity or subscription.quantity,
        addons=wish.addons if wish.addons is not None else _kept(subscription.items),
        held=subscription.items,
    )
    price = await uow.catalog.price(items[0].price_id)
    plan = await uow.catalog.plan(price.plan_id or subscription.plan_id)
    if plan.id != subscription.plan_id:
        plan.require_published()
    everything, zone = (*items, *subscription.items), subscription.time_zone
    old_terms = await uow.catalog.terms(subscription.plan_id, everything, time_zone=zone)
    usage = await gather_usage(uow, subscription, old_terms, until=now)
    before = subscription.items
    event = subscription.change(
        old_terms,
        await uow.catalog.terms(plan.id, everything, time_zone=zone),
        items,
        at=now,
        proration=wish.proration,
        usage=usage,
    )
    if remember and isinstance(event, SubscriptionChanged):
        kept = {item.id for item in subscription.items if item in before}
        billed = {item_id: parts for item_id, parts in usage.items() if item_id not in kept}
        await mark_billed(uow, subscription, before, old_terms, billed)
    return event


def _kept(items: Sequence[Item]) -> list[AddonChoice]:
    return [
        AddonChoice(price_id=item.price_id, quantity=item.quantity)
        for item in items
        if item.addon_id is not None
    ]
