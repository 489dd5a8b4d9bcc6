"""The files of invoices and credit notes, and attachments."""

import asyncio
import hashlib
from datetime import datetime
from typing import Annotated, Any, Self
from uuid import UUID

from fastapi import Request, Response
from pydantic import BaseModel, Field, StringConstraints

from services.invoicing import queries
from services.invoicing.api.edge import Command, Query
from services.invoicing.domain.attachment import (
    Attachment,
    AttachmentComplete,
    AttachmentMismatch,
    AttachmentNotFound,
    AttachmentNotUploaded,
    AttachmentState,
)
from services.invoicing.domain.document import (
    Document,
    DocumentNotFound,
    DocumentNotReady,
    DocumentState,
    Subject,
)
from services.invoicing.domain.invoice import InvoiceNotFound
from services.invoicing.storage import LINK_SECONDS, LinkRefused, Links, ObjectStore, disposition
from services.invoicing.use_cases.complete_attachment import complete_attachment, find_attachment
from services.invoicing.use_cases.render_document import PDF, XML, make_again
from shared.clock import utc_now
from shared.errors import BadRequest
from shared.ids import new_id
from shared.observability import logger
from shared.web import RequestModel, Router, for_staff, problems

log = logger(__name__)
router = Router(prefix="/v1", tags=["documents"])

#: How long a download waits for a file that is being made, and how often it looks.
WAIT_SECONDS, LOOK_SECONDS = 10.0, 0.1
MOST_BYTES = 25 * 1024 * 1024

FILES: dict[int | str, dict[str, Any]] = {
    200: {"content": {PDF: {}, XML: {}}, "description": "The file."},
    **problems(DocumentNotFound, DocumentNotReady),
}


class AttachmentRequest(RequestModel):
    """What will be uploaded: `sha256` is hexadecimal, `size` in bytes (at most 25 MB)."""

    filename: Annotated[str, StringConstraints(pattern=r"^[^/\\\x00-\x1f]{1,200}$")]
    content_type: Annotated[str, StringConstraints(pattern=r"^[\w.+-]+/[\w.+-]+$", max_length=100)]
    size: int = Field(gt=0, le=MOST_BYTES)
    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    invoice_id: UUID | None = None


class AttachmentView(BaseModel):
    """`url` takes a PUT until the attachment is complete, and a GET from then on."""

    id: UUID
    account_id: UUID
    invoice_id: UUID | None
    filename: str
    content_type: str
    size: int
    sha256: str
    state: AttachmentState
    created_at: datetime
    completed_at: datetime | None
    url: str
    method: str
    expires_in: int

    @classmethod
    async def of(cls, attachment: Attachment, store: ObjectStore, links: Links) -> Self:
        method = "GET" if attachment.state is AttachmentState.COMPLETE else "PUT"
        key = attachment.key if method == "GET" else attachment.upload_key
        url = await store.presign(method, key)
        return cls(
            id=attachment.id,
            account_id=attachment.account_id,
            invoice_id=attachment.invoice_id,
            filename=attachment.filename,
            content_type=attachment.content_type,
            size=attachment.size,
            sha256=attachment.sha256,
            state=attachment.state,
            created_at=attachment.created_at,
            completed_at=attachment.completed_at,
            url=url or links.make(method, f"/v1/attachments/{attachment.id}/content"),
            method=method,
            expires_in=LINK_SECONDS,
        )


@router.get("/invoices/{invoice_id}/pdf", response_class=Response, responses=FILES)
async def invoice_pdf(invoice_id: UUID, query: Query) -> Response:
    """The invoice as PDF/A-3, with the e-invoice in it (Factur-X)."""
    return await _file(query, invoice_id, "pdf")


@router.get("/invoices/{invoice_id}/xml", response_class=Response, responses=FILES)
async def invoice_xml(invoice_id: UUID, query: Query) -> Response:
    """The invoice as e-invoice: UBL 2.1 by EN 16931."""
    return await _file(query, invoice_id, "xml")


@router.get("/credit-notes/{note_id}/pdf", response_class=Response, responses=FILES)
async def credit_note_pdf(note_id: UUID, query: Query) -> Response:
    """The credit note as PDF/A-3, with the e-invoice in it (Factur-X)."""
    return await _file(query, note_id, "pdf")


@router.get("/credit-notes/{note_id}/xml", response_class=Response, responses=FILES)
async def credit_note_xml(note_id: UUID, query: Query) -> Response:
    """The credit note as e-invoice: UBL 2.1 by EN 16931."""
    return await _file(query, note_id, "xml")


class DocumentView(BaseModel):
    """`error` says why the last attempt failed."""

    id: UUID
    account_id: UUID
    subject: Subject
    state: DocumentState
    attempts: int
    error: str | None


@router.post(
    "/ops/invoicing/documents/{document_id}/render",
    status_code=202,
    tags=["operations"],
    responses=problems(DocumentNotFound),
    dependencies=[for_staff()],
)
async def render_again(document_id: UUID, command: Command) -> DocumentView:
    """Make a document again, after what stopped it was mended (staff)."""
    async with command.begin() as uow:
        document = await make_again(uow, document_id, at=command.now)
        uow.audit("document.render", document_id, account_id=document.account_id)
        return DocumentView.model_validate(document, from_attributes=True)


