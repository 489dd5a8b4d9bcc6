"""Invoices, numbers, taxes and account credit."""

from pathlib import Path

from alembic import op

from shared.messaging.migrations import create_messaging_tables, drop_messaging_tables
from shared.platform_migration import create_platform_tables, drop_platform_tables

revision = "0001"
down_revision = None

TABLES = Path(__file__).with_suffix(".sql")


def upgrade() -> None:
    create_messaging_tables()
    create_platform_tables()
    for statement in TABLES.read_text().split(";\n"):
        if statement.strip():
            op.execute(statement)


def downgrade() -> None:
    for table in (
        "upcoming",
        "attachments",
        "documents",
        "credit_note_lines",
        "credit_notes",
        "account_credit_entries",
        "account_credits",
        "received_payments",
        "pending_charges",
        "invoice_lines",
        "invoices",
        "number_series",
        "accounts",
        "legal_entities",
        "tax_rates",
        "exchange_rates",
    ):
        op.drop_table(table)
    drop_platform_tables()
    drop_messaging_tables()
