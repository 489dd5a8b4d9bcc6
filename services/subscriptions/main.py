"""Wires subscriptions: the only place that knows all of it."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from services.subscriptions.consumers import consumers
from services.subscriptions.entitlement_cache import EntitlementCache
from services.subscriptions.invoicing_client import InvoicingClient
from services.subscriptions.repository import SubscriptionsUnitOfWork
from services.subscriptions.schedule import schedule
from services.subscriptions.seed import seed
from services.subscriptions.settings import SubscriptionsSettings
from services.subscriptions.tables import metadata
from shared.runtime import Runtime
from shared.service import Service

if TYPE_CHECKING:
    from fastapi import APIRouter

    from shared.web.key_rules import KeyRules


def routers() -> "Sequence[APIRouter]":
    """Imported when asked for: the worker does without, and with less memory."""
    from services.subscriptions.api import routers  # noqa: PLC0415

    return routers


def key_rules() -> "KeyRules":
    from services.subscriptions.api.key_rules import KEY_RULES  # noqa: PLC0415 -- as above

    return KEY_RULES


@asynccontextmanager
async def resources(
    runtime: Runtime[SubscriptionsUnitOfWork, SubscriptionsSettings],
) -> AsyncIterator[None]:
    """What every process of this service holds."""
    runtime.own["entitlements"] = EntitlementCache(runtime.redis)
    async with InvoicingClient(runtime.settings.invoicing_url) as invoicing:
        runtime.own["invoicing"] = invoicing
        yield


service = Service(
    name="subscriptions",
    description="What is sold and who holds it: catalog, subscriptions, usage and test clocks.",
    settings=SubscriptionsSettings,
    metadata=metadata,
    unit_of_work=SubscriptionsUnitOfWork,
    routers=routers,
    key_rules=key_rules,
    consumers=consumers,
    schedule=schedule,
    resources=resources,
    commands={"seed": seed},
)
