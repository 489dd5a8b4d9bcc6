"""The catalog: what is sold and for how much. Anybody reads it, staff write it."""

from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import Query as Param
from fastapi import Response
from pydantic import Field

from services.subscriptions import queries
from services.subscriptions.api.edge import (
    UNCHANGED,
    Browse,
    Command,
    EditRequest,
    Paging,
    is_anonymous,
)
from services.subscriptions.api.views import NewPriceView, PlanView, PriceView
from services.subscriptions.api.warnings import tax_warnings
from services.subscriptions.domain.catalog import (
    AddonNotFound,
    Grant,
    MeterNotFound,
    NotOnSale,
    ProductNotFound,
)
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
from services.subscriptions.domain.self_service import (
    EVERYTHING,
    CancelTime,
    ChangeKind,
    ProrationChoice,
    SelfService,
)
from services.subscriptions.repository import SubscriptionsUnitOfWork
from services.subscriptions.use_cases.edit_catalog import edit_entry
from services.subscriptions.use_cases.publish_plan import (
    add_plan,
    add_price,
    archive_plan,
    archive_price,
    publish_plan,
    unarchive_plan,
    unarchive_price,
)
from shared.errors import Invalid, PreconditionFailed
from shared.events.subscriptions import DunningPolicy
from shared.ids import new_id
from shared.money import AmountTooLarge, Currency
from shared.tax_category import TaxCategory
from shared.web import Page, RequestModel, Router, for_staff, problems

router = Router(prefix="/v1", tags=["catalog"])

Code = Annotated[str, Field(min_length=1, max_length=100, pattern=r"^[a-zA-Z0-9][a-zA-Z0-9._-]*$")]
Name = Annotated[str, Field(min_length=1, max_length=200)]
Description = Annotated[str, Field(max_length=2000)]
TrialDays = Annotated[int, Field(ge=0, le=730)]
#: What is too large to be billed is refused by its own name, in the domain.
AmountText = Annotated[str, Field(pattern=r"^\d{1,18}(\.\d{1,12})?$")]
#: Whole minor units.
Amount = Annotated[int, Field(ge=0, lt=10**18)]


class GrantRequest(RequestModel):
    feature: Code
    limit: int | None = Field(None, ge=0)


Features = Annotated[list[GrantRequest], Field(max_length=200)]


class DunningRequest(RequestModel):
    """Tries again so many days after the one before; then what the plan says."""

    days: list[int] = Field(default_factory=lambda: [1, 3, 5, 7], max_length=10)
    then: str = Field("cancel", pattern="^(cancel|unpaid|pause)$")

    def policy(self) -> DunningPolicy:
        return DunningPolicy.model_validate(self.model_dump())


class SelfServiceRequest(RequestModel):
    """What subscribers may do themselves; staff may do all.

    Without a choice of proration, what costs more counts at once, prorated, and what costs less
    at the period's end.
    """

    changes: tuple[ChangeKind, ...] = SelfService().changes
    proration: tuple[ProrationChoice, ...] = SelfService().proration
    cancel: tuple[CancelTime, ...] = SelfService().cancel
    credit: bool = Field(
        default=False, description="Whether canceling gives the rest of the period back."
    )
    pause: bool = True
    coupons: bool = Field(
        default=True, description="Whether coupons may be put on and taken off while it runs."
    )

    def policy(self) -> SelfService:
        # In the order in which they are named here, so that equal policies are equal.
        return SelfService(
            changes=tuple(one for one in ChangeKind if one in self.changes),
            proration=tuple(one for one in ProrationChoice if one in self.proration),
            cancel=tuple(one for one in CancelTime if one in self.cancel),
            credit=self.credit,
            pause=self.pause,
            coupons=self.coupons,
        )


SelfServiceWish = Literal["all"] | SelfServiceRequest


class PlanRequest(RequestModel):
    code: Code
    name: Name
    description: Description = ""
    product_id: UUID | None = None
    features: Features = Field(default_factory=list)
    trial_days: TrialDays = 0
    trial_end_behavior: TrialEndBehavior = TrialEndBehavior.CANCEL
    trial_requires_payment_method: bool = False
    dunning: DunningRequest = Field(default_factory=DunningRequest)
    self_service: SelfServiceWish = Field(default_factory=SelfServiceRequest)


