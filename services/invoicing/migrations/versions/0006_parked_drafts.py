"""Drafts that could not be finalized say why, where operators look.

Safe while the previous release still runs: it knows nothing of the column and leaves it empty.
"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.add_column("invoices", sa.Column("parked_reason", sa.Text))
    op.create_check_constraint(
        op.f("ck_invoices_parked_reason"),
        "invoices",
        "parked_reason IS NULL OR status = 'draft'",
    )
    # Drafts that could not be finalized: a person has to look.
    op.create_index(
        "ix_invoices_parked",
        "invoices",
        ["id"],
        postgresql_where=sa.text("parked_reason IS NOT NULL"),
    )


def downgrade() -> None:
    op.drop_index("ix_invoices_parked", "invoices")
    op.drop_constraint(op.f("ck_invoices_parked_reason"), "invoices", type_="check")
    op.drop_column("invoices", "parked_reason")
