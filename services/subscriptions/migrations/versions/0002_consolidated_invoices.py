"""Invoices that bill several subscriptions of an account.

Safe while the previous release still runs: it writes the column that may be empty now, and reads
no invoice that bills several.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.add_column(
        "invoice_states",
        sa.Column(
            "subscription_ids",
            postgresql.ARRAY(sa.Uuid),
            nullable=False,
            server_default=sa.text("'{}'"),
        ),
    )
    op.alter_column("invoice_states", "subscription_id", nullable=True)
    # What a subscription still owes on consolidated invoices.
    op.create_index(
        "ix_invoice_states_subscription_ids",
        "invoice_states",
        ["subscription_ids"],
        postgresql_using="gin",
    )
    # The timeline of invoices that bill several subscriptions.
    op.create_index(
        "ix_timeline_invoice_id",
        "timeline",
        [sa.text("(data ->> 'invoice_id')"), "event_id"],
        postgresql_where=sa.text("subscription_id IS NULL"),
    )


def downgrade() -> None:
    op.drop_index("ix_timeline_invoice_id", "timeline")
    op.drop_index("ix_invoice_states_subscription_ids", "invoice_states")
    op.execute("DELETE FROM invoice_states WHERE subscription_id IS NULL")
    op.alter_column("invoice_states", "subscription_id", nullable=False)
    op.drop_column("invoice_states", "subscription_ids")
