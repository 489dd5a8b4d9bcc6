"""Coupons, and the codes they are given out under (staff: a code is worth money)."""

from datetime import datetime
from decimal import Decimal
from typing import Annotated
from uuid import UUID

from fastapi import Response
from pydantic import AwareDatetime, BaseModel, Field

from services.subscriptions import queries, tables
from services.subscriptions.api.catalog import Amount, AmountText, Code, Name
from services.subscriptions.api.edge import Command, Paging, Query
from services.subscriptions.api.offers import Named, store
from services.subscriptions.domain.catalog import CodeTaken
from services.subscriptions.domain.coupon import (
    Coupon,
    CouponDuration,
    CouponInvalid,
    CouponNotFound,
    PromotionCode,
)
from services.subscriptions.domain.plan import Plan, PlanNotFound
from services.subscriptions.domain.price import Price, PriceNotFound
from services.subscriptions.use_cases.redeem_coupon import a_new_code, give_out
from shared.ids import new_id
from shared.money import AmountTooLarge, Currency
from shared.web import Page, RequestModel, Router, for_staff, problems

router = Router(prefix="/v1", tags=["coupons"])


Limit = Annotated[int, Field(ge=1, lt=2**31)]


class CouponRequest(RequestModel):
    code: Code
    name: Name
    percent: AmountText | None = None
    amount: Amount | None = None
    currency: Currency | None = None
    duration: CouponDuration = CouponDuration.ONCE
    periods: int | None = Field(None, ge=1, le=600)
    plan_ids: list[UUID] = Field(
        default_factory=list, max_length=200, description="For these plans; empty: for all."
    )
    price_ids: list[UUID] = Field(
        default_factory=list,
        max_length=200,
        description="For what these prices of plans and add-ons bill; empty: for all.",
    )
    max_redemptions: Limit | None = None
    max_per_account: Limit = 1
    redeem_by: AwareDatetime | None = None


class CouponView(Named):
    percent: str | None
    amount: int | None
    currency: str | None
    duration: CouponDuration
    periods: int | None
    plan_ids: list[UUID]
    price_ids: list[UUID]
    max_redemptions: int | None
    max_per_account: int
    redeemed: int
    redeem_by: datetime | None
    active: bool


class PromotionCodeRequest(RequestModel):
    """Without a `code` one is made that cannot be guessed. Upper and lower case are the same."""

    coupon_id: UUID
    code: Code | None = None
    account_id: UUID | None = Field(None, description="For this account alone.")
    first_time_only: bool = Field(
        default=False, description="Only for an account's first subscription."
    )
    max_redemptions: Limit | None = None
    expires_at: AwareDatetime | None = None


class PromotionCodeView(BaseModel):
    id: UUID
    coupon_id: UUID
    code: str
    account_id: UUID | None
    first_time_only: bool
    max_redemptions: int | None
    redeemed: int
    expires_at: datetime | None
    active: bool
    revision: int
    created_at: datetime

    @classmethod
    def of(cls, promotion: PromotionCode) -> "PromotionCodeView":
        return cls(**{name: getattr(promotion, name) for name in cls.model_fields})


@router.post(
    "/coupons",
    status_code=201,
    response_model=CouponView,
    responses=problems(CodeTaken, CouponInvalid, PlanNotFound, PriceNotFound, AmountTooLarge),
    dependencies=[for_staff("finance")],
)
async def create_coupon(body: CouponRequest, command: Command) -> Response:
    """A discount by code (staff)."""
    async with command.begin() as uow:
        if await uow.coupons.is_taken(body.code):
            raise CodeTaken(f"There is a coupon or a promotion code {body.code!r} already.")
        wanted = body.model_dump()
        wanted["percent"] = None if body.percent is None else Decimal(body.percent)
        wanted["plan_ids"] = tuple(dict.fromkeys(body.plan_ids))
        wanted["price_ids"] = tuple(dict.fromkeys(body.price_ids))
        await uow.catalog.require_all(Plan, wanted["plan_ids"], PlanNotFound)
        await uow.catalog.require_all(Price, wanted["price_ids"], PriceNotFound)
        coupon = Coupon(id=new_id(), created_at=command.now, **wanted)
        return await store(uow, command, coupon, CouponView)


@router.get("/coupons", dependencies=[for_staff()])
async def list_coupons(query: Query, page: Paging) -> Page[CouponView]:
    """Coupons, newest first (staff: a code is worth money)."""
    async with query.begin() as uow:
        found = await queries.list_all(uow, page, Coupon, tables.coupons)
        return page.page(found, CouponView.of, lambda coupon: coupon.id)


@router.post(
    "/promotion-codes",
    status_code=201,
    response_model=PromotionCodeView,
    responses=problems(CodeTaken, CouponNotFound),
    dependencies=[for_staff("finance")],
)
async def create_promotion_code(body: PromotionCodeRequest, command: Command) -> Response:
    """A code for a coupon, with limits of its own (staff)."""
    async with command.begin() as uow:
        wanted = {**body.model_dump(), "code": body.code or a_new_code()}
        made = PromotionCode(id=new_id(), created_at=command.now, **wanted)
        promotion = await give_out(uow, made)
        return await command.answer(uow, PromotionCodeView.of(promotion), status=201)


@router.get("/promotion-codes", dependencies=[for_staff()])
async def list_promotion_codes(
    query: Query, page: Paging, coupon_id: UUID | None = None
) -> Page[PromotionCodeView]:
    """Promotion codes, newest first (staff)."""
    async with query.begin() as uow:
        found = await queries.list_promotion_codes(uow, page, coupon_id=coupon_id)
        return page.page(found, PromotionCodeView.of, lambda promotion: promotion.id)
