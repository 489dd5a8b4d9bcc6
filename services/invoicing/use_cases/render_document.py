"""Make the files of an invoice or a credit note: claim, render, store, record."""

import hashlib
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any
from uuid import UUID

from sqlalchemy import select

from services.invoicing.documents.paper import paper_of_credit_note, paper_of_invoice
from services.invoicing.documents.pool import TIMEOUT_SECONDS, RenderPool
from services.invoicing.domain.attachment import Attachment, AttachmentState
from services.invoicing.domain.document import Document, Subject
from services.invoicing.queries import read_credit_note, read_invoice
from services.invoicing.repository import InvoicingUnitOfWork
from services.invoicing.storage import ObjectStore
from services.invoicing.tables import attachments
from shared.clock import utc_now
from shared.observability import logger

log = logger(__name__)

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
        document.claim(at=now, lease_seconds=LEASE_SECONDS)
        paper = await _paper(uow, document)
        logo_key = await _logo_key(uow, paper)
    try:
        logo = await store.get(logo_key) if logo_key else None
        rendered = await pool.render(paper, logo)
        await store.put(document.key("pdf"), rendered.pdf, content_type=PDF)
        await store.put(document.key("xml"), rendered.xml, content_type=XML)
    except Exception as error:
        log.exception("A document could not be made", document_id=str(document.id))
        async with begin() as uow:
            stored = await uow.documents.get(document.id)
            stored.failed(f"{type(error).__name__}: {error}"[:500], at=utc_now())
        return True
    async with begin() as uow:
        stored = await uow.documents.get(document.id)
        stored.made(pdf=_fingerprint(rendered.pdf), xml=_fingerprint(rendered.xml))
    return True


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


def _fingerprint(data: bytes) -> tuple[int, str]:
    return len(data), hashlib.sha256(data).hexdigest()
