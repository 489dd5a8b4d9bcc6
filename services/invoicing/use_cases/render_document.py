"""Make the files of an invoice or a credit note: claim, render, store, record."""

import hashlib
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import Any
from uuid import UUID

from prometheus_client import Counter
from sqlalchemy import select

from services.invoicing.documents.paper import paper_of_credit_note, paper_of_invoice
from services.invoicing.documents.pool import TIMEOUT_SECONDS, RenderPool
from services.invoicing.documents.rendering import NotValid
from services.invoicing.domain.attachment import Attachment, AttachmentState
from services.invoicing.domain.document import Document, DocumentState, Subject
from services.invoicing.queries import read_credit_note, read_invoice
from services.invoicing.repository import InvoicingUnitOfWork
from services.invoicing.storage import ObjectStore
from services.invoicing.tables import attachments
from shared.clock import utc_now
from shared.observability import logger

log = logger(__name__)

PARKED = Counter("documents_parked_total", "Documents that could not be made.")

Begin = Callable[[], AbstractAsyncContextManager[InvoicingUnitOfWork]]

PDF, XML = "application/pdf", "application/xml"
#: Longer than any rendering, so that no two work on the same.
LEASE_SECONDS = TIMEOUT_SECONDS + 30


async def render_next_document(begin: Begin, pool: RenderPool, store: ObjectStore) -> bool:
    """Whether there was one. A file is stored before it is recorded, and storing twice is once."""
    now = utc_now()
    async with begin() as uow:
        document = await uow.documents.next_due(now)
        if document is None:
            return False
        if document.spent:
            document.park("It was taken up several times, and each time its worker ended over it.")
            _report(document)
            return True
        document.claim(at=now, lease_seconds=LEASE_SECONDS)
        paper = await _paper(uow, document)
        logo_key = await _logo_key(uow, paper)
    try:
        logo = await _logo(store, logo_key)
        rendered = await pool.render(paper, logo)
        pdf = await _keep(store, document, "pdf", rendered.pdf, PDF)
        xml = await _keep(store, document, "xml", rendered.xml, XML)
    except Exception as error:
        async with begin() as uow:
            stored = await uow.documents.get(document.id)
            if isinstance(error, NotValid):
                stored.park(str(error))
            else:
                log.exception("A document could not be made", document_id=str(document.id))
                stored.failed(f"{type(error).__name__}: {error}"[:500], at=utc_now())
            _report(stored)
        return True
    async with begin() as uow:
        stored = await uow.documents.get(document.id)
        stored.made(pdf=pdf, xml=xml)
    return True


async def make_again(uow: InvoicingUnitOfWork, document_id: UUID, *, at: datetime) -> Document:
    """Have a document made anew whose reason to fail is gone, or whose files are."""
    document = await uow.documents.get(document_id)
    if document.state is not DocumentState.PENDING:
        document.again(at=at)
        uow.wake("render_documents")
    return document


async def _logo(store: ObjectStore, key: str | None) -> bytes | None:
    """The picture; a lost one holds up no invoice."""
    if key is None:
        return None
    try:
        return await store.get(key)
    except FileNotFoundError:
        log.exception("The logo of a legal entity is lost", key=key)
        return None


async def _keep(
    store: ObjectStore, document: Document, kind: str, data: bytes, content_type: str
) -> tuple[int, str]:
    digest = hashlib.sha256(data).hexdigest()
    await store.put(document.key(kind, digest), data, content_type=content_type)
    return len(data), digest


def _report(document: Document) -> None:
    if document.state is DocumentState.FAILED:
        PARKED.inc()
        log.error("A document waits for a person", document_id=str(document.id))


async def _paper(uow: InvoicingUnitOfWork, document: Document) -> dict[str, Any]:
    if document.subject is Subject.INVOICE:
        return paper_of_invoice(await read_invoice(uow, document.id))
    note = await read_credit_note(uow, document.id)
    return paper_of_credit_note(note, await read_invoice(uow, note.invoice_id))


async def _logo_key(uow: InvoicingUnitOfWork, paper: dict[str, Any]) -> str | None:
    logo_id = (paper["seller"].get("branding") or {}).get("logo_id")
    if not logo_id:
        return None
    found = await uow.session.scalar(
        select(Attachment).where(
            attachments.c.id == UUID(logo_id), attachments.c.state == AttachmentState.COMPLETE
        )
    )
    return found.key if found else None
