"""An invitation that the operator's backend makes has nobody who invites.

Safe while the previous release still runs: it never reads who invited.
"""

from alembic import op

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    op.alter_column("invitations", "invited_by", nullable=True)


def downgrade() -> None:
    op.execute("DELETE FROM invitations WHERE invited_by IS NULL")
    op.alter_column("invitations", "invited_by", nullable=False)
