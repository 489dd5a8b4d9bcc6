"""What happened, and simulated time."""

from typing import Any

from sqlalchemy import (
    Boolean,
    CheckConstraint,
    Column,
    ForeignKey,
    Index,
    Integer,
    Table,
    Text,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

from services.subscriptions.domain.testclock import ClockStatus, SimulatedClock
from services.subscriptions.tables.columns import (
    choice,
    id_,
    mapping,
    metadata,
    moment,
    text_,
    version,
)

timeline = Table(
    "timeline",
    metadata,
    Column("event_id", Uuid, primary_key=True),
    text_("name"),
    Column("account_id", Uuid, nullable=False),
    Column("subscription_id", Uuid),
    Column("subject", Uuid, nullable=False),
    Column("sequence", Integer, nullable=False),
    moment("occurred_at"),
    text_("correlation_id"),
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

test_clocks = Table(
    "test_clocks",
    metadata,
    id_(),
    Column("account_id", Uuid, nullable=False, unique=True),
    moment("now"),
    moment("target"),
    choice("status", ClockStatus),
    Column("revision", Integer, nullable=False),
    Column("steps", Integer, nullable=False),
    Column("looks_again", Boolean, nullable=False),
    Column("seen", JSONB(none_as_null=True)),
    moment("seen_since", nullable=True),
    Column("waiting_for", ARRAY(Text, as_tuple=True), nullable=False),
    version(),
    moment("created_at"),
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


mapping.map_imperatively(TimelineEntry, timeline)
mapping.map_imperatively(SimulatedClock, test_clocks)
