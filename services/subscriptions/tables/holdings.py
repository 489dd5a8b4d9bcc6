"""Subscriptions, and what each of them has used up: billed periods, coupons, trials."""

from sqlalchemy import (
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    ForeignKey,
    Index,
    Integer,
    SmallInteger,
    Table,
    Text,
    Uuid,
    text,
)

from services.subscriptions.domain.agenda import Agenda
from services.subscriptions.domain.charges import BilledCharge, Item
from services.subscriptions.domain.coupon import AppliedDiscount
from services.subscriptions.domain.period import Billing, IntervalUnit
from services.subscriptions.domain.subscription import (
    PendingChange,
    ScheduledChange,
    Status,
    Subscription,
)
from services.subscriptions.tables.catalog import coupons, plans, prices, promotion_codes
from services.subscriptions.tables.columns import (
    choice,
    id_,
    json_,
    mapping,
    metadata,
    moment,
    text_,
    version,
)

subscriptions = Table(
    "subscriptions",
    metadata,
    id_(),
    Column("account_id", Uuid, nullable=False),
    Column("project_id", Uuid),
    Column("plan_id", ForeignKey(plans.c.id), nullable=False),
    Column("price_id", ForeignKey(prices.c.id), nullable=False),
    Column("quantity", Integer, nullable=False),
    json_("items", tuple[Item, ...]),
    text_("currency"),
    choice("status", Status),
    choice("billing", Billing),
    text_("time_zone"),
    moment("anchor"),
    choice("interval_unit", IntervalUnit),
    Column("interval_count", SmallInteger, nullable=False),
    Column("period_index", Integer, nullable=False),
    moment("period_start"),
    moment("period_end"),
    moment("basis_start"),
    # Both with a default, for rows of an earlier release that still runs.
    json_("billed", tuple[BilledCharge, ...], server_default=text("'[]'")),
    json_("agenda", Agenda, server_default=text("'[]'")),
    Column("kept_version", Integer),
    json_("pending_change", PendingChange, nullable=True),
    moment("usage_due_at", nullable=True),
    moment("trial_end", nullable=True),
    Column("trial_reminded", Boolean, nullable=False),
    moment("expires_at", nullable=True),
    Column("cancel_at_period_end", Boolean, nullable=False),
    moment("cancel_at", nullable=True),
    Column("cancel_reason", Text),
    Column("cancel_with_credit", Boolean, nullable=False),
    moment("canceled_at", nullable=True),
    moment("lapsed_at", nullable=True),
    Column("pause_at_period_end", Boolean, nullable=False),
    moment("paused_at", nullable=True),
    moment("resumes_at", nullable=True),
    json_("scheduled_change", ScheduledChange, nullable=True),
    json_("discounts", tuple[AppliedDiscount, ...]),
    Column("payment_method_id", Uuid),
    Column("latest_invoice_id", Uuid),
    moment("due_at", nullable=True),
    moment("parked_at", nullable=True),
    Column("parked_reason", Text),
    version(),
    moment("created_at"),
    moment("updated_at"),
    CheckConstraint("period_start < period_end", name="period"),
    CheckConstraint("basis_start <= period_start", name="basis"),
    CheckConstraint("quantity >= 1", name="quantity"),
    CheckConstraint("version >= 1", name="version"),
    CheckConstraint("status <> 'trialing' OR trial_end IS NOT NULL", name="trial"),
    CheckConstraint("(status = 'canceled') = (canceled_at IS NOT NULL)", name="canceled"),
    CheckConstraint("lapsed_at IS NULL OR status IN ('canceled', 'paused')", name="lapsed"),
    CheckConstraint("(parked_at IS NULL) = (parked_reason IS NULL)", name="parked"),
    CheckConstraint("due_at IS NULL OR parked_at IS NULL", name="parked_rests"),
    # The renewal run: what is due, oldest first, and nothing else.
    Index("ix_subscriptions_due_at", "due_at", postgresql_where=text("due_at IS NOT NULL")),
    # An account's list, newest first, and its earliest due instant.
    Index("ix_subscriptions_account_id", "account_id", "id"),
    # A bulk move: who holds this price?
    Index("ix_subscriptions_price_id", "price_id", "id"),
    # What an earlier release stopped looking at; empty, once it runs no more.
    Index(
        "ix_subscriptions_left_waiting",
        "id",
        postgresql_where=text(
            "due_at IS NULL AND parked_at IS NULL AND cancel_at_period_end"
            " AND status IN ('unpaid', 'paused')"
        ),
    ),
    # GET /v1/ops/stuck.
    Index("ix_subscriptions_parked", "id", postgresql_where=text("parked_at IS NOT NULL")),
)

billed_periods = Table(
    "billed_periods",
    metadata,
    Column("subscription_id", ForeignKey(subscriptions.c.id), primary_key=True),
    Column("reason", Text, primary_key=True),
    Column("period_start", DateTime(timezone=True), primary_key=True),
    moment("period_end"),
    Column("event_id", Uuid, nullable=False),
    CheckConstraint("reason IN ('start', 'cycle', 'resume')", name="reason"),
    CheckConstraint("period_start < period_end", name="period"),
)

redemptions = Table(
    "redemptions",
    metadata,
    id_(),
    Column("coupon_id", ForeignKey(coupons.c.id), nullable=False),
    Column("promotion_code_id", ForeignKey(promotion_codes.c.id)),
    Column("account_id", Uuid, nullable=False),
    Column("subscription_id", ForeignKey(subscriptions.c.id), nullable=False),
    moment("created_at"),
    # The subscription is billed without it since, and these periods of it were left.
    moment("taken_off_at", nullable=True),
    Column("periods_left", Integer),
    CheckConstraint("periods_left >= 0", name="periods_left"),
    # Of this coupon, what is on the subscription, or was?
    Index("ix_redemptions_subscription_id", "subscription_id", "coupon_id"),
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


mapping.map_imperatively(Subscription, subscriptions)
