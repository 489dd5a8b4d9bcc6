"""Failed refunds are listed by payments, which can have them sent again.

Safe while the previous release still runs: it lists them without the index.
"""

from alembic import op

revision = "0007"
down_revision = "0006"

INDEX = "ix_returned_payments_failed"


def upgrade() -> None:
    with op.get_context().autocommit_block():
        op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {INDEX}")


def downgrade() -> None:
    with op.get_context().autocommit_block():
        op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {INDEX}")
        op.execute(
            f"CREATE INDEX CONCURRENTLY {INDEX} ON returned_payments (id)"
            " WHERE kind = 'refund' AND state = 'kept'"
        )
