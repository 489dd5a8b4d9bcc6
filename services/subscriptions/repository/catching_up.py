"""What an earlier release, which may still run, left behind: gathered anew when it is needed.

It keeps no list of what was billed and none of what waits, and its writes leave `kept_version`
where it was. The charges are in the timeline's events, the rest in its own columns. For a
subscription that this release wrote last there is nothing to do, and nothing is read.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from services.subscriptions import tables
from services.subscriptions.domain.charges import COVERING, BilledCharge
from services.subscriptions.domain.coupon import Coupon
from services.subscriptions.domain.subscription import Subscription

entries = tables.timeline.c

#: Events of an earlier release that billed time ahead.
BILLING = (
    "subscription.started",
    "subscription.trial_ended",
    "subscription.renewed",
    "subscription.changed",
    "subscription.resumed",
)


async def catch_up(session: AsyncSession, found: Sequence[Subscription]) -> Sequence[Subscription]:
    """Bring what is kept of these up to their version."""
    behind = [subscription for subscription in found if not subscription.is_caught_up]
    if not behind:
        return found
    billed = await _billed(session, behind)
    coupons = await _coupons(session, behind)
    for subscription in behind:
        subscription.catch_up(
            billed[subscription.id],
            [
                discount
                if discount.plan_ids is not None or discount.coupon_id not in coupons
                else replace(
                    discount,
                    plan_ids=coupons[discount.coupon_id].plan_ids,
                    price_ids=coupons[discount.coupon_id].price_ids,
                )
                for discount in subscription.discounts
            ],
        )
    return found


async def _coupons(session: AsyncSession, behind: Sequence[Subscription]) -> dict[UUID, Coupon]:
    """The coupons in use, for what they are for."""
    wanted = {discount.coupon_id for one in behind for discount in one.discounts}
    if not wanted:
        return {}
    found = await session.scalars(select(Coupon).where(tables.coupons.c.id.in_(wanted)))
    return {coupon.id: coupon for coupon in found}


async def _billed(
    session: AsyncSession, behind: Sequence[Subscription]
) -> dict[UUID, list[BilledCharge]]:
    """What the events of each billed for the running period, less what they gave back."""
    rows = await session.execute(
        select(entries.subscription_id, entries.data)
        .where(
            entries.subscription_id.in_([one.id for one in behind]),
            entries.name.in_(BILLING),
        )
        .order_by(entries.sequence)
    )
    billed: dict[UUID, list[BilledCharge]] = defaultdict(list)
    running = {one.id: one for one in behind}
    for subscription_id, data in rows:
        subscription, of_one = running[subscription_id], billed[subscription_id]
        for charge in data["charges"]:
            # What an earlier period billed that another rhythm cut short was let be.
            if datetime.fromisoformat(charge["period_start"]) >= subscription.period_start:
                _count(of_one, subscription, charge)
        for taken in data.get("take_backs", ()):
            _shorten(of_one, UUID(taken["charge_id"]), taken["starts_at"])
    return billed


def _shorten(billed: list[BilledCharge], charge_id: UUID, until: str) -> None:
    for index, one in enumerate(billed):
        if one.charge_id == charge_id:
            billed[index] = replace(one, covers_until=datetime.fromisoformat(until))


def _count(billed: list[BilledCharge], subscription: Subscription, charge: dict[str, Any]) -> None:
    starts_at = datetime.fromisoformat(charge["period_start"])
    price_id = UUID(charge["price_id"]) if charge["price_id"] else subscription.price_id
    quantity = int(charge["why"].get("quantity", 1))
    if charge["kind"] in COVERING and charge["amount"] >= 0:
        addon_id = next((i.addon_id for i in subscription.items if i.price_id == price_id), None)
        billed.append(
            BilledCharge(
                charge_id=UUID(charge["id"]),
                kind=charge["kind"],
                price_id=price_id,
                quantity=quantity,
                addon_id=addon_id,
                starts_at=starts_at,
                ends_at=datetime.fromisoformat(charge["period_end"]),
                covers_until=datetime.fromisoformat(charge["period_end"]),
            )
        )
    elif charge["kind"] == "proration_credit":
        for index, one in enumerate(billed):
            if (one.price_id, one.quantity) == (price_id, quantity) and (
                one.covers_until > starts_at
            ):
                billed[index] = replace(one, covers_until=starts_at)
                return
