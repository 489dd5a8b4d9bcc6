"""Cards that are confirmed when they are saved, refunds and payouts that come back.

Safe while the previous release still runs: it only adds, and widens what the ledger accepts. Each
step may be repeated, so a run that was cut off is simply run again.
"""

from alembic import op

revision = "0003"
down_revision = "0002"

KIND = "ck_ledger_transactions_entrykind"
KINDS = (
    "invoice_owed",
    "invoice_paid",
    "invoice_paid_offline",
    "invoice_voided",
    "charge",
    "refund",
    "surplus_refund",
    "refund_returned",
    "dispute_opened",
    "dispute_won",
    "dispute_lost",
    "payout",
    "payout_returned",
)
NEW = ("refund_returned", "payout_returned")
INDEXES = {
    "ix_owed_invoices_not_paid_by_us": "owed_invoices (invoice_id) WHERE paid_by IS NULL",
    "ix_webhook_events_processed_at": "webhook_events (processed_at)",
}


def allow_kinds(*kinds: str) -> None:
    """Checked for new rows at once, and for the old ones without keeping anybody waiting."""
    allowed = ", ".join(f"'{kind}'" for kind in kinds)
    op.execute(f"ALTER TABLE ledger_transactions DROP CONSTRAINT IF EXISTS {KIND}")
    op.execute(
        f"ALTER TABLE ledger_transactions ADD CONSTRAINT {KIND}"
        f" CHECK (kind IN ({allowed})) NOT VALID"
    )
    with op.get_context().autocommit_block():
        op.execute(f"ALTER TABLE ledger_transactions VALIDATE CONSTRAINT {KIND}")


def upgrade() -> None:
    for column in ("action_url", "client_secret"):
        op.execute(f"ALTER TABLE payment_methods ADD COLUMN IF NOT EXISTS {column} text")
    op.execute("ALTER TABLE attempts ADD COLUMN IF NOT EXISTS client_secret text")
    allow_kinds(*KINDS)
    with op.get_context().autocommit_block():
        for name, on in INDEXES.items():
            # One that was cut off is there and of no use.
            op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")
            op.execute(f"CREATE INDEX CONCURRENTLY {name} ON {on}")


def downgrade() -> None:
    for name in INDEXES:
        op.execute(f"DROP INDEX IF EXISTS {name}")
    # The books are append only: with such rows in them there is no way back.
    allow_kinds(*(kind for kind in KINDS if kind not in NEW))
    op.execute("ALTER TABLE attempts DROP COLUMN IF EXISTS client_secret")
    for column in ("client_secret", "action_url"):
        op.execute(f"ALTER TABLE payment_methods DROP COLUMN IF EXISTS {column}")
