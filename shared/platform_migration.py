"""The migrations of what every service has, as literal history."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB


def create_platform_tables() -> None:
    """Idempotency keys, the audit log and the projection of test clocks."""
    op.create_table(
        "idempotency_keys",
        sa.Column("scope", sa.Text, nullable=False),
        sa.Column("key", sa.Text, nullable=False),
        sa.Column("request_hash", sa.LargeBinary, nullable=False),
        sa.Column("status", sa.Integer, nullable=False),
        sa.Column("headers", JSONB, nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("scope", "key", name=op.f("pk_idempotency_keys")),
    )
    # The hourly clean-up looks for what is older than a day.
    op.create_index("ix_idempotency_keys_created_at", "idempotency_keys", ["created_at"])
    op.create_table(
        "audit_log",
        sa.Column("id", sa.Uuid, nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("actor", sa.Text, nullable=False),
        sa.Column("action", sa.Text, nullable=False),
        sa.Column("subject", sa.Text, nullable=False),
        sa.Column("account_id", sa.Uuid),
        sa.Column("before", JSONB),
        sa.Column("after", JSONB),
        sa.Column("request_id", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit_log")),
    )
    # "What happened to this thing?" and "what happened in this account?"
    op.create_index("ix_audit_log_subject", "audit_log", ["subject", "id"])
    op.create_index("ix_audit_log_account_id", "audit_log", ["account_id", "id"])
    op.create_table(
        "account_clocks",
        sa.Column("account_id", sa.Uuid, nullable=False),
        sa.Column("clock_id", sa.Uuid, nullable=False),
        sa.Column("now", sa.DateTime(timezone=True), nullable=False),
        sa.Column("revision", sa.Integer, nullable=False),
        sa.Column("reported_revision", sa.Integer, nullable=False, server_default="0"),
        sa.PrimaryKeyConstraint("account_id", name=op.f("pk_account_clocks")),
        sa.CheckConstraint(
            "reported_revision <= revision", name=op.f("ck_account_clocks_reported_revision")
        ),
    )
    op.create_table(
        "clock_activity",
        sa.Column("account_id", sa.Uuid, nullable=False),
        sa.Column("direction", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("count", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("account_id", "direction", "name", name=op.f("pk_clock_activity")),
        sa.CheckConstraint(
            "direction IN ('emitted', 'handled')", name=op.f("ck_clock_activity_direction")
        ),
    )


def drop_platform_tables() -> None:
    for table in ("clock_activity", "account_clocks", "audit_log", "idempotency_keys"):
        op.drop_table(table)


def add_clock_targets() -> None:
    """Where each test clock is going, and which ones are gone for good."""
    op.add_column("account_clocks", sa.Column("target", sa.DateTime(timezone=True)))
    op.create_table(
        "deleted_clocks",
        sa.Column("clock_id", sa.Uuid, nullable=False),
        sa.PrimaryKeyConstraint("clock_id", name=op.f("pk_deleted_clocks")),
    )


def drop_clock_targets() -> None:
    op.drop_table("deleted_clocks")
    op.drop_column("account_clocks", "target")
