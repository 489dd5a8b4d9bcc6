"""When invoices were settled and dunning came to nothing, so that the order of news does not count.

Safe beside the running release: it adds columns that may be empty. What an older process notes
meanwhile has no instants and counts as settled in time, as it did before.
"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

LAPSED = "ck_subscriptions_lapsed"


def upgrade() -> None:
    op.add_column(
        "invoice_states",
        sa.Column("voided", sa.Boolean, nullable=False, server_default=sa.text("false")),
    )
    op.add_column("invoice_states", sa.Column("settled_at", sa.DateTime(timezone=True)))
    op.add_column("invoice_states", sa.Column("exhausted_at", sa.DateTime(timezone=True)))
    op.add_column("subscriptions", sa.Column("lapsed_at", sa.DateTime(timezone=True)))
    op.create_check_constraint(
        op.f(LAPSED), "subscriptions", "lapsed_at IS NULL OR status IN ('canceled', 'paused')"
    )
    # The instants of what was noted before are in the timeline.
    op.execute(
        """
        UPDATE invoice_states
           SET settled_at = told.settled_at, exhausted_at = told.exhausted_at, voided = told.voided
          FROM (SELECT (data ->> 'invoice_id')::uuid AS invoice_id,
                       min(occurred_at) FILTER (WHERE name <> 'dunning.exhausted') AS settled_at,
                       min(occurred_at) FILTER (WHERE name = 'dunning.exhausted') AS exhausted_at,
                       bool_or(name = 'invoice.voided') AS voided
                  FROM timeline
                 WHERE name IN ('invoice.paid', 'invoice.voided',
                                'invoice.marked_uncollectible', 'dunning.exhausted')
                 GROUP BY 1) AS told
         WHERE told.invoice_id = invoice_states.invoice_id
        """
    )


def downgrade() -> None:
    op.drop_constraint(op.f(LAPSED), "subscriptions", type_="check")
    op.drop_column("subscriptions", "lapsed_at")
    op.drop_column("invoice_states", "exhausted_at")
    op.drop_column("invoice_states", "settled_at")
    op.drop_column("invoice_states", "voided")
