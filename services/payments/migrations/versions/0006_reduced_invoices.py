"""An invoice may be reduced before it is paid: what was taken back of it is not collected.

Safe while the previous release still runs: it leaves the column at zero, and posts nothing of the
new kind. Each step may be repeated, so a run that was cut off is simply run again.
"""

from alembic import op

revision = "0006"
down_revision = "0005"

BEFORE = (
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
NOW = (*BEFORE[:4], "invoice_reduced", *BEFORE[4:])
KIND = "ck_ledger_transactions_entrykind"
#: Both take back what was owed; each has the id of what said so.
AS_BEFORE = """
ALTER TABLE ledger_transactions DISABLE TRIGGER append_only;
UPDATE ledger_transactions SET kind = 'invoice_voided' WHERE kind = 'invoice_reduced';
ALTER TABLE ledger_transactions ENABLE TRIGGER append_only;
"""


def allow_kinds(kinds: tuple[str, ...]) -> None:
    """First for what is written from now on, then for the rows there are, while others write."""
    allowed = ", ".join(f"'{kind}'" for kind in kinds)
    op.execute(
        f"ALTER TABLE ledger_transactions DROP CONSTRAINT IF EXISTS {KIND},"
        f" ADD CONSTRAINT {KIND} CHECK (kind IN ({allowed})) NOT VALID"
    )
    with op.get_context().autocommit_block():
        op.execute(f"ALTER TABLE ledger_transactions VALIDATE CONSTRAINT {KIND}")


def upgrade() -> None:
    op.execute(
        "ALTER TABLE owed_invoices"
        " ADD COLUMN IF NOT EXISTS amount_reduced bigint NOT NULL DEFAULT 0"
    )
    allow_kinds(NOW)


def downgrade() -> None:
    for statement in AS_BEFORE.strip().split(";\n"):
        op.execute(statement.rstrip(";"))
    allow_kinds(BEFORE)
    op.execute("ALTER TABLE owed_invoices DROP COLUMN IF EXISTS amount_reduced")
