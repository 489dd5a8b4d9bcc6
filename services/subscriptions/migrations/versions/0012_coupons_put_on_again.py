"""A coupon that was taken off a subscription can be put on again.

Safe beside the running release, which neither takes one off nor puts one on what runs: columns that
may be empty, an index that is made while others write, and one rule less. Each step may be
repeated, so a run that was cut off is simply run again.
"""

from alembic import op

revision = "0012"
down_revision = "0011"

UNIQUE = "uq_redemptions_coupon_id_subscription_id"
INDEX = "ix_redemptions_subscription_id"
#: Of several uses of one subscription the last one stays.
LAST_USES = """
DELETE FROM redemptions r USING redemptions later
 WHERE later.coupon_id = r.coupon_id AND later.subscription_id = r.subscription_id
   AND later.id > r.id
"""
COUNTED = """
UPDATE {table} t SET redeemed = (SELECT count(*) FROM redemptions r WHERE r.{name} = t.id)
 WHERE redeemed <> (SELECT count(*) FROM redemptions r WHERE r.{name} = t.id)
"""


def upgrade() -> None:
    op.execute(
        "ALTER TABLE redemptions ADD COLUMN IF NOT EXISTS taken_off_at timestamptz,"
        " ADD COLUMN IF NOT EXISTS periods_left integer,"
        " DROP CONSTRAINT IF EXISTS ck_redemptions_periods_left,"
        " ADD CONSTRAINT ck_redemptions_periods_left CHECK (periods_left >= 0) NOT VALID"
    )
    with op.get_context().autocommit_block():
        op.execute("ALTER TABLE redemptions VALIDATE CONSTRAINT ck_redemptions_periods_left")
        op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {INDEX}")
        op.execute(f"CREATE INDEX CONCURRENTLY {INDEX} ON redemptions (subscription_id, coupon_id)")
    op.execute(f"ALTER TABLE redemptions DROP CONSTRAINT IF EXISTS {UNIQUE}")


def downgrade() -> None:
    op.execute(LAST_USES)
    for table, name in (("coupons", "coupon_id"), ("promotion_codes", "promotion_code_id")):
        op.execute(COUNTED.format(table=table, name=name))
    op.execute(
        f"ALTER TABLE redemptions ADD CONSTRAINT {UNIQUE} UNIQUE (coupon_id, subscription_id),"
        " DROP COLUMN periods_left, DROP COLUMN taken_off_at"
    )
    op.execute(f"DROP INDEX IF EXISTS {INDEX}")