class PlanEdit(EditRequest):
    """`features`, `dunning` and `self_service` are replaced as a whole.

    Trials that run keep their end; the rest counts for subscribers of before as well.
    """

    name: Name = UNCHANGED
    description: Description = UNCHANGED
    features: Features = UNCHANGED
    trial_days: TrialDays = UNCHANGED
    trial_end_behavior: TrialEndBehavior = UNCHANGED
    trial_requires_payment_method: bool = UNCHANGED
    dunning: DunningRequest = UNCHANGED
    self_service: SelfServiceWish = UNCHANGED

    def changes(self) -> dict[str, Any]:
        changes = super().changes()
        if "features" in changes:
            changes["features"] = granted(self.features)
        if "dunning" in changes:
            changes["dunning"] = self.dunning.policy()
        if "self_service" in changes:
            changes["self_service"] = _policy(self.self_service)
        return changes


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
    tax_category: TaxCategory = "standard"
    account_id: UUID | None = Field(None, description="A price of its own for one account.")
    component: bool = Field(
        default=False,
        description="Metered: it comes with each other price of the plan in the same currency "
        "and rhythm.",
    )


@router.post(
    "/plans",
    status_code=201,
    response_model=PlanView,
    responses=problems(PlanCodeTaken, ProductNotFound, NotOnSale, DunningInvalid),
    dependencies=[for_staff("finance")],
)
async def create_plan(body: PlanRequest, command: Command) -> Response:
    """A draft of a plan (staff). Give it prices, then publish it."""
    async with command.begin() as uow:
        plan = Plan(
            id=new_id(),
            code=body.code,
            name=body.name,
            description=body.description,
            product_id=body.product_id,
            features=granted(body.features),
            trial_days=body.trial_days,
            trial_end_behavior=body.trial_end_behavior,
            trial_requires_payment_method=body.trial_requires_payment_method,
            dunning=body.dunning.policy(),
            self_service=_policy(body.self_service),
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
            drafts=query.caller.is_operator,
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
    """One plan with the prices that are on sale. Drafts are for staff."""
    async with query.begin() as uow:
        plan = await queries.read_plan(uow, plan_id, drafts=query.caller.is_operator)
        prices = await queries.prices_of(uow, [plan_id], public=is_anonymous(query))
        return query.reply(PlanView.of(plan, prices[plan_id]))


@router.patch(
    "/plans/{plan_id}",
    response_model=PlanView,
    responses=problems(PlanNotFound, PreconditionFailed, DunningInvalid),
    dependencies=[for_staff("finance")],
)
async def edit_plan(plan_id: UUID, body: PlanEdit, command: Command) -> Response:
    """Edit a plan (staff). Its code stays; what it costs is changed by a new price."""
    async with command.begin() as uow:
        plan = await _locked(uow, command, plan_id)
        await edit_entry(uow, plan, body.changes(), action="plan.edit")
        return await _answer(uow, command, plan)


@router.post(
    "/plans/{plan_id}/publish",
    response_model=PlanView,
    responses=problems(PlanNotFound, PreconditionFailed, IllegalPlanTransition, PlanHasNoPrice),
    dependencies=[for_staff("finance")],
)
async def publish(plan_id: UUID, command: Command) -> Response:
    """Open a plan to subscribers (staff)."""
    async with command.begin() as uow:
        plan = await _locked(uow, command, plan_id)
        await publish_plan(uow, plan, now=command.now)
        return await _answer(uow, command, plan)


@router.post(
    "/plans/{plan_id}/archive",
    response_model=PlanView,
    responses=problems(PlanNotFound, PreconditionFailed, IllegalPlanTransition),
    dependencies=[for_staff("finance")],
)
async def archive(plan_id: UUID, command: Command) -> Response:
    """Close a plan to new subscribers (staff); those it has keep it."""
    async with command.begin() as uow:
        plan = await _locked(uow, command, plan_id)
        await archive_plan(uow, plan, now=command.now)
        return await _answer(uow, command, plan)


@router.post(
    "/plans/{plan_id}/unarchive",
    response_model=PlanView,
    responses=problems(PlanNotFound, PreconditionFailed, IllegalPlanTransition, PlanHasNoPrice),
    dependencies=[for_staff("finance")],
)
async def unarchive(plan_id: UUID, command: Command) -> Response:
    """Open an archived plan to new subscribers again (staff)."""
    async with command.begin() as uow:
        plan = await _locked(uow, command, plan_id)
        await unarchive_plan(uow, plan, now=command.now)
        return await _answer(uow, command, plan)


@router.post(
    "/prices",
    status_code=201,
    response_model=NewPriceView,
    responses=problems(
        PlanNotFound, AddonNotFound, MeterNotFound, NotOnSale, PriceInvalid, AmountTooLarge, Invalid
    ),
    dependencies=[for_staff("finance")],
)
async def create_price(body: PriceRequest, command: Command) -> Response:
    """A price (staff). It replaces the one that sold the same thing in the same rhythm."""
    if body.unit_amount is not None and body.unit_amount_decimal is not None:
        raise Invalid("Send unit_amount or unit_amount_decimal, not both.", field="unit_amount")
    warnings = await tax_warnings(command, body.tax_category)
    async with command.begin() as uow:
        price = await add_price(uow, _price(body, command.now))
        return await command.answer(uow, NewPriceView.of(price, warnings=warnings), status=201)


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
            drafts=query.caller.is_operator,
            plan_id=plan_id,
            currency=currency,
            interval=interval,
            min_amount=min_amount,
            max_amount=max_amount,
        )
        return page.page(found, PriceView.of, lambda price: price.id)


