"""What a subscription has used and not been billed for."""

from collections import defaultdict
from datetime import datetime, timedelta
from decimal import Decimal
from uuid import UUID

from services.subscriptions.domain.charges import Item, Terms
from services.subscriptions.domain.period import BillingPeriod, whole_second
from services.subscriptions.domain.proration import round_exact
from services.subscriptions.domain.subscription import (
    NO_USAGE,
    RUNNING,
    Subscription,
    Usage,
    UsageOf,
)
from services.subscriptions.repository import SubscriptionsUnitOfWork

#: No meter's grace is longer.
LONGEST_GRACE = timedelta(days=31)


async def gather_usage(
    uow: SubscriptionsUnitOfWork, subscription: Subscription, terms: Terms, *, until: datetime
) -> Usage:
    """Usage of each metered item up to `until`, and what came late for windows billed before."""
    metered = [item for item in subscription.items if terms.price(item).is_metered]
    if not metered or subscription.status not in RUNNING:
        return NO_USAGE
    until = min(whole_second(until), subscription.period_end)
    found: dict[UUID, list[UsageOf]] = defaultdict(list)
    known = {item.id: item for item in metered}
    since = subscription.period_start - LONGEST_GRACE
    for row in await uow.usage.billed_windows(subscription.id, since=since):
        item = known.get(row.item_id)
        if item is not None and item.price_id == row.price_id:
            window = BillingPeriod(row.window_start, row.window_end)
            used = await _used(uow, subscription, terms, item, window)
            if used.used != row.used:
                found[item.id].append(UsageOf(window, used.used, row.billed, late=True))
    for item in metered:
        start = item.metered_from or subscription.period_start
        if start < until:
            window = BillingPeriod(start, until)
            found[item.id].append(await _used(uow, subscription, terms, item, window))
    return {item_id: tuple(parts) for item_id, parts in found.items()}


async def _used(
    uow: SubscriptionsUnitOfWork,
    subscription: Subscription,
    terms: Terms,
    item: Item,
    window: BillingPeriod,
) -> UsageOf:
    price = terms.price(item)
    if price.meter_id is None or price.aggregation is None:
        return UsageOf(window, Decimal(0))
    used = await uow.usage.used(subscription.id, price.meter_id, window, price.aggregation)
    return UsageOf(window, used)


async def mark_billed(
    uow: SubscriptionsUnitOfWork,
    subscription: Subscription,
    items: tuple[Item, ...],
    terms: Terms,
    usage: Usage,
) -> None:
    """Remember what was billed of each window, so that late usage is billed as the difference."""
    by_id = {item.id: item for item in items}
    await uow.usage.mark_billed(
        [
            {
                "subscription_id": subscription.id,
                "item_id": item_id,
                "window_start": part.window.start,
                "window_end": part.window.end,
                "price_id": by_id[item_id].price_id,
                "used": part.used,
                "billed": round_exact(terms.price(by_id[item_id]).quote(part.used).amount),
            }
            for item_id, parts in usage.items()
            for part in parts
        ]
    )
