"""Put a coupon on a running subscription, or take one off: from the next period on."""

from datetime import datetime
from uuid import UUID

from services.subscriptions.domain.coupon import CouponExhausted, CouponNotFound
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
    """Use a coupon after those that it has; it counts from the next period on."""
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
    )
    event = subscription.add_discount(redeemed.discount, now=now)
    if await uow.coupons.was_put_on(subscription.id, redeemed.discount.coupon_id):
        raise CouponExhausted(
            f"This subscription has used the coupon {redeemed.discount.code} already."
        )
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
    if all(discount.coupon_id != coupon_id for discount in subscription.discounts):
        raise CouponNotFound("The subscription has no such coupon.")
    await bill(uow, [subscription.remove_discount(coupon_id, now=now)])
    uow.audit("subscription.remove_coupon", subscription.id, before={"coupon_id": str(coupon_id)})
    return subscription
