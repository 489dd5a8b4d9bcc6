"""Legal entities have a time zone: their documents are dated by it.

Safe while the previous release still runs: what it writes gets the zone that it went by, UTC.
"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.add_column(
        "legal_entities",
        sa.Column("time_zone", sa.Text, nullable=False, server_default=sa.text("'UTC'")),
    )


def downgrade() -> None:
    op.drop_column("legal_entities", "time_zone")
