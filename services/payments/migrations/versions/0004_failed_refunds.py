"""Failed refunds wait for a person, who has them sent again or says that the money went otherwise.

Safe while the previous release still runs: it leaves the column empty, for which the new index
asks what the old constraint asked. Each step may be repeated, so a run that was cut off is simply
run again.
"""

from alembic import op

revision = "0004"
down_revision = "0003"

OLD = "uq_refunds_credit_note_id"
INDEXES = {
    "uq_refunds_open_credit_note_id": ("UNIQUE", "(credit_note_id) WHERE attended_at IS NULL"),
    "ix_refunds_forgotten": ("", "(id) WHERE status = 'failed' AND attended_at IS NULL"),
}
AGAIN = """
UPDATE refunds AS r SET credit_note_id = NULL
 WHERE attended_at IS NOT NULL
   AND EXISTS (SELECT FROM refunds AS later
                WHERE later.credit_note_id = r.credit_note_id AND later.id > r.id)
"""


def build(name: str, unique: str, on: str) -> None:
    """Without keeping anybody waiting; one that was cut off is there and of no use."""
    with op.get_context().autocommit_block():
        op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")
        op.execute(f"CREATE {unique} INDEX CONCURRENTLY {name} ON refunds {on}")


def upgrade() -> None:
    op.execute("ALTER TABLE refunds ADD COLUMN IF NOT EXISTS attended_at timestamptz")
    for name, (unique, on) in INDEXES.items():
        build(name, unique, on)
    op.execute(f"ALTER TABLE refunds DROP CONSTRAINT IF EXISTS {OLD}")


def downgrade() -> None:
    op.execute(f"ALTER TABLE refunds DROP CONSTRAINT IF EXISTS {OLD}")
    # Of those that were sent again, the last one stays its credit note's.
    op.execute(AGAIN)
    build(OLD, "UNIQUE", "(credit_note_id)")
    op.execute(f"ALTER TABLE refunds ADD CONSTRAINT {OLD} UNIQUE USING INDEX {OLD}")
    for name in INDEXES:
        op.execute(f"DROP INDEX IF EXISTS {name}")
    op.execute("ALTER TABLE refunds DROP COLUMN IF EXISTS attended_at")
