"""What a subscription has used and not been billed for."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from services.subscriptions.domain.charges import Terms, UsageOf
from services.subscriptions.domain.period import BillingPeriod, whole_second
from services.subscriptions.domain.price import Price
from services.subscriptions.domain.subscription import (
    NO_USAGE,
    RUNNING,
    Subscription,
    Usage,
)
from services.subscriptions.domain.usage import LONGEST_GRACE
from services.subscriptions.repository import SubscriptionsUnitOfWork
from shared.events.subscriptions import Discount

#: For what came at the very end of the longest grace.
ONE_DAY = timedelta(days=1)


async def gather_usage(
    uow: SubscriptionsUnitOfWork, subscription: Subscription, terms: Terms, *, until: datetime
) -> Usage:
    """Usage of each metered item up to `until`, and what changed of windows billed before.

    Those are windows of whatever was held then: the item may have changed or gone since.
    """
    metered = [item for item in subscription.items if terms.price(item).is_metered]
    runs = subscription.status in RUNNING
    if not (metered and runs) and subscription.usage_due_at is None:
        return NO_USAGE
    found: list[UsageOf] = []
    until = min(whole_second(until), subscription.period_end)
    since = min(until, subscription.period_start) - LONGEST_GRACE - ONE_DAY
    billed = await uow.usage.billed_windows(subscription.id, since=since)
    then = await _terms_then(uow, subscription, terms, billed)
    for row in billed:
        price, window = then.price(row), BillingPeriod(row.window_start, row.window_end)
        used = await _used(uow, subscription, price, window)
        if used != row.used:
            charge_ids, discounts = await _billed_by(uow, row)
            found.append(
                UsageOf(
                    row.item_id,
                    price,
                    then.name(row),
                    window,
                    used,
                    unit=then.units.get(price.id, ""),
                    billed=row.billed,
                    late=True,
                    billed_by=charge_ids,
                    discounts=discounts,
                )
            )
    for item in metered if runs else ():
        start = item.metered_from or subscription.period_start
        if start < until:
            price, window = terms.price(item), BillingPeriod(start, until)
            found.append(
                UsageOf(
                    item.id,
                    price,
                    terms.name(item),
                    window,
                    await _used(uow, subscription, price, window),
                    unit=terms.units.get(price.id, ""),
                    discounts=subscription.percentages_off(price.id),
                )
            )
    return tuple(found)


async def _billed_by(
    uow: SubscriptionsUnitOfWork, row: Any
) -> tuple[tuple[UUID, ...], tuple[Discount, ...]]:
    """The charges of a window, and the percentages off."""
    if row.charge_ids or not row.billed:
        return row.charge_ids, row.discounts
    of_before = await uow.usage.billed_before(row.subscription_id)
    found = of_before.get((row.price_id, row.window_start, row.window_end))
    return (found.charge_ids, found.discounts) if found else ((), ())


async def _terms_then(
    uow: SubscriptionsUnitOfWork, subscription: Subscription, terms: Terms, billed: Sequence[Any]
) -> Terms:
    """The prices by which windows were billed, which nobody may hold any more."""
    missing = {row.price_id for row in billed} - terms.prices.keys()
    if not missing:
        return terms
    return await uow.catalog.terms_of(subscription, besides=missing)


async def _used(
    uow: SubscriptionsUnitOfWork, subscription: Subscription, price: Price, window: BillingPeriod
) -> Decimal:
    if price.meter_id is None or price.aggregation is None:
        return Decimal(0)
    return await uow.usage.used(subscription.id, price.meter_id, window, price.aggregation)


def billed_now(subscription: Subscription, usage: Usage, *, since: datetime) -> Usage:
    """What an act billed of gathered usage. `since`: when the period began that ran before it.

    All of it where a period was opened or the subscription runs no more; within a period that of
    what is not held any more, for the rest is billed when the period ends.
    """
    if subscription.period_start != since or subscription.status not in RUNNING:
        return usage
    held = {item.id for item in subscription.items}
    return tuple(part for part in usage if part.item_id not in held)


async def mark_billed(
    uow: SubscriptionsUnitOfWork, subscription: Subscription, usage: Usage
) -> None:
    """Remember what was billed of each window, so that late usage is billed as the difference."""
    await uow.usage.mark_billed(
        [
            {
                "subscription_id": subscription.id,
                "item_id": part.item_id,
                "window_start": part.window.start,
                "window_end": part.window.end,
                "price_id": part.price.id,
                "used": part.used,
                "billed": part.owed,
                "charge_ids": part.charges_after,
                "discounts": part.discounts,
            }
            for part in usage
        ]
    )
