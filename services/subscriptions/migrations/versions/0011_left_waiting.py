"""What the release before leaves without a next instant, although it is to end, is found.

Safe beside the running release: the index has next to no rows, and is made while others write. It
may be repeated, so a run that was cut off is simply run again.
"""

from alembic import op

revision = "0011"
down_revision = "0010"

LEFT = "ix_subscriptions_left_waiting"


def upgrade() -> None:
    with op.get_context().autocommit_block():
        op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {LEFT}")
        op.execute(
            f"CREATE INDEX CONCURRENTLY {LEFT} ON subscriptions (id)"
            " WHERE due_at IS NULL AND parked_at IS NULL AND cancel_at_period_end"
            " AND status IN ('unpaid', 'paused')"
        )


def downgrade() -> None:
    with op.get_context().autocommit_block():
        op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {LEFT}")
