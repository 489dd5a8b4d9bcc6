"""The catalog can be edited, a plan's prices can have components, and coupons a scope of prices.

Safe beside the running release: columns with defaults, which it does not name. It takes a
component for a price like any other, and sells it by itself until it is gone.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

revision = "0009"
down_revision = "0008"

EDITABLE = (
    *("products", "plans", "addons", "meters", "features"),
    *("prices", "bundles", "coupons", "promotion_codes"),
)


def upgrade() -> None:
    for table in EDITABLE:
        op.add_column(table, sa.Column("revision", sa.Integer, nullable=False, server_default="1"))
    for table in ("products", "meters"):
        op.add_column(
            table, sa.Column("active", sa.Boolean, nullable=False, server_default=sa.text("true"))
        )
    op.add_column("meters", sa.Column("unit", sa.Text, nullable=False, server_default=""))
    # NULL: what is usual.
    op.add_column("plans", sa.Column("self_service", JSONB))
    op.add_column(
        "prices",
        sa.Column("component", sa.Boolean, nullable=False, server_default=sa.text("false")),
    )
    # No row breaks it, so that the check is quick: every `component` is false.
    op.create_check_constraint(
        op.f("ck_prices_component"),
        "prices",
        "NOT component OR (type = 'metered' AND plan_id IS NOT NULL)",
    )
    op.add_column(
        "coupons", sa.Column("price_ids", ARRAY(sa.Uuid), nullable=False, server_default="{}")
    )


def downgrade() -> None:
    op.drop_column("coupons", "price_ids")
    # What is to come with another price is not to be sold by itself.
    op.execute("UPDATE prices SET active = false WHERE component")
    op.drop_constraint(op.f("ck_prices_component"), "prices", type_="check")
    op.drop_column("prices", "component")
    op.drop_column("plans", "self_service")
    op.drop_column("meters", "unit")
    for table in ("products", "meters"):
        op.drop_column(table, "active")
    for table in EDITABLE:
        op.drop_column(table, "revision")
