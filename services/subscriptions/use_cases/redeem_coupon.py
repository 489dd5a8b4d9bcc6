"""Use a coupon, by its own code or one that it is given out under; and give out such codes."""

import secrets
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from services.subscriptions.domain.catalog import CodeTaken
from services.subscriptions.domain.coupon import (
    AppliedDiscount,
    Coupon,
    CouponNotFound,
    PromotionCode,
)
from services.subscriptions.repository import SubscriptionsUnitOfWork

#: Letters and digits that nobody takes for one another.
UNMISTAKABLE = "ABCDEFGHJKMNPQRSTUVWXYZ23456789"
CODE_LENGTH = 10


@dataclass(frozen=True)
class Redeemed:
    """A use of a coupon that was taken, and is still to be written down."""

    discount: AppliedDiscount
    promotion_code_id: UUID | None
    #: The use that it goes on with: it was taken off before it was over.
    resumed: UUID | None = None

    async def record(
        self,
        uow: SubscriptionsUnitOfWork,
        account_id: UUID,
        subscription_id: UUID,
        *,
        at: datetime,
    ) -> None:
        if self.resumed is not None:
            await uow.coupons.resume(self.resumed)
            return
        await uow.coupons.record(
            self.discount.coupon_id, self.promotion_code_id, account_id, subscription_id, at=at
        )


async def redeem_coupon(
    uow: SubscriptionsUnitOfWork,
    account_id: UUID,
    code: str,
    *,
    plan_id: UUID,
    price_ids: Collection[UUID],
    currency: str,
    now: datetime,
    subscription_id: UUID | None = None,
) -> Redeemed:
    """Take one use of it for a plan and these prices, within the code's limits and the coupon's.

    A subscription that had it and took it off goes on with what was left of that use, which counts
    no second time.
    """
    coupon, promotion = await uow.coupons.get_by_code(code)
    if subscription_id is not None:
        left = await uow.coupons.taken_off(subscription_id, coupon.id)
        if left is not None and left.periods_left != 0:
            if promotion is not None:
                promotion.require_usable(account_id=account_id, at=now)
            coupon.require_usable(plan_id=plan_id, price_ids=price_ids, currency=currency, at=now)
            told = promotion.code if promotion else coupon.code
            discount = coupon.applied(told, periods_left=left.periods_left)
            return Redeemed(discount, left.promotion_code_id, resumed=left.id)
    if promotion is not None:
        had_one_before = False
        if promotion.first_time_only:
            # Under the account's lock, so that of two first ones at once one is the second.
            await uow.accounts.find(account_id)
            had_one_before = await uow.subscriptions.had_one(account_id)
        promotion.redeem(account_id=account_id, had_one_before=had_one_before, at=now)
    discount = coupon.redeem(
        plan_id=plan_id,
        price_ids=price_ids,
        currency=currency,
        used_by_account=await uow.coupons.used_by(account_id, coupon.id),
        at=now,
        code=promotion.code if promotion else None,
    )
    return Redeemed(discount, promotion.id if promotion else None)


async def give_out(uow: SubscriptionsUnitOfWork, promotion: PromotionCode) -> PromotionCode:
    """Open a coupon to whoever has the code."""
    await uow.catalog.get(Coupon, promotion.coupon_id, CouponNotFound)
    if await uow.coupons.is_taken(promotion.code):
        raise CodeTaken(f"There is a coupon {promotion.code!r} already.")
    uow.coupons.add(promotion)
    uow.audit(
        "promotion_code.create",
        promotion.id,
        account_id=promotion.account_id,
        after={"code": promotion.code, "coupon_id": str(promotion.coupon_id)},
    )
    return promotion


def a_new_code() -> str:
    """One that cannot be guessed."""
    return "".join(secrets.choice(UNMISTAKABLE) for _ in range(CODE_LENGTH))
