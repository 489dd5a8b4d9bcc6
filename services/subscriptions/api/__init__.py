"""Edge: HTTP."""

from services.subscriptions.api import (
    catalog,
    clocks,
    coupons,
    entitlements,
    offers,
    ops,
    price_moves,
    subscriptions,
    tokens,
    usage,
)

routers = (
    catalog.router,
    offers.router,
    coupons.router,
    price_moves.router,
    subscriptions.router,
    usage.router,
    entitlements.router,
    tokens.router,
    clocks.router,
    ops.router,
)
