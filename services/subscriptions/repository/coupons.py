"""Coupons, the codes they are given out under, and who used them."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from services.subscriptions import tables
from services.subscriptions.domain.coupon import (
    Coupon,
    CouponNotFound,
    PromotionCode,
    normalized,
)
from shared.ids import new_id

codes = tables.promotion_codes.c
coupons = tables.coupons.c


class Coupons:
    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    def add(self, promotion_code: PromotionCode) -> None:
        self._session.add(promotion_code)

    async def is_taken(self, code: str) -> bool:
        """Whether some coupon or promotion code is called so."""
        by_code = await self._session.scalar(select(codes.id).where(codes.code == normalized(code)))
        by_coupon = await self._session.scalar(select(coupons.id).where(coupons.code == code))
        return by_code is not None or by_coupon is not None

    async def get_by_code(self, code: str) -> tuple[Coupon, PromotionCode | None]:
        """The coupon, and the code where it is not the coupon's own.

        Both locked, the code first, so that their limits hold however many ask at once.
        """
        by_code = select(PromotionCode).where(codes.code == normalized(code)).with_for_update()
        promotion = (await self._session.scalars(by_code)).one_or_none()
        wanted = coupons.code == code if promotion is None else coupons.id == promotion.coupon_id
        statement = select(Coupon).where(wanted).with_for_update()
        coupon = (await self._session.scalars(statement)).one_or_none()
        if coupon is None:
            raise CouponNotFound(f"There is no coupon {code!r}.")
        return coupon, promotion

    async def used_by(self, account_id: UUID, coupon_id: UUID) -> int:
        """How often an account has used a coupon, under whichever code.

        A start that expired was never paid for, and is no use.
        """
        uses, started = tables.redemptions.c, tables.subscriptions.c
        statement = (
            select(func.count())
            .select_from(tables.redemptions.join(tables.subscriptions))
            .where(
                uses.account_id == account_id,
                uses.coupon_id == coupon_id,
                started.status != "incomplete_expired",
            )
        )
        return (await self._session.scalars(statement)).one()

    async def take_off(
        self, subscription_id: UUID, coupon_id: UUID, *, periods_left: int | None, at: datetime
    ) -> None:
        """Note what was left of the use of a subscription that is billed without it now."""
        uses = tables.redemptions.c
        await self._session.execute(
            update(tables.redemptions)
            .where(
                uses.subscription_id == subscription_id,
                uses.coupon_id == coupon_id,
                uses.taken_off_at.is_(None),
            )
            .values(taken_off_at=at, periods_left=periods_left)
        )

    async def taken_off(self, subscription_id: UUID, coupon_id: UUID) -> Any:
        """The use that a subscription took off last, if any: its code and the periods left."""
        uses = tables.redemptions.c
        statement = (
            select(uses.id, uses.promotion_code_id, uses.periods_left)
            .where(
                uses.subscription_id == subscription_id,
                uses.coupon_id == coupon_id,
                uses.taken_off_at.is_not(None),
            )
            .order_by(uses.taken_off_at.desc(), uses.id.desc())
        )
        return (await self._session.execute(statement.limit(1))).one_or_none()

    async def resume(self, redemption_id: UUID) -> None:
        """It is in use again."""
        await self._session.execute(
            update(tables.redemptions)
            .where(tables.redemptions.c.id == redemption_id)
            .values(taken_off_at=None, periods_left=None)
        )

    async def record(
        self,
        coupon_id: UUID,
        promotion_code_id: UUID | None,
        account_id: UUID,
        subscription_id: UUID,
        *,
        at: datetime,
    ) -> None:
        """Who used it, under which code, and for what."""
        await self._session.execute(
            insert(tables.redemptions).values(
                id=new_id(),
                coupon_id=coupon_id,
                promotion_code_id=promotion_code_id,
                account_id=account_id,
                subscription_id=subscription_id,
                created_at=at,
            )
        )
