"""What an earlier release, which may still run, left behind: gathered anew when it is needed.

It keeps no list of what was billed and none of what waits, and its writes leave `kept_version`
where it was. The charges are in the timeline's events (what was reported a moment ago and is not
there yet is in the outbox), the rest in its own columns. For a subscription that this release wrote
last there is nothing to do, and nothing is read.
"""

from collections import defaultdict
from collections.abc import AsyncIterator, Collection, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import case, select
from sqlalchemy.ext.asyncio import AsyncSession

from services.subscriptions import tables
from services.subscriptions.domain.charges import COVERING, BilledCharge
from services.subscriptions.domain.coupon import Coupon
from services.subscriptions.domain.subscription import Subscription
from shared.clock import utc_now
from shared.events.subscriptions import Discount
from shared.messaging import envelope
from shared.messaging.partitions import first_id

entries = tables.timeline.c
outbox = tables.metadata.tables[f"{tables.metadata.schema}.outbox"].c

#: Events of an earlier release that billed time ahead.
BILLING = (
    "subscription.started",
    "subscription.trial_ended",
    "subscription.renewed",
    "subscription.changed",
    "subscription.resumed",
)
#: Events of this release that billed time ahead for a change which may not count, and that it will
#: not. An earlier release may write the row after them.
PENDING = ("subscription.change_pending", "subscription.change_lapsed")
#: Events of an earlier release that billed usage.
BILLING_USAGE = ("subscription.renewed", "subscription.changed", "subscription.canceled")
#: So far back the outbox is looked through for what the timeline does not have yet.
UNDER_WAY = timedelta(days=1)

Window = tuple[UUID, datetime, datetime]


@dataclass(frozen=True)
class BilledWindow:
    """The charges that an earlier release billed a window of usage by, and with what off."""

    charge_ids: tuple[UUID, ...]
    discounts: tuple[Discount, ...]


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


async def billed_windows(
    session: AsyncSession, subscription_id: UUID
) -> dict[Window, BilledWindow]:
    """By price and bounds, how windows were billed: an earlier release did not keep it with them.

    What is off is what was off when the window was billed first.
    """
    rows = await session.scalars(
        select(entries.data)
        .where(
            entries.subscription_id == subscription_id,
            entries.subject == subscription_id,
            entries.name.in_(BILLING_USAGE),
        )
        .order_by(entries.sequence)
    )
    found: dict[Window, BilledWindow] = {}
    for data in rows:
        given = tuple(
            Discount.model_validate(discount)
            for discount in data["discounts"]
            if discount["percent"] is not None
        )
        for charge in data["charges"]:
            if charge["kind"] != "usage" or charge["amount"] <= 0:
                continue
            start, end = (datetime.fromisoformat(charge[f"period_{b}"]) for b in ("start", "end"))
            window = (UUID(charge["price_id"]), start, end)
            before = found.get(window, BilledWindow((), given))
            charge_ids = (*before.charge_ids, UUID(charge["id"]))
            found[window] = replace(before, charge_ids=charge_ids)
    return found


async def _billed(
    session: AsyncSession, behind: Sequence[Subscription]
) -> dict[UUID, list[BilledCharge]]:
    """What the events of each billed for the running period, less what they gave back."""
    reported = await _reported(session, behind)
    addons = await _addons(
        session,
        {
            UUID(charge["price_id"])
            for of_one in reported.values()
            for data in of_one
            for charge in data["charges"]
            if charge["price_id"]
        },
    )
    billed: dict[UUID, list[BilledCharge]] = defaultdict(list)
    for subscription in behind:
        of_one = billed[subscription.id]
        for data in reported[subscription.id]:
            for charge in data["charges"]:
                # What an earlier period billed that another rhythm cut short was let be.
                if datetime.fromisoformat(charge["period_start"]) >= subscription.period_start:
                    _count(of_one, subscription, charge, addons)
            for taken in data.get("take_backs", ()):
                _shorten(of_one, UUID(taken["charge_id"]), taken["starts_at"])
    return billed


async def _reported(
    session: AsyncSession, behind: Sequence[Subscription]
) -> dict[UUID, list[dict[str, Any]]]:
    """What each reported that billed something, in its order."""
    rows = await session.execute(
        select(
            entries.subject,
            entries.sequence,
            case((entries.name.in_(BILLING + PENDING), entries.data)),
        ).where(
            entries.subscription_id.in_([one.id for one in behind]),
            entries.subject == entries.subscription_id,
        )
    )
    known: dict[UUID, dict[int, dict[str, Any] | None]] = defaultdict(dict)
    for subject, sequence, data in rows:
        known[subject][sequence] = data
    # The timeline is written a moment after what it tells of.
    late = [one.id for one in behind if len(known[one.id]) < one.version]
    if late:
        async for subject, sequence, data in _under_way(session, late):
            known[subject].setdefault(sequence, data)
    return {
        one.id: _that_count(
            one, [data for _, data in sorted(known[one.id].items()) if data is not None]
        )
        for one in behind
    }


def _that_count(subscription: Subscription, reported: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Without what a change would have billed that lapsed, or still waits for its payment."""
    pending = subscription.pending_change
    idle = {str(pending.id)} if pending is not None else set()
    idle |= {data["change_id"] for data in reported if "charges" not in data}
    return [data for data in reported if "charges" in data and data.get("change_id") not in idle]


async def _under_way(
    session: AsyncSession, ids: Collection[UUID]
) -> AsyncIterator[tuple[UUID, int, dict[str, Any]]]:
    """The same, of what was reported lately, from the rows that were stored with the change."""
    rows = await session.scalars(
        select(outbox.body).where(
            outbox.id >= first_id(utc_now() - UNDER_WAY),
            outbox.aggregate_id.in_(ids),
            outbox.routing_key.in_(BILLING + PENDING),
        )
    )
    for body in rows:
        found = envelope.read(body)
        yield found.subject, found.sequence, found.data


async def _addons(session: AsyncSession, price_ids: Collection[UUID]) -> dict[UUID, UUID]:
    """The add-on of each price that is one's, whether or not that is still held."""
    prices = tables.prices.c
    rows = await session.execute(
        select(prices.id, prices.addon_id).where(
            prices.id.in_(price_ids), prices.addon_id.is_not(None)
        )
    )
    return {row.id: row.addon_id for row in rows}


def _shorten(billed: list[BilledCharge], charge_id: UUID, until: str) -> None:
    for index, one in enumerate(billed):
        if one.charge_id == charge_id:
            billed[index] = replace(one, covers_until=datetime.fromisoformat(until))


def _count(
    billed: list[BilledCharge],
    subscription: Subscription,
    charge: dict[str, Any],
    addons: dict[UUID, UUID],
) -> None:
    starts_at = datetime.fromisoformat(charge["period_start"])
    price_id = UUID(charge["price_id"]) if charge["price_id"] else subscription.price_id
    quantity = int(charge["why"].get("quantity", 1))
    if charge["kind"] in COVERING and charge["amount"] >= 0:
        billed.append(
            BilledCharge(
                charge_id=UUID(charge["id"]),
                kind=charge["kind"],
                price_id=price_id,
                quantity=quantity,
                addon_id=addons.get(price_id),
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
