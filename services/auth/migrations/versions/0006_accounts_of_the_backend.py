"""What the operator's own system says of an account: its id there, an address, notes, settings.

Safe while the previous release still runs: it leaves the new columns empty, makes accounts without
them, and closes one without wiping them, which the clean-up of this release does.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0006"
down_revision = "0005"

COLUMNS = ("email", "external_id", "metadata", "language", "currency")
WORDS = (
    "to_tsvector('simple'::regconfig, translate(coalesce(name, '') || ' ' || coalesce(email, '')"
    " || ' ' || coalesce(external_id, ''), '@._-/', '     '))"
)
INDEXES = {
    "uq_accounts_external_id": "UNIQUE INDEX {} ON accounts (external_id)"
    " WHERE external_id IS NOT NULL",
    "ix_accounts_email": "INDEX {} ON accounts (lower(email)) WHERE email IS NOT NULL",
    "ix_accounts_metadata": "INDEX {} ON accounts USING gin (metadata jsonb_path_ops)",
    "ix_accounts_words": f"INDEX {{}} ON accounts USING gin (({WORDS}))",
}


def upgrade() -> None:
    for name in ("email", "external_id", "language", "currency"):
        op.add_column("accounts", sa.Column(name, sa.Text()))
    op.add_column(
        "accounts",
        sa.Column("metadata", JSONB(), nullable=False, server_default=sa.text("'{}'")),
    )
    # Beside the writers: a build that was cut short is begun anew.
    with op.get_context().autocommit_block():
        for name, index in INDEXES.items():
            op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")
            op.execute(f"CREATE {index.format('CONCURRENTLY ' + name)}")


def downgrade() -> None:
    for name in INDEXES:
        op.drop_index(name, "accounts")
    for name in COLUMNS:
        op.drop_column("accounts", name)
