"""What is sold: products, plans, prices, add-ons, bundles, coupons, meters and features."""

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    ForeignKey,
    Index,
    Integer,
    Numeric,
    SmallInteger,
    Table,
    Text,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY

from services.subscriptions.domain.catalog import (
    Addon,
    Bundle,
    Feature,
    FeatureType,
    Grant,
    Meter,
    Product,
)
from services.subscriptions.domain.coupon import Coupon, CouponDuration, PromotionCode
from services.subscriptions.domain.period import IntervalUnit
from services.subscriptions.domain.plan import Plan, PlanStatus, TrialEndBehavior
from services.subscriptions.domain.price import Aggregation, Price, PriceType, TaxBehavior, Tier
from services.subscriptions.domain.price_move import MoveStatus, PriceMove
from services.subscriptions.domain.self_service import SelfService
from services.subscriptions.domain.subscription import Proration
from services.subscriptions.tables.columns import (
    choice,
    id_,
    json_,
    mapping,
    metadata,
    moment,
    revision,
    text_,
    version,
)
from shared.events.subscriptions import DunningPolicy

products = Table(
    "products",
    metadata,
    id_(),
    text_("code", unique=True),
    text_("name"),
    text_("description"),
    Column("active", Boolean, nullable=False, server_default=text("true")),
    revision(),
    moment("created_at"),
)

plans = Table(
    "plans",
    metadata,
    id_(),
    text_("code", unique=True),
    text_("name"),
    text_("description"),
    Column("product_id", ForeignKey(products.c.id)),
    json_("features", tuple[Grant, ...]),
    Column("trial_days", Integer, nullable=False),
    choice("trial_end_behavior", TrialEndBehavior),
    Column("trial_requires_payment_method", Boolean, nullable=False),
    json_("dunning", DunningPolicy),
    json_("self_service", SelfService, usual=SelfService()),
    choice("status", PlanStatus),
    # How many events told of it.
    version(),
    revision(),
    moment("created_at"),
    CheckConstraint("trial_days BETWEEN 0 AND 730", name="trial_days"),
    CheckConstraint("version >= 0", name="version"),
)

addons = Table(
    "addons",
    metadata,
    id_(),
    text_("code", unique=True),
    text_("name"),
    text_("description"),
    json_("features", tuple[Grant, ...]),
    Column("active", Boolean, nullable=False),
    revision(),
    moment("created_at"),
)

meters = Table(
    "meters",
    metadata,
    id_(),
    text_("code", unique=True),
    text_("name"),
    Column("grace_hours", Integer, nullable=False),
    Column("unit", Text, nullable=False, server_default=""),
    Column("active", Boolean, nullable=False, server_default=text("true")),
    revision(),
    moment("created_at"),
    CheckConstraint("grace_hours BETWEEN 0 AND 744", name="grace_hours"),
)

features = Table(
    "features",
    metadata,
    id_(),
    text_("code", unique=True),
    text_("name"),
    choice("type", FeatureType),
    Column("meter_id", ForeignKey(meters.c.id)),
    revision(),
    moment("created_at"),
    CheckConstraint("(type = 'metered') = (meter_id IS NOT NULL)", name="meter"),
)

prices = Table(
    "prices",
    metadata,
    id_(),
    Column("plan_id", ForeignKey(plans.c.id)),
    Column("addon_id", ForeignKey(addons.c.id)),
    Column("currency", Text, nullable=False),
    choice("type", PriceType),
    choice("interval_unit", IntervalUnit, nullable=True),
    Column("interval_count", SmallInteger, nullable=False),
    Column("unit_amount", Numeric(30, 12)),
    json_("tiers", tuple[Tier, ...]),
    Column("tier_mode", Text),
    Column("package_size", Integer),
    Column("free_units", Integer, nullable=False),
    Column("meter_id", ForeignKey(meters.c.id)),
    choice("aggregation", Aggregation, nullable=True),
    choice("tax_behavior", TaxBehavior),
    text_("tax_category"),
    Column("account_id", Uuid),
    # Comes with every other price of its plan in the same currency and rhythm.
    Column("component", Boolean, nullable=False, server_default=text("false")),
    # Among the prices that sell the same.
    version(),
    revision(),
    Column("active", Boolean, nullable=False),
    Column("amount", Numeric(30, 12), nullable=False),
    moment("created_at"),
    CheckConstraint("(plan_id IS NULL) <> (addon_id IS NULL)", name="owner"),
    CheckConstraint("(interval_unit IS NULL) = (type = 'one_off')", name="interval"),
    CheckConstraint("(unit_amount IS NULL) <> (tiers = '[]'::jsonb)", name="unit_amount"),
    CheckConstraint("(type = 'metered') = (meter_id IS NOT NULL)", name="meter"),
    CheckConstraint("amount >= 0 AND (unit_amount IS NULL OR unit_amount >= 0)", name="amount"),
    CheckConstraint("currency ~ '^[A-Z]{3}$'", name="currency"),
    CheckConstraint("tier_mode IN ('graduated', 'volume')", name="tier_mode"),
    CheckConstraint(
        "NOT component OR (type = 'metered' AND plan_id IS NOT NULL)", name="component"
    ),
    # A plan's prices, and which version comes next.
    Index("ix_prices_plan_id", "plan_id"),
    Index("ix_prices_addon_id", "addon_id"),
    # GET /v1/prices and /v1/plans with currency, interval, min_amount, max_amount.
    Index(
        "ix_prices_amount",
        "currency",
        "interval_unit",
        "amount",
        postgresql_where=text("active AND account_id IS NULL"),
    ),
)