@router.get("/prices/{price_id}", response_model=PriceView, responses=problems(PriceNotFound))
async def read_price(price_id: UUID, query: Browse) -> Response:
    """One price, also when it is no longer on sale. Those of drafts are for staff."""
    async with query.begin() as uow:
        price = await queries.read_price(
            uow, price_id, public=is_anonymous(query), drafts=query.caller.is_operator
        )
        return query.reply(PriceView.of(price))


@router.post(
    "/prices/{price_id}/archive",
    response_model=PriceView,
    responses=problems(PriceNotFound, PreconditionFailed),
    dependencies=[for_staff("finance")],
)
async def take_price_off_sale(price_id: UUID, command: Command) -> Response:
    """Sell one price no more (staff); who holds it keeps it."""
    async with command.begin() as uow:
        price = await uow.catalog.get_price(price_id)
        command.require_version(price.revision)
        await archive_price(uow, price)
        return await command.answer(uow, PriceView.of(price))


@router.post(
    "/prices/{price_id}/unarchive",
    response_model=PriceView,
    responses=problems(PriceNotFound, PreconditionFailed),
    dependencies=[for_staff("finance")],
)
async def put_price_on_sale(price_id: UUID, command: Command) -> Response:
    """Sell a price again (staff), in the place of the version that is on sale now."""
    async with command.begin() as uow:
        price = await uow.catalog.get_price(price_id)
        command.require_version(price.revision)
        await unarchive_price(uow, price)
        return await command.answer(uow, PriceView.of(price))


def granted(features: list[GrantRequest]) -> tuple[Grant, ...]:
    return tuple(Grant(grant.feature, grant.limit) for grant in features)


def _policy(wish: SelfServiceWish) -> SelfService:
    return EVERYTHING if wish == "all" else wish.policy()


async def _locked(uow: SubscriptionsUnitOfWork, command: Command, plan_id: UUID) -> Plan:
    """The plan as the caller last saw it."""
    plan = await uow.catalog.get(Plan, plan_id, PlanNotFound)
    command.require_version(plan.revision)
    return plan


async def _answer(uow: SubscriptionsUnitOfWork, command: Command, plan: Plan) -> Response:
    prices = await queries.prices_of(uow, [plan.id])
    return await command.answer(uow, PlanView.of(plan, prices[plan.id]))


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
        component=body.component,
        created_at=now,
    )
