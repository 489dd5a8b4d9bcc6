"""What was billed and still covers time ahead, and what waits, on each subscription.

Safe beside the running release, which knows none of these columns and leaves `kept_version`
behind with each of its writes: that is how a newer process sees that it has to gather both anew,
from the timeline and from the older columns (`repository/catching_up.py`).
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

revision = "0008"
down_revision = "0007"

NOTHING = sa.text("'[]'")
#: A cancellation at the period's end ends also what rests or is unpaid, which the release before
#: did not look at again. That would find nothing to do, at once and again: so what is late already
#: waits until it is gone.
LEFT_WAITING = """
UPDATE subscriptions s
   SET due_at = least(due_at, CASE
           WHEN EXISTS (SELECT FROM test_clocks c WHERE c.account_id = s.account_id)
           THEN period_end ELSE greatest(period_end, now() + interval '1 hour') END)
 WHERE status IN ('unpaid', 'paused') AND cancel_at_period_end AND parked_at IS NULL
"""
#: When the release before has something to do; it would try for ever what it knows nothing of.
DUE_AS_BEFORE = """
UPDATE subscriptions
   SET due_at = due.before
  FROM (SELECT id, least(
            CASE WHEN status NOT IN ('canceled', 'incomplete_expired') THEN cancel_at END,
            CASE
            WHEN status = 'incomplete' THEN expires_at
            WHEN status = 'trialing' AND trial_reminded THEN trial_end
            WHEN status = 'trialing'
            THEN least(trial_end, greatest(trial_end - interval '3 days', period_start))
            WHEN status IN ('active', 'past_due') THEN period_end
            WHEN status = 'paused' AND lapsed_at IS NULL THEN resumes_at
            END) AS before
          FROM subscriptions) AS due
 WHERE due.id = subscriptions.id AND parked_at IS NULL AND due_at IS DISTINCT FROM due.before
"""


def upgrade() -> None:
    op.add_column(
        "subscriptions", sa.Column("billed", JSONB, nullable=False, server_default=NOTHING)
    )
    op.add_column(
        "subscriptions", sa.Column("agenda", JSONB, nullable=False, server_default=NOTHING)
    )
    op.add_column("subscriptions", sa.Column("kept_version", sa.Integer))
    op.add_column("subscriptions", sa.Column("pending_change", JSONB))
    op.add_column("subscriptions", sa.Column("usage_due_at", sa.DateTime(timezone=True)))
    op.add_column(
        "usage_windows",
        sa.Column("charge_ids", ARRAY(sa.Uuid), nullable=False, server_default=sa.text("'{}'")),
    )
    op.add_column(
        "usage_windows", sa.Column("discounts", JSONB, nullable=False, server_default=NOTHING)
    )
    op.execute(LEFT_WAITING)


def downgrade() -> None:
    op.execute(DUE_AS_BEFORE)
    op.drop_column("usage_windows", "discounts")
    op.drop_column("usage_windows", "charge_ids")
    for name in ("usage_due_at", "pending_change", "kept_version", "agenda", "billed"):
        op.drop_column("subscriptions", name)
