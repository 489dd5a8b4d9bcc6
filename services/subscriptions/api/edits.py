"""One thing of the catalog: read, edited, taken off sale and put back.

An edit rewrites nothing that was agreed: what somebody has stays as they took it. `If-Match`
with the ETag of an answer refuses an edit of what changed since; archiving and putting back go
by the same rules, and doing either twice does nothing more.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar
from uuid import UUID

from fastapi import Response
from pydantic import AwareDatetime, BaseModel

from services.subscriptions import queries
from services.subscriptions.api.catalog import Description, Features, Name, granted
from services.subscriptions.api.coupons import CouponView, Limit, PromotionCodeView
from services.subscriptions.api.edge import UNCHANGED, Browse, Command, EditRequest, Query
from services.subscriptions.api.offers import (
    AddonView,
    BundleView,
    FeatureView,
    MeterView,
    ProductView,
    Unit,
)
from services.subscriptions.domain.catalog import (
    Addon,
    AddonNotFound,
    Bundle,
    BundleNotFound,
    Editable,
    Feature,
    FeatureNotFound,
    Meter,
    MeterNotFound,
    Product,
    ProductNotFound,
)
from services.subscriptions.domain.coupon import (
    Coupon,
    CouponInvalid,
    CouponNotFound,
    PromotionCode,
    PromotionCodeNotFound,
)
from services.subscriptions.use_cases.edit_catalog import edit_entry
from shared.errors import NotFound, PreconditionFailed
from shared.web import Router, for_staff, problems

router = Router(prefix="/v1", tags=["catalog"])

T = TypeVar("T", bound=Editable)


@dataclass(frozen=True)
class Shelf(Generic[T]):
    """One kind of thing in the catalog."""

    word: str
    kind: type[T]
    refusal: type[NotFound]
    view: Any

    async def read(self, query: Query, entry_id: UUID) -> Response:
        async with query.begin() as uow:
            entry = await queries.read(uow, self.kind, entry_id, self.refusal)
            return query.reply(self.view.of(entry))

    async def edit(
        self, command: Command, entry_id: UUID, changes: Mapping[str, Any], *, verb: str = "edit"
    ) -> Response:
        async with command.begin() as uow:
            entry = await uow.catalog.get(self.kind, entry_id, self.refusal)
            command.require_version(entry.revision)
            await edit_entry(uow, entry, changes, action=f"{self.word}.{verb}")
            answer: BaseModel = self.view.of(entry)
            return await command.answer(uow, answer)

    async def archive(self, command: Command, entry_id: UUID) -> Response:
        return await self.edit(command, entry_id, {"active": False}, verb="archive")

    async def unarchive(self, command: Command, entry_id: UUID) -> Response:
        return await self.edit(command, entry_id, {"active": True}, verb="unarchive")


PRODUCTS = Shelf("product", Product, ProductNotFound, ProductView)
ADDONS = Shelf("addon", Addon, AddonNotFound, AddonView)
METERS = Shelf("meter", Meter, MeterNotFound, MeterView)
FEATURES = Shelf("feature", Feature, FeatureNotFound, FeatureView)
BUNDLES = Shelf("bundle", Bundle, BundleNotFound, BundleView)
COUPONS = Shelf("coupon", Coupon, CouponNotFound, CouponView)
PROMOTION_CODES = Shelf("promotion_code", PromotionCode, PromotionCodeNotFound, PromotionCodeView)

#: Who of the staff may edit the catalog; a code is as good as money.
EDITOR = for_staff("finance")

PRODUCT = problems(ProductNotFound)
PRODUCT_CHANGE = problems(ProductNotFound, PreconditionFailed)
ADDON = problems(AddonNotFound)
ADDON_CHANGE = problems(AddonNotFound, PreconditionFailed)
METER = problems(MeterNotFound)
METER_CHANGE = problems(MeterNotFound, PreconditionFailed)
FEATURE = problems(FeatureNotFound)
FEATURE_CHANGE = problems(FeatureNotFound, PreconditionFailed)
BUNDLE = problems(BundleNotFound)
BUNDLE_CHANGE = problems(BundleNotFound, PreconditionFailed)
COUPON = problems(CouponNotFound)
COUPON_CHANGE = problems(CouponNotFound, PreconditionFailed, CouponInvalid)
CODE = problems(PromotionCodeNotFound)
CODE_CHANGE = problems(PromotionCodeNotFound, PreconditionFailed, CouponInvalid)


class NameEdit(EditRequest):
    name: Name = UNCHANGED


class ProductEdit(NameEdit):
    description: Description = UNCHANGED


class AddonEdit(ProductEdit):
    """`features` are replaced as a whole, also for those who have it."""

    features: Features = UNCHANGED

    def changes(self) -> dict[str, Any]:
        changes = super().changes()
        if "features" in changes:
            changes["features"] = granted(self.features)
        return changes


class MeterEdit(NameEdit):
    unit: Unit = UNCHANGED


class CouponEdit(NameEdit):
    """What it takes off stays. Null is without limit, but never below what was redeemed."""

    max_redemptions: Limit | None = UNCHANGED
    max_per_account: Limit = UNCHANGED
    redeem_by: AwareDatetime | None = UNCHANGED


class PromotionCodeEdit(EditRequest):
    """Null is without limit, but never below what was redeemed."""

    max_redemptions: Limit | None = UNCHANGED
    expires_at: AwareDatetime | None = UNCHANGED


@router.get("/products/{product_id}", response_model=ProductView, responses=PRODUCT)
async def read_product(product_id: UUID, query: Browse) -> Response:
    """One product."""
    return await PRODUCTS.read(query, product_id)


@router.patch(
    "/products/{product_id}",
    response_model=ProductView,
    responses=PRODUCT_CHANGE,
    dependencies=[EDITOR],
)
async def edit_product(product_id: UUID, body: ProductEdit, command: Command) -> Response:
    """Edit a product (staff)."""
    return await PRODUCTS.edit(command, product_id, body.changes())


@router.post(
    "/products/{product_id}/archive",
    response_model=ProductView,
    responses=PRODUCT_CHANGE,
    dependencies=[EDITOR],
)
async def archive_product(product_id: UUID, command: Command) -> Response:
    """Take no more plans under it (staff); those that it has go on."""
    return await PRODUCTS.archive(command, product_id)


@router.post(
    "/products/{product_id}/unarchive",
    response_model=ProductView,
    responses=PRODUCT_CHANGE,
    dependencies=[EDITOR],
)
async def unarchive_product(product_id: UUID, command: Command) -> Response:
    """Take plans under it again (staff)."""
    return await PRODUCTS.unarchive(command, product_id)


@router.get("/addons/{addon_id}", response_model=AddonView, responses=ADDON)
async def read_addon(addon_id: UUID, query: Browse) -> Response:
    """One add-on, also when it is no longer on sale."""
    return await ADDONS.read(query, addon_id)


@router.patch(
    "/addons/{addon_id}", response_model=AddonView, responses=ADDON_CHANGE, dependencies=[EDITOR]
)
async def edit_addon(addon_id: UUID, body: AddonEdit, command: Command) -> Response:
    """Edit an add-on (staff)."""
    return await ADDONS.edit(command, addon_id, body.changes())


@router.post(
    "/addons/{addon_id}/archive",
    response_model=AddonView,
    responses=ADDON_CHANGE,
    dependencies=[EDITOR],
)
async def archive_addon(addon_id: UUID, command: Command) -> Response:
    """Sell it no more (staff); who has it keeps it."""
    return await ADDONS.archive(command, addon_id)


@router.post(
    "/addons/{addon_id}/unarchive",
    response_model=AddonView,
    responses=ADDON_CHANGE,
    dependencies=[EDITOR],
)
async def unarchive_addon(addon_id: UUID, command: Command) -> Response:
    """Sell it again (staff)."""
    return await ADDONS.unarchive(command, addon_id)


@router.get("/meters/{meter_id}", response_model=MeterView, responses=METER)
async def read_meter(meter_id: UUID, query: Browse) -> Response:
    """One meter."""
    return await METERS.read(query, meter_id)


@router.patch(
    "/meters/{meter_id}", response_model=MeterView, responses=METER_CHANGE, dependencies=[EDITOR]
)
async def edit_meter(meter_id: UUID, body: MeterEdit, command: Command) -> Response:
    """Edit what a meter and one of its units are called (staff)."""
    return await METERS.edit(command, meter_id, body.changes())


@router.post(
    "/meters/{meter_id}/archive",
    response_model=MeterView,
    responses=METER_CHANGE,
    dependencies=[EDITOR],
)
async def archive_meter(meter_id: UUID, command: Command) -> Response:
    """Take no more prices and features on it (staff); what it counts for is counted on."""
    return await METERS.archive(command, meter_id)


@router.post(
    "/meters/{meter_id}/unarchive",
    response_model=MeterView,
    responses=METER_CHANGE,
    dependencies=[EDITOR],
)
async def unarchive_meter(meter_id: UUID, command: Command) -> Response:
    """Take prices and features on it again (staff)."""
    return await METERS.unarchive(command, meter_id)


@router.get("/features/{feature_id}", response_model=FeatureView, responses=FEATURE)
async def read_feature(feature_id: UUID, query: Browse) -> Response:
    """One feature."""
    return await FEATURES.read(query, feature_id)


@router.patch(
    "/features/{feature_id}",
    response_model=FeatureView,
    responses=FEATURE_CHANGE,
    dependencies=[EDITOR],
)
async def edit_feature(feature_id: UUID, body: NameEdit, command: Command) -> Response:
    """Edit what a feature is called (staff)."""
    return await FEATURES.edit(command, feature_id, body.changes())


@router.get("/bundles/{bundle_id}", response_model=BundleView, responses=BUNDLE)
async def read_bundle(bundle_id: UUID, query: Browse) -> Response:
    """One bundle of tokens, also when it is no longer on sale."""
    return await BUNDLES.read(query, bundle_id)


@router.patch(
    "/bundles/{bundle_id}",
    response_model=BundleView,
    responses=BUNDLE_CHANGE,
    dependencies=[EDITOR],
)
async def edit_bundle(bundle_id: UUID, body: NameEdit, command: Command) -> Response:
    """Edit what a bundle is called (staff)."""
    return await BUNDLES.edit(command, bundle_id, body.changes())


@router.post(
    "/bundles/{bundle_id}/archive",
    response_model=BundleView,
    responses=BUNDLE_CHANGE,
    dependencies=[EDITOR],
)
async def archive_bundle(bundle_id: UUID, command: Command) -> Response:
    """Sell it no more (staff)."""
    return await BUNDLES.archive(command, bundle_id)


@router.post(
    "/bundles/{bundle_id}/unarchive",
    response_model=BundleView,
    responses=BUNDLE_CHANGE,
    dependencies=[EDITOR],
)
async def unarchive_bundle(bundle_id: UUID, command: Command) -> Response:
    """Sell it again (staff)."""
    return await BUNDLES.unarchive(command, bundle_id)


@router.get(
    "/coupons/{coupon_id}",
    response_model=CouponView,
    responses=COUPON,
    tags=["coupons"],
    dependencies=[for_staff()],
)
async def read_coupon(coupon_id: UUID, query: Query) -> Response:
    """One coupon (staff)."""
    return await COUPONS.read(query, coupon_id)


@router.patch(
    "/coupons/{coupon_id}",
    response_model=CouponView,
    responses=COUPON_CHANGE,
    tags=["coupons"],
    dependencies=[EDITOR],
)
async def edit_coupon(coupon_id: UUID, body: CouponEdit, command: Command) -> Response:
    """Edit a coupon's name and limits (staff); what was redeemed stays as it was."""
    return await COUPONS.edit(command, coupon_id, body.changes())


