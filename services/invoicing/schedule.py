"""Edge: time. What is due now, one row per transaction."""

import asyncio
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import func, select

from services.invoicing.documents.pool import RenderPool
from services.invoicing.domain.attachment import UPLOADS, Attachment, AttachmentState
from services.invoicing.domain.invoice import Invoice
from services.invoicing.repository import InvoicingUnitOfWork
from services.invoicing.settings import InvoicingSettings
from services.invoicing.storage import ObjectStore
from services.invoicing.tables import attachments, invoices
from services.invoicing.use_cases.finalize_due_draft import finalize_due_draft
from services.invoicing.use_cases.import_ecb_rates import import_ecb_rates
from services.invoicing.use_cases.read_source import read_source
from services.invoicing.use_cases.render_document import render_next_document
from shared.clock import utc_now
from shared.errors import DomainError
from shared.observability import logger
from shared.runtime import Runtime
from shared.schedule import Due, Schedule

log = logger(__name__)
schedule = Schedule()

InvoicingRuntime = Runtime[InvoicingUnitOfWork, InvoicingSettings]


async def next_draft(uow: InvoicingUnitOfWork, account_id: UUID) -> datetime | None:
    found: datetime | None = await uow.session.scalar(
        select(func.min(invoices.c.finalizes_at)).where(invoices.c.account_id == account_id)
    )
    return found


@schedule.job(every=10.0, next_due=next_draft)
async def finalize_drafts(runtime: InvoicingRuntime, due: Due) -> int:
    """Drafts whose time is over become invoices; one that cannot waits for a person."""
    invoice_id: UUID | None = None
    try:
        async with runtime.begin() as uow:
            invoice_id = await uow.session.scalar(
                select(invoices.c.id)
                .select_from(Invoice)
                .where(due.matches(invoices.c.finalizes_at, invoices.c.account_id))
                .order_by(invoices.c.finalizes_at)
                .limit(1)
                .with_for_update(skip_locked=True)
            )
            if invoice_id is None:
                return 0
            await finalize_due_draft(uow, await uow.invoices.get(invoice_id))
    except DomainError as refusal:
        if invoice_id is None:
            raise
        await _park_draft(runtime, invoice_id, refusal)
    return 1


async def _park_draft(runtime: InvoicingRuntime, invoice_id: UUID, refusal: DomainError) -> None:
    """Try it no more by itself: somebody has to change it or the settings first."""
    async with runtime.begin() as uow:
        invoice = await uow.invoices.get(invoice_id)
        invoice.park(refusal.detail)
        uow.audit("invoice.parked", invoice_id, after={"reason": refusal.detail})
    log.error("A draft could not be finalized", invoice_id=str(invoice_id), reason=refusal.code)


async def next_reminder(uow: InvoicingUnitOfWork, account_id: UUID) -> datetime | None:
    found: datetime | None = await uow.session.scalar(
        select(func.min(invoices.c.reminds_at)).where(invoices.c.account_id == account_id)
    )
    return found


@schedule.job(every=30.0, next_due=next_reminder)
async def remind_payers(runtime: InvoicingRuntime, due: Due) -> int:
    """Report the reminders that are due: each once, however late this runs."""
    async with runtime.begin() as uow:
        invoice_id = await uow.session.scalar(
            select(invoices.c.id)
            .select_from(Invoice)
            .where(due.matches(invoices.c.reminds_at, invoices.c.account_id))
            .order_by(invoices.c.reminds_at)
            .limit(1)
            .with_for_update(skip_locked=True)
        )
        if invoice_id is None:
            return 0
        invoice = await uow.invoices.get(invoice_id)
        entity = await uow.legal_entities.get(invoice.legal_entity_id)
        uow.emit(invoice.remind(entity.reminder_days))
    return 1


@schedule.job(every=5.0)
async def render_documents(runtime: InvoicingRuntime, due: Due) -> int:
    """Make the files of what was finalized; in real time, for every account."""
    if due.account_id is not None:
        return 0
    pool: RenderPool = runtime.own["render_pool"]
    store: ObjectStore = runtime.own["object_store"]
    async with asyncio.TaskGroup() as group:
        renderings = [
            group.create_task(render_next_document(runtime.begin, pool, store))
            for _ in range(runtime.settings.render_processes)
        ]
    done = sum(rendering.result() for rendering in renderings)
    if not done:
        pool.rest()
    return done


@schedule.job(every=3600.0)
async def clear_attachments(runtime: InvoicingRuntime, due: Due) -> int:
    """What was declared or uploaded a day ago and never completed is forgotten."""
    if due.account_id is not None:
        return 0
    store: ObjectStore = runtime.own["object_store"]
    day_ago = utc_now() - timedelta(days=1)
    await store.delete_older(UPLOADS, day_ago)
    async with runtime.begin() as uow:
        forgotten = (
            await uow.session.scalars(
                select(Attachment)
                .where(
                    attachments.c.state == AttachmentState.DECLARED,
                    attachments.c.created_at < day_ago,
                )
                .limit(100)
                .with_for_update(skip_locked=True)
            )
        ).all()
        for attachment in forgotten:
            await uow.session.delete(attachment)
    return len(forgotten)


@schedule.job(every=6 * 3600.0)
async def fetch_exchange_rates(runtime: InvoicingRuntime, due: Due) -> int:
    """The ECB's rates of the day, where the deployment wants them."""
    url = runtime.settings.ecb_rates_url
    if url is None or due.account_id is not None:
        return 0
    xml = await read_source(url)
    async with runtime.begin() as uow:
        await import_ecb_rates(uow, xml)
    return 0