bundles = Table(
    "bundles",
    metadata,
    id_(),
    text_("code", unique=True),
    text_("name"),
    Column("tokens", BigInteger, nullable=False),
    Column("amount", BigInteger, nullable=False),
    text_("currency"),
    text_("tax_category"),
    Column("expires_after_days", Integer),
    Column("active", Boolean, nullable=False),
    revision(),
    moment("created_at"),
    CheckConstraint("tokens > 0", name="tokens"),
    CheckConstraint("amount >= 0", name="amount"),
    CheckConstraint("expires_after_days > 0", name="expires_after_days"),
)

coupons = Table(
    "coupons",
    metadata,
    id_(),
    text_("code", unique=True),
    text_("name"),
    Column("percent", Numeric(9, 6)),
    Column("amount", BigInteger),
    Column("currency", Text),
    choice("duration", CouponDuration),
    Column("periods", Integer),
    Column("plan_ids", ARRAY(Uuid, as_tuple=True), nullable=False),
    Column("price_ids", ARRAY(Uuid, as_tuple=True), nullable=False, server_default="{}"),
    Column("max_redemptions", Integer),
    Column("max_per_account", Integer, nullable=False),
    Column("redeemed", Integer, nullable=False),
    moment("redeem_by", nullable=True),
    Column("active", Boolean, nullable=False),
    revision(),
    moment("created_at"),
    CheckConstraint("(percent IS NULL) <> (amount IS NULL)", name="value"),
    CheckConstraint("percent > 0 AND percent <= 100", name="percent"),
    CheckConstraint("amount IS NULL OR (amount > 0 AND currency IS NOT NULL)", name="amount"),
    CheckConstraint("(duration = 'repeating') = (periods IS NOT NULL)", name="periods"),
    # The last word on the limit, whatever the code does.
    CheckConstraint("redeemed >= 0 AND redeemed <= max_redemptions", name="redeemed"),
)

promotion_codes = Table(
    "promotion_codes",
    metadata,
    id_(),
    Column("coupon_id", ForeignKey(coupons.c.id), nullable=False),
    text_("code", unique=True),
    Column("account_id", Uuid),
    Column("first_time_only", Boolean, nullable=False),
    Column("max_redemptions", Integer),
    Column("redeemed", Integer, nullable=False),
    moment("expires_at", nullable=True),
    Column("active", Boolean, nullable=False),
    revision(),
    moment("created_at"),
    CheckConstraint("code = upper(code)", name="code"),
    # The last word on the limit, whatever the code does.
    CheckConstraint("redeemed >= 0 AND redeemed <= max_redemptions", name="redeemed"),
    # GET /v1/promotion-codes?coupon_id=…
    Index("ix_promotion_codes_coupon_id", "coupon_id", "id"),
)

price_moves = Table(
    "price_moves",
    metadata,
    # A bulk move of subscribers from one price to another, a batch at a time.
    id_(),
    Column("from_price_id", ForeignKey(prices.c.id), nullable=False),
    Column("to_price_id", ForeignKey(prices.c.id), nullable=False),
    choice("proration", Proration),
    choice("status", MoveStatus),
    Column("total", Integer, nullable=False),
    Column("moved", Integer, nullable=False),
    Column("failed", Integer, nullable=False),
    Column("last_id", Uuid),
    version(),
    moment("created_at"),
    # The schedule looks for those that are under way.
    Index("ix_price_moves_running", "id", postgresql_where=text("status = 'running'")),
)


mapping.map_imperatively(Product, products)
mapping.map_imperatively(Plan, plans)
mapping.map_imperatively(Addon, addons)
mapping.map_imperatively(Meter, meters)
mapping.map_imperatively(Feature, features)
mapping.map_imperatively(Price, prices)
mapping.map_imperatively(Bundle, bundles)
mapping.map_imperatively(Coupon, coupons)
mapping.map_imperatively(PromotionCode, promotion_codes)
mapping.map_imperatively(PriceMove, price_moves)
