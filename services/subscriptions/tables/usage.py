"""Usage events, the buckets they add up in, what of them was billed, and what was told."""

from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    ForeignKey,
    Index,
    Numeric,
    SmallInteger,
    Table,
    Text,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY

from services.subscriptions.tables.catalog import meters, prices
from services.subscriptions.tables.columns import json_, mapping, metadata, moment
from services.subscriptions.tables.holdings import subscriptions
from shared.events.subscriptions import Discount

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
    moment("at"),
    moment("bucket_start"),
    Column("voided", Boolean, nullable=False, server_default=text("false")),
    moment("received_at"),
    # A correction adds its bucket up again.
    Index("ix_usage_events_bucket", "subscription_id", "meter_id", "bucket_start"),
    # The retention run.
    Index("ix_usage_events_received_at", "received_at"),
    # GET /v1/usage-events, newest first.
    Index("ix_usage_events_account_id_at_id", "account_id", "at", "id"),
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
    moment("latest_at", nullable=True),
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
    moment("window_end"),
    Column("price_id", ForeignKey(prices.c.id), nullable=False),
    Column("used", Numeric(38, 12), nullable=False),
    Column("billed", BigInteger, nullable=False),
    # The charges that stand for it, and the percentages off with which it was billed.
    Column("charge_ids", ARRAY(Uuid, as_tuple=True), nullable=False, server_default=text("'{}'")),
    json_("discounts", tuple[Discount, ...], server_default=text("'[]'")),
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

stale_entitlements = Table(
    "stale_entitlements",
    metadata,
    # Accounts whose cached entitlements are out of date, until a worker has told Redis.
    Column("account_id", Uuid, primary_key=True),
    Column("marked_at", DateTime(timezone=True), primary_key=True),
)


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


mapping.map_imperatively(UsageRow, usage_events)
