"""Usage events can be read: an account's, newest first.

Safe beside the running release. New usage waits while the index is made, about a second for each
million of stored events; whoever has many makes it before, `CONCURRENTLY` and by this name.
"""

from alembic import op

revision = "0010"
down_revision = "0009"

READ = "ix_usage_events_account_id_at_id"


def upgrade() -> None:
    # GET /v1/usage-events reads it, backwards.
    op.create_index(op.f(READ), "usage_events", ["account_id", "at", "id"], if_not_exists=True)


def downgrade() -> None:
    op.drop_index(op.f(READ), "usage_events")
