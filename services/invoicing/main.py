"""Wires invoicing: the only place that knows all of it."""

from services.invoicing.api import routers
from services.invoicing.consumers import consumers
from services.invoicing.repository import InvoicingUnitOfWork
from services.invoicing.schedule import schedule
from services.invoicing.settings import InvoicingSettings
from services.invoicing.tables import metadata
from services.invoicing.use_cases.seed import seed
from shared.clock import utc_now
from shared.runtime import Runtime
from shared.service import Service


async def after_migrate(runtime: Runtime[InvoicingUnitOfWork, InvoicingSettings]) -> None:
    """A first run issues invoices with tax, without anybody having set it up."""
    async with runtime.begin() as uow:
        await seed(uow, at=utc_now())


service = Service(
    name="invoicing",
    description="What is owed and why: invoices, tax, numbers and documents.",
    settings=InvoicingSettings,
    metadata=metadata,
    unit_of_work=InvoicingUnitOfWork,
    routers=routers,
    consumers=consumers,
    schedule=schedule,
    after_migrate=after_migrate,
)
