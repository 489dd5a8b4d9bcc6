"""Whether an account has ever paid, without reading every invoice.

Safe while the previous release still runs: it builds beside the writers.
"""

from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    with op.get_context().autocommit_block():
        op.execute("DROP INDEX CONCURRENTLY IF EXISTS ix_settled_invoices_account_id")
        op.execute(
            "CREATE INDEX CONCURRENTLY ix_settled_invoices_account_id"
            " ON settled_invoices (account_id)"
        )


def downgrade() -> None:
    op.drop_index("ix_settled_invoices_account_id", "settled_invoices")