@router.post(
    "/coupons/{coupon_id}/archive",
    response_model=CouponView,
    responses=COUPON_CHANGE,
    tags=["coupons"],
    dependencies=[EDITOR],
)
async def archive_coupon(coupon_id: UUID, command: Command) -> Response:
    """Take no more redemptions (staff); what it gave stays."""
    return await COUPONS.archive(command, coupon_id)


@router.post(
    "/coupons/{coupon_id}/unarchive",
    response_model=CouponView,
    responses=COUPON_CHANGE,
    tags=["coupons"],
    dependencies=[EDITOR],
)
async def unarchive_coupon(coupon_id: UUID, command: Command) -> Response:
    """Take redemptions again (staff), within its limits."""
    return await COUPONS.unarchive(command, coupon_id)


@router.get(
    "/promotion-codes/{promotion_code_id}",
    response_model=PromotionCodeView,
    responses=CODE,
    tags=["coupons"],
    dependencies=[for_staff()],
)
async def read_promotion_code(promotion_code_id: UUID, query: Query) -> Response:
    """One promotion code (staff)."""
    return await PROMOTION_CODES.read(query, promotion_code_id)


@router.patch(
    "/promotion-codes/{promotion_code_id}",
    response_model=PromotionCodeView,
    responses=CODE_CHANGE,
    tags=["coupons"],
    dependencies=[EDITOR],
)
async def edit_promotion_code(
    promotion_code_id: UUID, body: PromotionCodeEdit, command: Command
) -> Response:
    """Edit a code's limits (staff); what was redeemed stays as it was."""
    return await PROMOTION_CODES.edit(command, promotion_code_id, body.changes())


@router.post(
    "/promotion-codes/{promotion_code_id}/archive",
    response_model=PromotionCodeView,
    responses=CODE_CHANGE,
    tags=["coupons"],
    dependencies=[EDITOR],
)
async def archive_promotion_code(promotion_code_id: UUID, command: Command) -> Response:
    """Take no more redemptions under it (staff); what it gave stays."""
    return await PROMOTION_CODES.archive(command, promotion_code_id)


@router.post(
    "/promotion-codes/{promotion_code_id}/unarchive",
    response_model=PromotionCodeView,
    responses=CODE_CHANGE,
    tags=["coupons"],
    dependencies=[EDITOR],
)
async def unarchive_promotion_code(promotion_code_id: UUID, command: Command) -> Response:
    """Take redemptions under it again (staff), within its limits."""
    return await PROMOTION_CODES.unarchive(command, promotion_code_id)
