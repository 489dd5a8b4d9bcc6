"""Promotion codes: a coupon is given out under any number of codes, each with limits of its own.

Safe beside the running release: a new table, and a column that may be empty.
"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.create_table(
        "promotion_codes",
        sa.Column("id", sa.Uuid, nullable=False),
        sa.Column("coupon_id", sa.Uuid, nullable=False),
        sa.Column("code", sa.Text, nullable=False),
        sa.Column("account_id", sa.Uuid),
        sa.Column("first_time_only", sa.Boolean, nullable=False),
        sa.Column("max_redemptions", sa.Integer),
        sa.Column("redeemed", sa.Integer, nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True)),
        sa.Column("active", sa.Boolean, nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_promotion_codes")),
        sa.UniqueConstraint("code", name=op.f("uq_promotion_codes_code")),
        sa.ForeignKeyConstraint(
            ["coupon_id"], ["coupons.id"], name=op.f("fk_promotion_codes_coupon_id")
        ),
        sa.CheckConstraint("code = upper(code)", name=op.f("ck_promotion_codes_code")),
        # The last word on the limit, whatever the code does.
        sa.CheckConstraint(
            "redeemed >= 0 AND redeemed <= max_redemptions",
            name=op.f("ck_promotion_codes_redeemed"),
        ),
    )
    # GET /v1/promotion-codes?coupon_id=…
    op.create_index("ix_promotion_codes_coupon_id", "promotion_codes", ["coupon_id", "id"])
    op.add_column("redemptions", sa.Column("promotion_code_id", sa.Uuid))
    op.create_foreign_key(
        op.f("fk_redemptions_promotion_code_id"),
        "redemptions",
        "promotion_codes",
        ["promotion_code_id"],
        ["id"],
    )


def downgrade() -> None:
    op.drop_constraint(op.f("fk_redemptions_promotion_code_id"), "redemptions", type_="foreignkey")
    op.drop_column("redemptions", "promotion_code_id")
    op.drop_table("promotion_codes")
