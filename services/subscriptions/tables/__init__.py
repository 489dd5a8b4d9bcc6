"""The subscriptions schema and its mapping; Alembic's target."""

from services.subscriptions.tables.catalog import (
    addons,
    bundles,
    coupons,
    features,
    meters,
    plans,
    price_moves,
    prices,
    products,
    promotion_codes,
)
from services.subscriptions.tables.columns import metadata
from services.subscriptions.tables.customers import (
    accounts,
    invoice_states,
    payment_methods,
    projects,
)
from services.subscriptions.tables.history import (
    TimelineEntry,
    test_clock_reports,
    test_clocks,
    timeline,
)
from services.subscriptions.tables.holdings import (
    billed_periods,
    redemptions,
    subscriptions,
    trial_uses,
)
from services.subscriptions.tables.tokens import token_entries, token_grants, token_orders
from services.subscriptions.tables.usage import (
    UsageRow,
    stale_entitlements,
    usage_alerts,
    usage_buckets,
    usage_events,
    usage_members,
    usage_windows,
)

__all__ = [
    "TimelineEntry",
    "UsageRow",
    "accounts",
    "addons",
    "billed_periods",
    "bundles",
    "coupons",
    "features",
    "invoice_states",
    "metadata",
    "meters",
    "payment_methods",
    "plans",
    "price_moves",
    "prices",
    "products",
    "projects",
    "promotion_codes",
    "redemptions",
    "stale_entitlements",
    "subscriptions",
    "test_clock_reports",
    "test_clocks",
    "timeline",
    "token_entries",
    "token_grants",
    "token_orders",
    "trial_uses",
    "usage_alerts",
    "usage_buckets",
    "usage_events",
    "usage_members",
    "usage_windows",
]
