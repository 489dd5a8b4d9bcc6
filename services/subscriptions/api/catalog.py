"""The catalog: what is sold and for how much. Anybody reads it, staff write it."""

from datetime import datetime
from decimal import Decimal
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Response
from fastapi import Query as Param
from pydantic import Field

from services.subscriptions import queries
from services.subscriptions.api.edge import Browse, Command, Paging, RequestModel, is_anonymous
from services.subscriptions.api.views import PlanView, PriceView
from services.subscriptions.domain.catalog import Grant
from services.subscriptions.domain.period import IntervalUnit
from services.subscriptions.domain.plan import (
    DunningInvalid,
    IllegalPlanTransition,
    Plan,
    PlanCodeTaken,
    PlanHasNoPrice,
    PlanNotFound,
    TrialEndBehavior,
)
from services.subscriptions.domain.price import (
    Aggregation,
    Price,
    PriceInvalid,
    PriceNotFound,
    PriceType,
    TaxBehavior,
    Tier,
)
from services.subscriptions.use_cases.publish_plan import (
    add_plan,
    add_price,
    archive_plan,
    publish_plan,
)
from shared.errors import Invalid
from shared.events.subscriptions import DunningPolicy
from shared.ids import new_id
from shared.money import Currency
from shared.web import Page, problems

router = APIRouter(prefix="/v1", tags=["catalog"])

Code = Annotated[str, Field(min_length=1, max_length=100, pattern=r"^[a-zA-Z0-9][a-zA-Z0-9._-]*$")]
Name = Annotated[str, Field(min_length=1, max_length=200)]
AmountText = Annotated[str, Field(pattern=r"^\d{1,15}(\.\d{1,12})?$")]
#: Whole minor units that fit the database and JSON readers everywhere.
Amount = Annotated[int, Field(ge=0, le=2**53)]


class GrantRequest(RequestModel):
    feature: Code
    limit: int | None = Field(None, ge=0)


class DunningRequest(RequestModel):
    """Tries again so many days after the one before; then what the plan says."""

    days: list[int] = Field(default_factory=lambda: [1, 3, 5, 7], max_length=10)
    then: str = Field("cancel", pattern="^(cancel|unpaid|pause)$")


class PlanRequest(RequestModel):
    code: Code
    name: Name
    description: str = Field("", max_length=2000)
    product_id: UUID | None = None
    features: list[GrantRequest] = Field(default_factory=list, max_length=200)
    trial_days: int = Field(0, ge=0, le=730)
    trial_end_behavior: TrialEndBehavior = TrialEndBehavior.CANCEL
    trial_requires_payment_method: bool = False
    dunning: DunningRequest = Field(default_factory=DunningRequest)


class TierRequest(RequestModel):
    """`up_to` is inclusive; the last tier has none."""

    up_to: int | None = Field(None, ge=1)
    unit_amount_decimal: AmountText = "0"
    flat_amount: Amount = 0


class PriceRequest(RequestModel):
    plan_id: UUID | None = None
    addon_id: UUID | None = None
    currency: Currency
    type: PriceType
    interval: IntervalUnit | None = None
    interval_count: int = Field(1, ge=1, le=1830)
    unit_amount: Amount | None = None
    unit_amount_decimal: AmountText | None = None
    tiers: list[TierRequest] = Field(default_factory=list, max_length=100)
    tier_mode: str | None = Field(None, pattern="^(graduated|volume)$")
    package_size: int | None = Field(None, ge=1, le=2**31 - 1)
    free_units: int = Field(0, ge=0, le=2**31 - 1)
    meter_id: UUID | None = None
    aggregation: Aggregation | None = None
    tax_behavior: TaxBehavior = TaxBehavior.EXCLUSIVE
    tax_category: str = Field("standard", min_length=1, max_length=50)
    account_id: UUID | None = Field(None, description="A price of its own for one account.")


@router.post(
    "/plans",
    status_code=201,
    response_model=PlanView,
    responses=problems(PlanCodeTaken, DunningInvalid),
)
async def create_plan(body: PlanRequest, command: Command) -> Response:
    """A draft of a plan (staff). Give it prices, then publish it."""
    command.caller.require_staff("finance")
    async with command.begin() as uow:
        plan = Plan(
            id=new_id(),
            code=body.code,
            name=body.name,
            description=body.description,
            product_id=body.product_id,
            features=tuple(Grant(grant.feature, grant.limit) for grant in body.features),
            trial_days=body.trial_days,
            trial_end_behavior=body.trial_end_behavior,
            trial_requires_payment_method=body.trial_requires_payment_method,
            dunning=DunningPolicy.model_validate(body.dunning.model_dump()),
            created_at=command.now,
        )
        await add_plan(uow, plan)
        return await command.answer(uow, PlanView.of(plan, []), status=201)


