"""The payments service, wired together."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from services.payments.collector import Collector
from services.payments.commands import audit
from services.payments.consumers import consumers
from services.payments.providers import close_providers, provider
from services.payments.repository import PaymentsUnitOfWork
from services.payments.schedule import schedule
from services.payments.settings import PaymentsSettings
from services.payments.tables import metadata
from shared.runtime import Runtime
from shared.service import Service

if TYPE_CHECKING:
    from fastapi import APIRouter

    from shared.web.key_rules import KeyRules


@asynccontextmanager
async def resources(runtime: Runtime[PaymentsUnitOfWork, PaymentsSettings]) -> AsyncIterator[None]:
    """The providers in use and what sends charges to them; a wrong name stops the start."""
    for name in runtime.settings.enabled_providers:
        provider(name)
    collector = Collector(
        runtime.begin,
        slots=runtime.settings.charges_in_flight,
        connections=runtime.settings.database_pool_size,
    )
    runtime.own["collector"] = collector
    try:
        yield
    finally:
        await collector.drain()
        await close_providers()


def routers() -> "Sequence[APIRouter]":
    """Imported when asked for: the worker does without, and with less memory."""
    from services.payments import api, ops  # noqa: PLC0415

    return [api.router, ops.router]


def key_rules() -> "KeyRules":
    from services.payments.key_rules import KEY_RULES  # noqa: PLC0415 -- as above

    return KEY_RULES


service = Service(
    name="payments",
    description="Payment methods, payments and attempts, refunds, disputes, dunning, the ledger.",
    settings=PaymentsSettings,
    metadata=metadata,
    unit_of_work=PaymentsUnitOfWork,
    routers=routers,
    key_rules=key_rules,
    consumers=consumers,
    schedule=schedule,
    resources=resources,
    commands={"audit": audit},
)
