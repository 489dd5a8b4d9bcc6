"""Where an account's test clock is going: until it is there, nobody else changes the account.

Safe while the previous release still runs: it leaves the column empty, which refuses nobody
anything, and knows nothing of the new table.
"""

from shared.platform_migration import add_clock_targets, drop_clock_targets

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    add_clock_targets()


def downgrade() -> None:
    drop_clock_targets()
