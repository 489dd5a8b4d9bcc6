"""Wires invoicing: the only place that knows all of it."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from services.invoicing.commands import import_ecb_rates_command
from services.invoicing.consumers import consumers
from services.invoicing.documents.pool import RenderPool
from services.invoicing.repository import InvoicingUnitOfWork
from services.invoicing.schedule import schedule
from services.invoicing.settings import InvoicingSettings
from services.invoicing.storage import Links, ObjectStore
from services.invoicing.tables import metadata
from services.invoicing.use_cases.seed import seed
from shared.clock import utc_now
from shared.runtime import Runtime
from shared.service import Service

if TYPE_CHECKING:
    from fastapi import APIRouter

    from shared.web.key_rules import KeyRules


InvoicingRuntime = Runtime[InvoicingUnitOfWork, InvoicingSettings]


@asynccontextmanager
async def resources(runtime: InvoicingRuntime) -> AsyncIterator[None]:
    """The object store, links to it, and the rendering processes (none until they are needed)."""
    settings = runtime.settings
    pool = RenderPool(settings.render_processes, more_fonts=settings.font_path)
    runtime.own["render_pool"] = pool
    runtime.own["object_store"] = ObjectStore(settings)
    runtime.own["links"] = Links(settings)
    try:
        yield
    finally:
        pool.close()


async def after_migrate(runtime: InvoicingRuntime) -> None:
    """A first run issues invoices with tax, without anybody having set it up."""
    async with runtime.begin() as uow:
        await seed(uow, at=utc_now())


def routers() -> "Sequence[APIRouter]":
    """Imported when asked for: the worker does without, and with less memory."""
    from services.invoicing.api import routers  # noqa: PLC0415

    return routers


def key_rules() -> "KeyRules":
    from services.invoicing.api.key_rules import KEY_RULES  # noqa: PLC0415 -- as above

    return KEY_RULES


service = Service(
    name="invoicing",
    description="What is owed and why: invoices, tax, numbers and documents.",
    settings=InvoicingSettings,
    metadata=metadata,
    unit_of_work=InvoicingUnitOfWork,
    routers=routers,
    key_rules=key_rules,
    consumers=consumers,
    schedule=schedule,
    resources=resources,
    after_migrate=after_migrate,
    commands={"import-ecb-rates": import_ecb_rates_command},
)
