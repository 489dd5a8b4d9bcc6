"""What was given back twice waits for a person, who says when it is settled with the customer.

Safe while the previous release still runs: it leaves the column empty and lists what it did,
without the index. Each step may be repeated, so a run that was cut off is simply run again.
"""

from alembic import op

revision = "0008"
down_revision = "0007"

DISAGREES = """
amount_credited - amount_covered + amount_unnoted > credit_applied + amount_paid
 OR amount_covered > amount_unnoted
"""
OLD = ("ix_invoices_overreturned", DISAGREES)
NEW = ("ix_invoices_unattended_returns", f"returns_attended_at IS NULL AND ({DISAGREES})")


def replace(old: tuple[str, str], new: tuple[str, str]) -> None:
    """Without keeping anybody waiting; one that was cut off is there and of no use."""
    name, condition = new
    with op.get_context().autocommit_block():
        op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")
        op.execute(f"CREATE INDEX CONCURRENTLY {name} ON invoices (id) WHERE {condition}")
        op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {old[0]}")


def upgrade() -> None:
    op.execute("ALTER TABLE invoices ADD COLUMN IF NOT EXISTS returns_attended_at timestamptz")
    replace(OLD, NEW)


def downgrade() -> None:
    replace(NEW, OLD)
    op.execute("ALTER TABLE invoices DROP COLUMN IF EXISTS returns_attended_at")
