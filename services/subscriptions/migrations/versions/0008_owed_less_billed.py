"""What was billed and still covers time ahead, and what waits, on each subscription.

Safe beside the running release, which knows none of these columns and leaves `kept_version`
behind with each of its writes: that is how a newer process sees that it has to gather both anew,
from the timeline and from the older columns (`repository/catching_up.py`).
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

revision = "0008"
down_revision = "0007"

NOTHING = sa.text("'[]'")


def upgrade() -> None:
    op.add_column(
        "subscriptions", sa.Column("billed", JSONB, nullable=False, server_default=NOTHING)
    )
    op.add_column(
        "subscriptions", sa.Column("agenda", JSONB, nullable=False, server_default=NOTHING)
    )
    op.add_column("subscriptions", sa.Column("kept_version", sa.Integer))
    op.add_column("subscriptions", sa.Column("pending_change", JSONB))
    op.add_column("subscriptions", sa.Column("usage_due_at", sa.DateTime(timezone=True)))
    op.add_column(
        "usage_windows",
        sa.Column("charge_ids", ARRAY(sa.Uuid), nullable=False, server_default=sa.text("'{}'")),
    )
    op.add_column(
        "usage_windows", sa.Column("discounts", JSONB, nullable=False, server_default=NOTHING)
    )


def downgrade() -> None:
    op.drop_column("usage_windows", "discounts")
    op.drop_column("usage_windows", "charge_ids")
    for name in ("usage_due_at", "pending_change", "kept_version", "agenda", "billed"):
        op.drop_column("subscriptions", name)
