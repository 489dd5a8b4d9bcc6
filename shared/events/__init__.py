"""The contracts between services: one module per publisher."""

from shared.events import auth, clocks, invoicing, payments, subscriptions
from shared.events.base import Event, catalog

__all__ = ["Event", "auth", "catalog", "clocks", "invoicing", "payments", "subscriptions"]
