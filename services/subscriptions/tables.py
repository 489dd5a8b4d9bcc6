"""The subscriptions schema and its mapping; Alembic's target."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from pydantic import TypeAdapter
from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    Dialect,
    ForeignKey,
    Index,
    Integer,
    Numeric,
    SmallInteger,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.orm import registry

from services.subscriptions.domain.account import Account, InvoiceState, PaymentMethod
from services.subscriptions.domain.catalog import (
    Addon,
    Bundle,
    Feature,
    FeatureType,
    Grant,
    Meter,
    Product,
)
from services.subscriptions.domain.charges import Item
from services.subscriptions.domain.coupon import AppliedDiscount, Coupon, CouponDuration
from services.subscriptions.domain.period import Billing, IntervalUnit
from services.subscriptions.domain.plan import Plan, PlanStatus, TrialEndBehavior
from services.subscriptions.domain.price import (
    Aggregation,
    Price,
    PriceType,
    TaxBehavior,
    Tier,
)
from services.subscriptions.domain.price_move import MoveStatus, PriceMove
from services.subscriptions.domain.subscription import (
    Proration,
    ScheduledChange,
    Status,
    Subscription,
)
from services.subscriptions.domain.testclock import ClockStatus, SimulatedClock
from services.subscriptions.domain.tokens import OrderStatus, TokenGrant, TokenOrder
from shared.db import service_metadata, stored
from shared.events.subscriptions import DunningPolicy

metadata = service_metadata("subscriptions")
mapping = registry(metadata=metadata)


class Structured(TypeDecorator[Any]):
    """A value object kept as JSON, read and written as the type it is."""

    impl = JSONB(none_as_null=True)
    cache_ok = True

    def __init__(self, kind: Any) -> None:
        super().__init__()
        self.kind = kind
        self._adapter: TypeAdapter[Any] = TypeAdapter(kind)

    def process_bind_param(self, value: Any, dialect: Dialect) -> Any:
        del dialect
        return None if value is None else self._adapter.dump_python(value, mode="json")

    def process_result_value(self, value: Any, dialect: Dialect) -> Any:
        del dialect
        return None if value is None else self._adapter.validate_python(value)


def _moment(name: str, *, nullable: bool = False) -> Column[Any]:
    return Column(name, DateTime(timezone=True), nullable=nullable)


def _choice(name: str, kind: type[StrEnum], *, nullable: bool = False) -> Column[Any]:
    return Column(name, stored(kind), nullable=nullable)


def _json(name: str, kind: Any, *, nullable: bool = False) -> Column[Any]:
    return Column(name, Structured(kind), nullable=nullable)


def _text(name: str, *, unique: bool = False) -> Column[Any]:
    return Column(name, Text, nullable=False, unique=unique)


def _id() -> Column[Any]:
    return Column("id", Uuid, primary_key=True)


def _version() -> Column[Any]:
    return Column("version", Integer, nullable=False)


# --- catalog -----------------------------------------------------------------------------------

products = Table(
    "products",
    metadata,
    _id(),
    _text("code", unique=True),
    _text("name"),
    _text("description"),
    _moment("created_at"),
)

plans = Table(
    "plans",
    metadata,
    _id(),
    _text("code", unique=True),
    _text("name"),
    _text("description"),
    Column("product_id", ForeignKey(products.c.id)),
    _json("features", tuple[Grant, ...]),
    Column("trial_days", Integer, nullable=False),
    _choice("trial_end_behavior", TrialEndBehavior),
    Column("trial_requires_payment_method", Boolean, nullable=False),
    _json("dunning", DunningPolicy),
    _choice("status", PlanStatus),
    _version(),
    _moment("created_at"),
    CheckConstraint("trial_days BETWEEN 0 AND 730", name="trial_days"),
    CheckConstraint("version >= 0", name="version"),
)

addons = Table(
    "addons",
    metadata,
    _id(),
    _text("code", unique=True),
    _text("name"),
    _text("description"),
    _json("features", tuple[Grant, ...]),
    Column("active", Boolean, nullable=False),
    _moment("created_at"),
)

meters = Table(
    "meters",
    metadata,
    _id(),
    _text("code", unique=True),
    _text("name"),
    Column("grace_hours", Integer, nullable=False),
    _moment("created_at"),
    CheckConstraint("grace_hours BETWEEN 0 AND 744", name="grace_hours"),
)

features = Table(
    "features",
    metadata,
    _id(),
    _text("code", unique=True),
    _text("name"),
    _choice("type", FeatureType),
    Column("meter_id", ForeignKey(meters.c.id)),
    _moment("created_at"),
    CheckConstraint("(type = 'metered') = (meter_id IS NOT NULL)", name="meter"),
)

prices = Table(
    "prices",
    metadata,
    _id(),
    Column("plan_id", ForeignKey(plans.c.id)),
    Column("addon_id", ForeignKey(addons.c.id)),
    Column("currency", Text, nullable=False),
    _choice("type", PriceType),
    _choice("interval_unit", IntervalUnit, nullable=True),
    Column("interval_count", SmallInteger, nullable=False),
    Column("unit_amount", Numeric(30, 12)),
    _json("tiers", tuple[Tier, ...]),
    Column("tier_mode", Text),
    Column("package_size", Integer),
    Column("free_units", Integer, nullable=False),
    Column("meter_id", ForeignKey(meters.c.id)),
    _choice("aggregation", Aggregation, nullable=True),
    _choice("tax_behavior", TaxBehavior),
    _text("tax_category"),
    Column("account_id", Uuid),
    _version(),
    Column("active", Boolean, nullable=False),
    Column("amount", Numeric(30, 12), nullable=False),
    _moment("created_at"),
    CheckConstraint("(plan_id IS NULL) <> (addon_id IS NULL)", name="owner"),
    CheckConstraint("(interval_unit IS NULL) = (type = 'one_off')", name="interval"),
    CheckConstraint("(unit_amount IS NULL) <> (tiers = '[]'::jsonb)", name="unit_amount"),
    CheckConstraint("(type = 'metered') = (meter_id IS NOT NULL)", name="meter"),
    CheckConstraint("amount >= 0 AND (unit_amount IS NULL OR unit_amount >= 0)", name="amount"),
    CheckConstraint("currency ~ '^[A-Z]{3}$'", name="currency"),
    CheckConstraint("tier_mode IN ('graduated', 'volume')", name="tier_mode"),
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
    _id(),
    _text("code", unique=True),
    _text("name"),
    Column("tokens", BigInteger, nullable=False),
    Column("amount", BigInteger, nullable=False),
    _text("currency"),
    _text("tax_category"),
    Column("expires_after_days", Integer),
    Column("active", Boolean, nullable=False),
    _moment("created_at"),
    CheckConstraint("tokens > 0", name="tokens"),
    CheckConstraint("amount >= 0", name="amount"),
    CheckConstraint("expires_after_days > 0", name="expires_after_days"),
)

coupons = Table(
    "coupons",
    metadata,
    _id(),
    _text("code", unique=True),
    _text("name"),
    Column("percent", Numeric(9, 6)),
    Column("amount", BigInteger),
    Column("currency", Text),
    _choice("duration", CouponDuration),
    Column("periods", Integer),
    Column("plan_ids", ARRAY(Uuid, as_tuple=True), nullable=False),
    Column("max_redemptions", Integer),
    Column("max_per_account", Integer, nullable=False),
    Column("redeemed", Integer, nullable=False),
    _moment("redeem_by", nullable=True),
    Column("active", Boolean, nullable=False),
    _moment("created_at"),
    CheckConstraint("(percent IS NULL) <> (amount IS NULL)", name="value"),
    CheckConstraint("percent > 0 AND percent <= 100", name="percent"),
    CheckConstraint("amount IS NULL OR (amount > 0 AND currency IS NOT NULL)", name="amount"),
    CheckConstraint("(duration = 'repeating') = (periods IS NOT NULL)", name="periods"),
    # The last word on the limit, whatever the code does.
    CheckConstraint("redeemed >= 0 AND redeemed <= max_redemptions", name="redeemed"),
)

# --- accounts, as other services report them ---------------------------------------------------

accounts = Table(
    "accounts",
    metadata,
    _id(),
    _text("country"),
    _text("time_zone"),
    Column("closed", Boolean, nullable=False),
    _version(),
)

payment_methods = Table(
    "payment_methods",
    metadata,
    _id(),
    Column("account_id", Uuid, nullable=False),
    Column("is_default", Boolean, nullable=False),
    Column("attached", Boolean, nullable=False),
    _version(),
    # Can this account pay?
    Index("ix_payment_methods_account_id", "account_id"),
)

# --- subscriptions -----------------------------------------------------------------------------

subscriptions = Table(
    "subscriptions",
    metadata,
    _id(),
    Column("account_id", Uuid, nullable=False),
    Column("project_id", Uuid),
    Column("plan_id", ForeignKey(plans.c.id), nullable=False),
    Column("price_id", ForeignKey(prices.c.id), nullable=False),
    Column("quantity", Integer, nullable=False),
    _json("items", tuple[Item, ...]),
    _text("currency"),
    _choice("status", Status),
    _choice("billing", Billing),
    _text("time_zone"),
    _moment("anchor"),
    _choice("interval_unit", IntervalUnit),
    Column("interval_count", SmallInteger, nullable=False),
    Column("period_index", Integer, nullable=False),
    _moment("period_start"),
    _moment("period_end"),
    _moment("basis_start"),
    _moment("trial_end", nullable=True),
    Column("trial_reminded", Boolean, nullable=False),
    _moment("expires_at", nullable=True),
    Column("cancel_at_period_end", Boolean, nullable=False),
    _moment("cancel_at", nullable=True),
    Column("cancel_reason", Text),
    Column("cancel_with_credit", Boolean, nullable=False),
    _moment("canceled_at", nullable=True),
    Column("pause_at_period_end", Boolean, nullable=False),
    _moment("paused_at", nullable=True),
    _moment("resumes_at", nullable=True),
    _json("scheduled_change", ScheduledChange, nullable=True),
    _json("discounts", tuple[AppliedDiscount, ...]),
    Column("payment_method_id", Uuid),
    Column("latest_invoice_id", Uuid),
    _moment("due_at", nullable=True),
    _moment("parked_at", nullable=True),
    Column("parked_reason", Text),
    _version(),
    _moment("created_at"),
    _moment("updated_at"),
    CheckConstraint("period_start < period_end", name="period"),
    CheckConstraint("basis_start <= period_start", name="basis"),
    CheckConstraint("quantity >= 1", name="quantity"),
    CheckConstraint("version >= 1", name="version"),
    CheckConstraint("status <> 'trialing' OR trial_end IS NOT NULL", name="trial"),
    CheckConstraint("(status = 'canceled') = (canceled_at IS NOT NULL)", name="canceled"),
    CheckConstraint("(parked_at IS NULL) = (parked_reason IS NULL)", name="parked"),
    CheckConstraint("due_at IS NULL OR parked_at IS NULL", name="parked_rests"),
    # The renewal run: what is due, oldest first, and nothing else.
    Index("ix_subscriptions_due_at", "due_at", postgresql_where=text("due_at IS NOT NULL")),
    # An account's list, newest first, and its earliest due instant.
    Index("ix_subscriptions_account_id", "account_id", "id"),
    # A bulk move: who holds this price?
    Index("ix_subscriptions_price_id", "price_id", "id"),
    # GET /v1/ops/stuck.
    Index("ix_subscriptions_parked", "id", postgresql_where=text("parked_at IS NOT NULL")),
)

billed_periods = Table(
    "billed_periods",
    metadata,
    Column("subscription_id", ForeignKey(subscriptions.c.id), primary_key=True),
    Column("reason", Text, primary_key=True),
    Column("period_start", DateTime(timezone=True), primary_key=True),
    _moment("period_end"),
    Column("event_id", Uuid, nullable=False),
    CheckConstraint("reason IN ('start', 'cycle', 'resume')", name="reason"),
    CheckConstraint("period_start < period_end", name="period"),
)

invoice_states = Table(
    "invoice_states",
    metadata,
    Column("invoice_id", Uuid, primary_key=True),
    Column("subscription_id", Uuid),
    Column("subscription_ids", ARRAY(Uuid), nullable=False, server_default=text("'{}'")),
    Column("account_id", Uuid, nullable=False),
    Column("is_first", Boolean, nullable=False),
    Column("paid", Boolean, nullable=False),
    Column("dropped", Boolean, nullable=False),
    Column("dunning", Boolean, nullable=False),
    Column("exhausted", Text),
    CheckConstraint("exhausted IN ('cancel', 'unpaid', 'pause')", name="exhausted"),
    # What a subscription still owes, and whether its first invoice is paid.
    Index("ix_invoice_states_subscription_id", "subscription_id"),
    # The same, of consolidated invoices.
    Index("ix_invoice_states_subscription_ids", "subscription_ids", postgresql_using="gin"),
)

redemptions = Table(
    "redemptions",
    metadata,
    _id(),
    Column("coupon_id", ForeignKey(coupons.c.id), nullable=False),
    Column("account_id", Uuid, nullable=False),
    Column("subscription_id", ForeignKey(subscriptions.c.id), nullable=False),
    _moment("created_at"),
    UniqueConstraint("coupon_id", "subscription_id"),
    # How often has this account used it?
    Index("ix_redemptions_account_id", "account_id", "coupon_id"),
)

trial_uses = Table(
    "trial_uses",
    metadata,
    # One trial per account and plan: the guard against trials without end.
    Column("account_id", Uuid, primary_key=True),
    Column("plan_id", ForeignKey(plans.c.id), primary_key=True),
    Column("subscription_id", Uuid, nullable=False),
)

# --- usage -------------------------------------------------------------------------------------

usage_events = Table(
    "usage_events",
    metadata,
    # The sender's id makes it count once.
    Column("account_id", Uuid, primary_key=True),
    Column("id", Text, primary_key=True),
    Column("meter_id", ForeignKey(meters.c.id), nullable=False),
    Column("subscription_id", Uuid, nullable=False),
    Column("value", Numeric(30, 12), nullable=False),
    Column("member", Text),
    _moment("at"),
    _moment("bucket_start"),
    Column("voided", Boolean, nullable=False, server_default=text("false")),
    _moment("received_at"),
    # A correction adds its bucket up again.
    Index("ix_usage_events_bucket", "subscription_id", "meter_id", "bucket_start"),
    # The retention run.
    Index("ix_usage_events_received_at", "received_at"),
)

usage_buckets = Table(
    "usage_buckets",
    metadata,
    Column("subscription_id", Uuid, primary_key=True),
    Column("meter_id", Uuid, primary_key=True),
    Column("bucket_start", DateTime(timezone=True), primary_key=True),
    Column("total", Numeric(38, 12), nullable=False),
    Column("count", BigInteger, nullable=False),
    Column("highest", Numeric(30, 12)),
    Column("latest", Numeric(30, 12)),
    _moment("latest_at", nullable=True),
    CheckConstraint("count >= 0", name="count"),
)

usage_members = Table(
    "usage_members",
    metadata,
    # For unique counts: each member once per bucket.
    Column("subscription_id", Uuid, primary_key=True),
    Column("meter_id", Uuid, primary_key=True),
    Column("bucket_start", DateTime(timezone=True), primary_key=True),
    Column("member", Text, primary_key=True),
)

usage_windows = Table(
    "usage_windows",
    metadata,
    # What was billed for a window of a metered item; late usage is billed as the difference.
    Column("subscription_id", ForeignKey(subscriptions.c.id), primary_key=True),
    Column("item_id", Uuid, primary_key=True),
    Column("window_start", DateTime(timezone=True), primary_key=True),
    _moment("window_end"),
    Column("price_id", ForeignKey(prices.c.id), nullable=False),
    Column("used", Numeric(38, 12), nullable=False),
    Column("billed", BigInteger, nullable=False),
    CheckConstraint("window_start < window_end", name="window"),
)

usage_alerts = Table(
    "usage_alerts",
    metadata,
    # Each threshold is told once per period.
    Column("subscription_id", Uuid, primary_key=True),
    Column("feature", Text, primary_key=True),
    Column("period_start", DateTime(timezone=True), primary_key=True),
    Column("percent", SmallInteger, primary_key=True),
)

# --- tokens ------------------------------------------------------------------------------------

token_orders = Table(
    "token_orders",
    metadata,
    _id(),
    Column("account_id", Uuid, nullable=False),
    Column("bundle_id", ForeignKey(bundles.c.id), nullable=False),
    Column("tokens", BigInteger, nullable=False),
    Column("amount", BigInteger, nullable=False),
    _text("currency"),
    Column("expires_after_days", Integer),
    _choice("status", OrderStatus),
    _version(),
    _moment("created_at"),
    Index("ix_token_orders_account_id", "account_id", "id"),
)

token_grants = Table(
    "token_grants",
    metadata,
    _id(),
    Column("account_id", Uuid, nullable=False),
    Column("order_id", ForeignKey(token_orders.c.id), unique=True),
    Column("granted", BigInteger, nullable=False),
    Column("remaining", BigInteger, nullable=False),
    _moment("expires_at", nullable=True),
    _moment("created_at"),
    # The last word, whatever the code does.
    CheckConstraint("remaining BETWEEN 0 AND granted", name="remaining"),
    # A debit: what is left, soonest to expire first.
    Index(
        "ix_token_grants_left",
        "account_id",
        "expires_at",
        postgresql_where=text("remaining > 0"),
    ),
)

token_entries = Table(
    "token_entries",
    metadata,
    _id(),
    Column("account_id", Uuid, nullable=False),
    Column("grant_id", ForeignKey(token_grants.c.id), nullable=False),
    Column("kind", Text, nullable=False),
    Column("amount", BigInteger, nullable=False),
    Column("reason", Text),
    # The debit that this is a part of.
    Column("debit_id", Uuid),
    _moment("created_at"),
    CheckConstraint("kind IN ('grant', 'debit', 'expiry', 'refund')", name="kind"),
    CheckConstraint("(kind = 'grant') = (amount > 0) AND amount <> 0", name="amount"),
    Index("ix_token_entries_account_id", "account_id", "id"),
)

price_moves = Table(
    "price_moves",
    metadata,
    # A bulk move of subscribers from one price to another, a batch at a time.
    _id(),
    Column("from_price_id", ForeignKey(prices.c.id), nullable=False),
    Column("to_price_id", ForeignKey(prices.c.id), nullable=False),
    _choice("proration", Proration),
    _choice("status", MoveStatus),
    Column("total", Integer, nullable=False),
    Column("moved", Integer, nullable=False),
    Column("failed", Integer, nullable=False),
    Column("last_id", Uuid),
    _version(),
    _moment("created_at"),
    # The schedule looks for those that are under way.
    Index("ix_price_moves_running", "id", postgresql_where=text("status = 'running'")),
)

stale_entitlements = Table(
    "stale_entitlements",
    metadata,
    # Accounts whose cached entitlements are out of date, until a worker has told Redis.
    Column("account_id", Uuid, primary_key=True),
    Column("marked_at", DateTime(timezone=True), primary_key=True),
)

# --- what happened -----------------------------------------------------------------------------

timeline = Table(
    "timeline",
    metadata,
    Column("event_id", Uuid, primary_key=True),
    _text("name"),
    Column("account_id", Uuid, nullable=False),
    Column("subscription_id", Uuid),
    Column("subject", Uuid, nullable=False),
    Column("sequence", Integer, nullable=False),
    _moment("occurred_at"),
    _text("correlation_id"),
    Column("causation_id", Text),
    Column("data", JSONB, nullable=False),
    # GET /v1/subscriptions/{id}/timeline, in order.
    Index(
        "ix_timeline_subscription_id",
        "subscription_id",
        "event_id",
        postgresql_where=text("subscription_id IS NOT NULL"),
    ),
    # The same, of invoices that bill several subscriptions.
    Index(
        "ix_timeline_invoice_id",
        text("(data ->> 'invoice_id')"),
        "event_id",
        postgresql_where=text("subscription_id IS NULL"),
    ),
)

# --- test clocks -------------------------------------------------------------------------------

test_clocks = Table(
    "test_clocks",
    metadata,
    _id(),
    Column("account_id", Uuid, nullable=False, unique=True),
    _moment("now"),
    _moment("target"),
    _choice("status", ClockStatus),
    Column("revision", Integer, nullable=False),
    Column("steps", Integer, nullable=False),
    Column("looks_again", Boolean, nullable=False),
    Column("seen", JSONB(none_as_null=True)),
    _moment("seen_since", nullable=True),
    Column("waiting_for", ARRAY(Text, as_tuple=True), nullable=False),
    _version(),
    _moment("created_at"),
    CheckConstraint("now <= target", name="target"),
)

test_clock_reports = Table(
    "test_clock_reports",
    metadata,
    Column("clock_id", ForeignKey(test_clocks.c.id, ondelete="CASCADE"), primary_key=True),
    Column("service", Text, primary_key=True),
    Column("revision", Integer, nullable=False),
    Column("body", JSONB, nullable=False),
)


class TimelineEntry:
    """A row of the timeline, mapped so that reads stay within the account."""

    event_id: Any
    name: str
    account_id: Any
    subscription_id: Any
    subject: Any
    sequence: int
    occurred_at: Any
    correlation_id: str
    causation_id: str | None
    data: dict[str, Any]


@dataclass(eq=False, kw_only=True)
class UsageRow:
    """A stored usage event, mapped so that reads stay within the account."""

    account_id: Any
    id: str
    meter_id: Any
    subscription_id: Any
    value: Any
    member: str | None
    at: Any
    bucket_start: Any
    voided: bool
    received_at: Any


for _kind, _table in (
    (Product, products),
    (Plan, plans),
    (Addon, addons),
    (Meter, meters),
    (Feature, features),
    (Price, prices),
    (Bundle, bundles),
    (Coupon, coupons),
    (Account, accounts),
    (PaymentMethod, payment_methods),
    (Subscription, subscriptions),
    (InvoiceState, invoice_states),
    (TimelineEntry, timeline),
    (SimulatedClock, test_clocks),
    (TokenOrder, token_orders),
    (TokenGrant, token_grants),
    (PriceMove, price_moves),
    (UsageRow, usage_events),
):
    mapping.map_imperatively(_kind, _table)
