"""Edge: HTTP."""

from services.subscriptions.api import catalog, clocks, ops, subscriptions

routers = (catalog.router, subscriptions.router, clocks.router, ops.router)
