"""What is sold beside plans: products, add-ons, token bundles; and meters and features."""

from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, Self
from uuid import UUID

from fastapi import Response
from pydantic import BaseModel, Field

from services.subscriptions import queries, tables
from services.subscriptions.api.catalog import (
    Amount,
    Code,
    Description,
    Features,
    Name,
    granted,
)
from services.subscriptions.api.edge import Browse, Command, Paging
from services.subscriptions.api.views import GrantView
from services.subscriptions.api.warnings import tax_warnings
from services.subscriptions.domain.catalog import (
    Addon,
    Bundle,
    CodeTaken,
    Feature,
    FeatureInvalid,
    FeatureType,
    Grant,
    Meter,
    MeterNotFound,
    NotOnSale,
    Product,
)
from services.subscriptions.domain.price import plain
from services.subscriptions.repository import SubscriptionsUnitOfWork
from shared.ids import new_id
from shared.money import AmountTooLarge, Currency
from shared.tax_category import TaxCategory
from shared.web import Page, RequestModel, Router, for_staff, problems

router = Router(prefix="/v1", tags=["catalog"])


#: What one of what a meter counts is called.
Unit = Annotated[str, Field(max_length=20)]


class Named(BaseModel):
    """What all of these have; `revision` counts the edits."""

    id: UUID
    code: str
    name: str
    revision: int
    created_at: datetime

    @classmethod
    def of(cls, entity: Any, **more: Any) -> Self:
        """`more`: what the view says that the entity has not."""
        names = cls.model_fields.keys() - more.keys()
        return cls(**{name: _plain(getattr(entity, name)) for name in names}, **more)


def _plain(value: Any) -> Any:
    if isinstance(value, Decimal):
        return plain(value)
    if isinstance(value, tuple):
        return [
            GrantView(feature=one.feature, limit=one.limit) if isinstance(one, Grant) else one
            for one in value
        ]
    return value


class ProductRequest(RequestModel):
    code: Code
    name: Name
    description: Description = ""


class ProductView(Named):
    description: str
    active: bool


class AddonRequest(ProductRequest):
    features: Features = Field(default_factory=list)


class AddonView(Named):
    description: str
    features: list[GrantView]
    active: bool


class MeterRequest(RequestModel):
    """`grace_hours`: how long after a period usage still counts for it. `unit`: as in `GB`."""

    code: Code
    name: Name
    grace_hours: int = Field(72, ge=0, le=744)
    unit: Unit = ""


class MeterView(Named):
    grace_hours: int
    unit: str
    active: bool


class FeatureRequest(RequestModel):
    code: Code
    name: Name
    type: FeatureType
    meter_id: UUID | None = None


class FeatureView(Named):
    type: FeatureType
    meter_id: UUID | None


class BundleRequest(RequestModel):
    code: Code
    name: Name
    tokens: int = Field(ge=1, le=2**53)
    amount: Amount
    currency: Currency
    tax_category: TaxCategory = "standard"
    expires_after_days: int | None = Field(None, ge=1, le=3660)


class BundleView(Named):
    tokens: int
    amount: int
    currency: str
    tax_category: str
    expires_after_days: int | None
    active: bool


class NewBundleView(BundleView):
    """`warnings`: what is not refused, but should be known."""

    warnings: list[str]


async def store(
    uow: SubscriptionsUnitOfWork, command: Command, entity: Any, view: type[Named], **more: Any
) -> Response:
    kind = type(entity)
    word = kind.__name__.lower()
    if await uow.catalog.is_taken(kind, entity.code):
        raise CodeTaken(f"There is a {word} {entity.code!r} already.")
    uow.catalog.add(entity)
    uow.audit(f"{word}.create", entity.id, after={"code": entity.code})
    return await command.answer(uow, view.of(entity, **more), status=201)


