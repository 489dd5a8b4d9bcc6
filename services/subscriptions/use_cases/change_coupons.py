"""Put a coupon on a running subscription, or take one off: from the next period on."""

from datetime import datetime
from uuid import UUID

from services.subscriptions.domain.coupon import CouponNotFound
from services.subscriptions.domain.subscription import Subscription
from services.subscriptions.repository import SubscriptionsUnitOfWork
from services.subscriptions.use_cases.bill import bill
from services.subscriptions.use_cases.redeem_coupon import redeem_coupon
from services.subscriptions.use_cases.who_may_ask import Asker


async def add_coupon(
    uow: SubscriptionsUnitOfWork,
    subscription: Subscription,
    code: str,
    *,
    asker: Asker,
    now: datetime,
) -> Subscription:
    """Use a coupon after those that it has; it counts from the next period on.

    One that was taken off goes on with the periods that it had left.
    """
    (await asker.policy(uow, subscription)).require_coupons()
    items, plan_id = subscription.held_at()
    redeemed = await redeem_coupon(
        uow,
        subscription.account_id,
        code,
        plan_id=plan_id,
        price_ids=[item.price_id for item in items],
        currency=subscription.currency,
        now=now,
        subscription_id=subscription.id,
    )
    event = subscription.add_discount(redeemed.discount, now=now)
    await bill(uow, [event])
    await redeemed.record(uow, subscription.account_id, subscription.id, at=now)
    uow.audit("subscription.add_coupon", subscription.id, after={"code": redeemed.discount.code})
    return subscription


async def remove_coupon(
    uow: SubscriptionsUnitOfWork,
    subscription: Subscription,
    coupon_id: UUID,
    *,
    asker: Asker,
    now: datetime,
) -> Subscription:
    """Take a coupon off: what is billed from now on is without it."""
    (await asker.policy(uow, subscription)).require_coupons()
    held = next((one for one in subscription.discounts if one.coupon_id == coupon_id), None)
    if held is None:
        raise CouponNotFound("The subscription has no such coupon.")
    await uow.coupons.take_off(subscription.id, coupon_id, periods_left=held.periods_left, at=now)
    await bill(uow, [subscription.remove_discount(coupon_id, now=now)])
    uow.audit("subscription.remove_coupon", subscription.id, before={"coupon_id": str(coupon_id)})
    return subscription