@router.get("/plans")
async def list_plans(
    *,
    query: Browse,
    page: Paging,
    currency: Currency | None = None,
    interval: IntervalUnit | None = None,
    min_amount: Annotated[Decimal | None, Param(ge=0)] = None,
    max_amount: Annotated[Decimal | None, Param(ge=0)] = None,
) -> Page[PlanView]:
    """Plans on sale, newest first; staff also see drafts and archived ones."""
    async with query.begin() as uow:
        plans = await queries.list_plans(
            uow,
            page,
            drafts=query.caller.staff is not None,
            currency=currency,
            interval=interval,
            min_amount=min_amount,
            max_amount=max_amount,
        )
        prices = await queries.prices_of(
            uow, [plan.id for plan in plans], public=is_anonymous(query)
        )
        return page.page(plans, lambda plan: PlanView.of(plan, prices[plan.id]), lambda p: p.id)


@router.get("/plans/{plan_id}", response_model=PlanView, responses=problems(PlanNotFound))
async def read_plan(plan_id: UUID, query: Browse) -> Response:
    """One plan with the prices that are on sale."""
    async with query.begin() as uow:
        plan = await queries.read_plan(uow, plan_id)
        prices = await queries.prices_of(uow, [plan_id], public=is_anonymous(query))
        return query.reply(PlanView.of(plan, prices[plan_id]))


@router.post(
    "/plans/{plan_id}/publish",
    response_model=PlanView,
    responses=problems(PlanNotFound, IllegalPlanTransition, PlanHasNoPrice),
)
async def publish(plan_id: UUID, command: Command) -> Response:
    """Open a plan to subscribers (staff)."""
    command.caller.require_staff("finance")
    async with command.begin() as uow:
        plan = await publish_plan(uow, plan_id, now=command.now)
        prices = await queries.prices_of(uow, [plan_id])
        return await command.answer(uow, PlanView.of(plan, prices[plan_id]))


@router.post(
    "/plans/{plan_id}/archive",
    response_model=PlanView,
    responses=problems(PlanNotFound, IllegalPlanTransition),
)
async def archive(plan_id: UUID, command: Command) -> Response:
    """Close a plan to new subscribers (staff); those it has keep it."""
    command.caller.require_staff("finance")
    async with command.begin() as uow:
        plan = await archive_plan(uow, plan_id, now=command.now)
        prices = await queries.prices_of(uow, [plan_id])
        return await command.answer(uow, PlanView.of(plan, prices[plan_id]))


@router.post(
    "/prices",
    status_code=201,
    response_model=PriceView,
    responses=problems(PlanNotFound, PriceInvalid),
)
async def create_price(body: PriceRequest, command: Command) -> Response:
    """A price (staff). It replaces the one that sold the same thing in the same rhythm."""
    command.caller.require_staff("finance")
    if body.unit_amount is not None and body.unit_amount_decimal is not None:
        raise Invalid("Send unit_amount or unit_amount_decimal, not both.", field="unit_amount")
    async with command.begin() as uow:
        price = await add_price(uow, _price(body, command.now))
        return await command.answer(uow, PriceView.of(price), status=201)


@router.get("/prices")
async def list_prices(
    *,
    query: Browse,
    page: Paging,
    plan_id: UUID | None = None,
    currency: Currency | None = None,
    interval: IntervalUnit | None = None,
    min_amount: Annotated[Decimal | None, Param(ge=0)] = None,
    max_amount: Annotated[Decimal | None, Param(ge=0)] = None,
) -> Page[PriceView]:
    """Prices on sale, newest first."""
    async with query.begin() as uow:
        found = await queries.list_prices(
            uow,
            page,
            public=is_anonymous(query),
            plan_id=plan_id,
            currency=currency,
            interval=interval,
            min_amount=min_amount,
            max_amount=max_amount,
        )
        return page.page(found, PriceView.of, lambda price: price.id)


@router.get("/prices/{price_id}", response_model=PriceView, responses=problems(PriceNotFound))
async def read_price(price_id: UUID, query: Browse) -> Response:
    """One price, also when it is no longer on sale."""
    async with query.begin() as uow:
        price = await queries.read_price(uow, price_id, public=is_anonymous(query))
        return query.reply(PriceView.of(price))


def _price(body: PriceRequest, now: datetime) -> Price:
    unit = body.unit_amount_decimal if body.unit_amount is None else body.unit_amount
    tiers = tuple(
        Tier(tier.up_to, Decimal(tier.unit_amount_decimal), Decimal(tier.flat_amount))
        for tier in body.tiers
    )
    return Price(
        id=new_id(),
        plan_id=body.plan_id,
        addon_id=body.addon_id,
        currency=body.currency,
        type=body.type,
        interval_unit=body.interval,
        interval_count=body.interval_count,
        unit_amount=None if unit is None else Decimal(unit),
        tiers=tiers,
        tier_mode=body.tier_mode,
        package_size=body.package_size,
        free_units=body.free_units,
        meter_id=body.meter_id,
        aggregation=body.aggregation,
        tax_behavior=body.tax_behavior,
        tax_category=body.tax_category,
        account_id=body.account_id,
        created_at=now,
    )
