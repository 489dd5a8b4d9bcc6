"""Find the events that the broker refused without reading all that were ever sent.

Safe while the previous release still runs: it builds beside the writers.
"""

from shared.messaging.migrations import forget_index_of_refused_events, index_refused_events

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    index_refused_events()


def downgrade() -> None:
    forget_index_of_refused_events()