@router.post(
    "/attachments",
    status_code=201,
    response_model=AttachmentView,
    responses=problems(InvoiceNotFound, BadRequest),
)
async def declare_attachment(request: AttachmentRequest, command: Command) -> Response:
    """Say what will be uploaded; the answer has a link that takes it."""
    runtime = command.runtime
    async with command.begin() as uow:
        if request.invoice_id is not None:
            await queries.read_invoice(uow, request.invoice_id)
        attachment = Attachment(
            id=new_id(),
            account_id=command.account_id,
            created_at=command.now,
            **request.model_dump(),
        )
        uow.session.add(attachment)
        uow.audit("attachment.declare", attachment.id, account_id=attachment.account_id)
        view = await AttachmentView.of(
            attachment, runtime.own["object_store"], runtime.own["links"]
        )
        return await command.answer(uow, view, status=201)


@router.post(
    "/attachments/{attachment_id}/complete",
    responses=problems(
        AttachmentNotFound, AttachmentNotUploaded, AttachmentComplete, AttachmentMismatch
    ),
)
async def complete(attachment_id: UUID, command: Command) -> AttachmentView:
    """Check the upload against what was declared. A mismatch is refused and removed."""
    own = command.runtime.own
    attachment = await complete_attachment(command.begin, attachment_id, own["object_store"])
    return await AttachmentView.of(attachment, own["object_store"], own["links"])


@router.get("/attachments/{attachment_id}", responses=problems(AttachmentNotFound))
async def read_attachment(attachment_id: UUID, query: Query) -> AttachmentView:
    """The attachment, with a link to it that expires."""
    own = query.runtime.own
    async with query.begin() as uow:
        attachment = await find_attachment(uow, attachment_id)
    return await AttachmentView.of(attachment, own["object_store"], own["links"])


@router.put(
    "/attachments/{attachment_id}/content",
    status_code=204,
    responses=problems(LinkRefused, AttachmentNotFound, AttachmentComplete, AttachmentMismatch),
)
async def upload(attachment_id: UUID, expires: int, signature: str, request: Request) -> None:
    """Where a signed link points (local object store): the bytes of a declared attachment."""
    runtime = request.app.state.runtime
    runtime.own["links"].check("PUT", request.url.path, expires, signature)
    async with runtime.begin() as uow:
        attachment = await find_attachment(uow, attachment_id)
    attachment.require_declared()
    data = bytearray()
    async for chunk in request.stream():
        data += chunk
        if len(data) > attachment.size:
            raise AttachmentMismatch("More bytes came than were declared.", field="size")
    attachment.check(bytes(data))
    store: ObjectStore = runtime.own["object_store"]
    await store.put(attachment.upload_key, bytes(data), content_type=attachment.content_type)


@router.get(
    "/attachments/{attachment_id}/content",
    response_class=Response,
    responses=problems(LinkRefused, AttachmentNotFound),
)
async def download(attachment_id: UUID, expires: int, signature: str, request: Request) -> Response:
    """Where a signed link points (local object store): a complete attachment."""
    runtime = request.app.state.runtime
    runtime.own["links"].check("GET", request.url.path, expires, signature)
    async with runtime.begin() as uow:
        attachment = await find_attachment(uow, attachment_id)
    if attachment.state is not AttachmentState.COMPLETE:
        raise AttachmentNotFound("There is no such attachment.")
    store: ObjectStore = runtime.own["object_store"]
    data = await store.get(attachment.key)
    return _attached(data, attachment.content_type, attachment.filename)


async def _file(query: Query, subject_id: UUID, kind: str) -> Response:
    """The stored file; one that is being made right now is waited for, for a moment."""
    deadline = asyncio.get_running_loop().time() + WAIT_SECONDS
    store: ObjectStore = query.runtime.own["object_store"]
    async with query.begin() as uow:
        # Somebody waits for this one: it goes before those that nobody has asked for.
        await uow.documents.hurry((await queries.read_document(uow, subject_id)).id)
        uow.wake("render_documents")
    while True:
        async with query.begin() as uow:
            document = await queries.read_document(uow, subject_id)
        if document.state is DocumentState.READY:
            digest = document.pdf_sha256 if kind == "pdf" else document.xml_sha256
            data = await _stored(store, document.key(kind))
            if data is not None and hashlib.sha256(data).hexdigest() == digest:
                break
            # A store that was restored from an older copy, or a bad disk: it can be made again.
            log.error("A document's file is lost or damaged", document_id=str(document.id))
            async with query.runtime.begin() as uow:
                await make_again(uow, document.id, at=utc_now())
        late = asyncio.get_running_loop().time() > deadline
        if document.state is DocumentState.FAILED or late:
            raise DocumentNotReady(_why_not(document))
        await asyncio.sleep(LOOK_SECONDS)
    response = _attached(data, PDF if kind == "pdf" else XML, f"{subject_id}.{kind}")
    response.headers["ETag"] = f'"{digest}"'
    return response


async def _stored(store: ObjectStore, key: str) -> bytes | None:
    try:
        return await store.get(key)
    except FileNotFoundError:
        return None


def _why_not(document: Document) -> str:
    if document.state is DocumentState.FAILED:
        return "This document could not be made. Whoever runs this finds the reason in the log."
    return "This document is still being made. Ask again in a moment."


def _attached(data: bytes, content_type: str, filename: str) -> Response:
    return Response(
        data,
        media_type=content_type,
        headers={
            "Content-Disposition": disposition(filename),
            "X-Content-Type-Options": "nosniff",
        },
    )
