"""The catalog, subscriptions, usage, tokens, the timeline and test clocks."""

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
        "usage_windows",
        "redemptions",
        "billed_periods",
        "token_entries",
        "subscriptions",
        "price_moves",
        "trial_uses",
        "token_grants",
        "prices",
        "usage_events",
        "token_orders",
        "test_clock_reports",
        "plans",
        "features",
        "usage_members",
        "usage_buckets",
        "usage_alerts",
        "timeline",
        "test_clocks",
        "stale_entitlements",
        "products",
        "payment_methods",
        "meters",
        "invoice_states",
        "coupons",
        "bundles",
        "addons",
        "accounts",
    ):
        op.drop_table(table)
    drop_platform_tables()
    drop_messaging_tables()