@router.post(
    "/products",
    status_code=201,
    response_model=ProductView,
    responses=problems(CodeTaken),
    dependencies=[for_staff("finance")],
)
async def create_product(body: ProductRequest, command: Command) -> Response:
    """What several plans are about (staff)."""
    async with command.begin() as uow:
        product = Product(id=new_id(), created_at=command.now, **body.model_dump())
        return await store(uow, command, product, ProductView)


@router.get("/products")
async def list_products(query: Browse, page: Paging) -> Page[ProductView]:
    """Products, newest first."""
    async with query.begin() as uow:
        found = await queries.list_all(uow, page, Product, tables.products)
        return page.page(found, ProductView.of, lambda product: product.id)


@router.post(
    "/addons",
    status_code=201,
    response_model=AddonView,
    responses=problems(CodeTaken),
    dependencies=[for_staff("finance")],
)
async def create_addon(body: AddonRequest, command: Command) -> Response:
    """Something sold beside plans (staff). Its prices are made at /v1/prices."""
    async with command.begin() as uow:
        addon = Addon(
            id=new_id(),
            code=body.code,
            name=body.name,
            description=body.description,
            features=granted(body.features),
            created_at=command.now,
        )
        return await store(uow, command, addon, AddonView)


@router.get("/addons")
async def list_addons(query: Browse, page: Paging) -> Page[AddonView]:
    """Add-ons, newest first."""
    async with query.begin() as uow:
        found = await queries.list_all(uow, page, Addon, tables.addons)
        return page.page(found, AddonView.of, lambda addon: addon.id)


@router.post(
    "/meters",
    status_code=201,
    response_model=MeterView,
    responses=problems(CodeTaken),
    dependencies=[for_staff("finance")],
)
async def create_meter(body: MeterRequest, command: Command) -> Response:
    """Something that usage is counted of (staff)."""
    async with command.begin() as uow:
        meter = Meter(id=new_id(), created_at=command.now, **body.model_dump())
        return await store(uow, command, meter, MeterView)


@router.get("/meters")
async def list_meters(query: Browse, page: Paging) -> Page[MeterView]:
    """Meters, newest first."""
    async with query.begin() as uow:
        found = await queries.list_all(uow, page, Meter, tables.meters)
        return page.page(found, MeterView.of, lambda meter: meter.id)


@router.post(
    "/features",
    status_code=201,
    response_model=FeatureView,
    responses=problems(CodeTaken, FeatureInvalid, MeterNotFound, NotOnSale),
    dependencies=[for_staff("finance")],
)
async def create_feature(body: FeatureRequest, command: Command) -> Response:
    """Something that an account may or may not do (staff)."""
    async with command.begin() as uow:
        feature = Feature(id=new_id(), created_at=command.now, **body.model_dump())
        if feature.meter_id is not None:
            await uow.catalog.require_meter(feature.meter_id)
        return await store(uow, command, feature, FeatureView)


@router.get("/features")
async def list_features(query: Browse, page: Paging) -> Page[FeatureView]:
    """Features, newest first."""
    async with query.begin() as uow:
        found = await queries.list_all(uow, page, Feature, tables.features)
        return page.page(found, FeatureView.of, lambda feature: feature.id)


@router.post(
    "/bundles",
    status_code=201,
    response_model=NewBundleView,
    responses=problems(CodeTaken, AmountTooLarge),
    dependencies=[for_staff("finance")],
)
async def create_bundle(body: BundleRequest, command: Command) -> Response:
    """So many tokens for an amount (staff)."""
    warnings = await tax_warnings(command, body.tax_category)
    async with command.begin() as uow:
        bundle = Bundle(id=new_id(), created_at=command.now, **body.model_dump())
        return await store(uow, command, bundle, NewBundleView, warnings=warnings)


@router.get("/bundles")
async def list_bundles(query: Browse, page: Paging) -> Page[BundleView]:
    """Bundles, newest first."""
    async with query.begin() as uow:
        found = await queries.list_all(uow, page, Bundle, tables.bundles)
        return page.page(found, BundleView.of, lambda bundle: bundle.id)
