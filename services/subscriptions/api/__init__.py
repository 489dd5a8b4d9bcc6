"""Edge: HTTP."""

from services.subscriptions.api import (
    catalog,
    clocks,
    coupons,
    edits,
    entitlements,
    offers,
    ops,
    price_moves,
    subscriptions,
    terms,
    tokens,
    upcoming,
    usage,
)

#: A path is looked for in this order: those that are asked for all the time come first.
routers = (
    entitlements.router,
    usage.router,
    subscriptions.router,
    terms.router,
    upcoming.router,
    tokens.router,
    catalog.router,
    offers.router,
    coupons.router,
    edits.router,
    price_moves.router,
    clocks.router,
    ops.router,
)
