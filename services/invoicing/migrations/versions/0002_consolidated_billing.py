"""Consolidated billing: one invoice a day for what all subscriptions of an account renew.

Safe while the previous release still runs: what it adds has a default, and that release makes no
draft that gathers.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.add_column(
        "accounts",
        sa.Column(
            "consolidated_billing", sa.Boolean, nullable=False, server_default=sa.text("false")
        ),
    )
    op.add_column("upcoming", sa.Column("terms", sa.Text))
    op.create_index("ix_upcoming_account_id", "upcoming", ["account_id"])
    op.add_column(
        "invoices",
        sa.Column(
            "subscription_ids",
            postgresql.ARRAY(sa.Uuid),
            nullable=False,
            server_default=sa.text("'{}'"),
        ),
    )
    op.add_column("invoices", sa.Column("gathering_key", sa.Text))
    op.create_check_constraint(
        op.f("ck_invoices_subscription_ids"),
        "invoices",
        "subscription_id IS NULL OR subscription_ids = '{}'",
    )
    # The consolidated invoices of a subscription.
    op.create_index(
        "ix_invoices_subscription_ids",
        "invoices",
        ["subscription_ids"],
        postgresql_using="gin",
        postgresql_where=sa.text("subscription_ids <> '{}'"),
    )
    # One draft gathers what belongs together.
    op.create_index(
        "uq_invoices_gathering_key",
        "invoices",
        ["gathering_key"],
        unique=True,
        postgresql_where=sa.text("status = 'draft'"),
    )
    op.create_table(
        "gathered_periods",
        sa.Column("billing_key", sa.Text, nullable=False),
        sa.Column("invoice_id", sa.Uuid, nullable=False),
        sa.PrimaryKeyConstraint("billing_key", name=op.f("pk_gathered_periods")),
        sa.ForeignKeyConstraint(
            ["invoice_id"],
            ["invoices.id"],
            name=op.f("fk_gathered_periods_invoice_id"),
            deferrable=True,
            initially="DEFERRED",
        ),
    )


def downgrade() -> None:
    op.drop_table("gathered_periods")
    op.drop_index("uq_invoices_gathering_key", "invoices")
    op.drop_index("ix_invoices_subscription_ids", "invoices")
    op.drop_constraint(op.f("ck_invoices_subscription_ids"), "invoices", type_="check")
    op.drop_column("invoices", "gathering_key")
    op.drop_column("invoices", "subscription_ids")
    op.drop_index("ix_upcoming_account_id", "upcoming")
    op.drop_column("upcoming", "terms")
    op.drop_column("accounts", "consolidated_billing")
