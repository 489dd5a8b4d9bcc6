"""Money that goes back: refunds and disputes, counted on the invoice and on its credit notes.

Safe while the previous release still runs: what it adds has a default, and the sum of a credit
note allows for a part that the previous release leaves at zero.
"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

AMOUNTS = ("amount_returned", "amount_disputed", "amount_unnoted", "amount_covered")


def settled(parts: str) -> None:
    op.drop_constraint(op.f("ck_credit_notes_settled"), "credit_notes", type_="check")
    op.create_check_constraint(op.f("ck_credit_notes_settled"), "credit_notes", parts)


def upgrade() -> None:
    for name in AMOUNTS:
        op.add_column(
            "invoices", sa.Column(name, sa.BigInteger, nullable=False, server_default=sa.text("0"))
        )
    op.create_check_constraint(
        op.f("ck_invoices_returns"),
        "invoices",
        "amount_returned >= 0 AND amount_disputed >= 0 AND amount_unnoted >= 0"
        " AND amount_covered BETWEEN 0 AND amount_credited",
    )
    # Those of which more was given back than was paid: a person has to look.
    op.create_index(
        "ix_invoices_overreturned",
        "invoices",
        ["id"],
        postgresql_where=sa.text(
            "amount_credited - amount_covered + amount_unnoted > credit_applied + amount_paid"
            " OR amount_covered > amount_unnoted"
        ),
    )
    op.add_column(
        "credit_notes",
        sa.Column("returned_before", sa.BigInteger, nullable=False, server_default=sa.text("0")),
    )
    settled(
        "refund >= 0 AND credit >= 0 AND returned_before >= 0"
        " AND refund + credit + returned_before = total"
    )
    op.create_table(
        "returned_payments",
        sa.Column("id", sa.Uuid, nullable=False),
        sa.Column("account_id", sa.Uuid, nullable=False),
        sa.Column("invoice_id", sa.Uuid, nullable=False),
        sa.Column("payment_id", sa.Uuid, nullable=False),
        sa.Column("kind", sa.String(40), nullable=False),
        sa.Column("amount", sa.BigInteger, nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("state", sa.String(40), nullable=False),
        sa.Column("sequence", sa.Integer, nullable=False),
        sa.Column("reason", sa.Text),
        sa.Column("credit_note_id", sa.Uuid),
        sa.Column("failure", sa.Text),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_returned_payments")),
        sa.ForeignKeyConstraint(
            ["invoice_id"],
            ["invoices.id"],
            name=op.f("fk_returned_payments_invoice_id"),
            deferrable=True,
            initially="DEFERRED",
        ),
        sa.CheckConstraint("amount > 0", name=op.f("ck_returned_payments_amount")),
        sa.CheckConstraint(
            "kind IN ('refund', 'dispute')", name=op.f("ck_returned_payments_returnkind")
        ),
        sa.CheckConstraint(
            "state IN ('pending', 'returned', 'kept')",
            name=op.f("ck_returned_payments_returnstate"),
        ),
    )
    # What an invoice's refunds and disputes come to.
    op.create_index("ix_returned_payments_invoice_id", "returned_payments", ["invoice_id"])
    # What became of a credit note's refund.
    op.create_index(
        "ix_returned_payments_credit_note_id",
        "returned_payments",
        ["credit_note_id"],
        postgresql_where=sa.text("credit_note_id IS NOT NULL"),
    )
    # Refunds that failed: a person has to look.
    op.create_index(
        "ix_returned_payments_failed",
        "returned_payments",
        ["id"],
        postgresql_where=sa.text("kind = 'refund' AND state = 'kept'"),
    )


def downgrade() -> None:
    op.drop_table("returned_payments")
    op.drop_constraint(op.f("ck_credit_notes_settled"), "credit_notes", type_="check")
    op.execute("UPDATE credit_notes SET credit = credit + returned_before")
    op.drop_column("credit_notes", "returned_before")
    op.create_check_constraint(
        op.f("ck_credit_notes_settled"),
        "credit_notes",
        "refund >= 0 AND credit >= 0 AND refund + credit = total",
    )
    op.drop_index("ix_invoices_overreturned", "invoices")
    op.drop_constraint(op.f("ck_invoices_returns"), "invoices", type_="check")
    for name in AMOUNTS:
        op.drop_column("invoices", name)
