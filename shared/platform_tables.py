"""The tables that every service has beside its own, apart from those of the message path."""

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    DateTime,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    Uuid,
)
from sqlalchemy.dialects.postgresql import JSONB


def add_platform_tables(metadata: MetaData) -> None:
    """Declare them in the service's schema."""
    Table(
        "idempotency_keys",
        metadata,
        Column("scope", Text, primary_key=True),
        Column("key", Text, primary_key=True),
        Column("request_hash", LargeBinary, nullable=False),
        Column("status", Integer, nullable=False),
        Column("headers", JSONB, nullable=False),
        Column("body", LargeBinary, nullable=False),
        Column("created_at", DateTime(timezone=True), nullable=False),
        # The hourly clean-up looks for what is older than a day.
        Index("ix_idempotency_keys_created_at", "created_at"),
    )
    Table(
        "audit_log",
        metadata,
        Column("id", Uuid, primary_key=True),
        Column("at", DateTime(timezone=True), nullable=False),
        Column("actor", Text, nullable=False),
        Column("action", Text, nullable=False),
        Column("subject", Text, nullable=False),
        Column("account_id", Uuid),
        Column("before", JSONB),
        Column("after", JSONB),
        Column("request_id", Text, nullable=False),
        # "What happened to this thing?" and "what happened in this account?"
        Index("ix_audit_log_subject", "subject", "id"),
        Index("ix_audit_log_account_id", "account_id", "id"),
    )
    Table(
        "account_clocks",
        metadata,
        Column("account_id", Uuid, primary_key=True),
        Column("clock_id", Uuid, nullable=False),
        Column("now", DateTime(timezone=True), nullable=False),
        # Where it is going; null as heard from a release that did not say.
        Column("target", DateTime(timezone=True)),
        Column("revision", Integer, nullable=False),
        Column("reported_revision", Integer, nullable=False, server_default="0"),
        CheckConstraint("reported_revision <= revision", name="reported_revision"),
    )
    # A round that is heard of late must not bring back a clock that is gone.
    Table("deleted_clocks", metadata, Column("clock_id", Uuid, primary_key=True))
    Table(
        "clock_activity",
        metadata,
        Column("account_id", Uuid, primary_key=True),
        Column("direction", Text, primary_key=True),
        Column("name", Text, primary_key=True),
        Column("count", BigInteger, nullable=False),
        CheckConstraint("direction IN ('emitted', 'handled')", name="direction"),
    )
