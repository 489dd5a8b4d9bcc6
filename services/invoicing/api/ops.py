"""What needs a person: documents that could not be made; and having one made again."""

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Depends
from pydantic import BaseModel
from sqlalchemy import select

from services.invoicing.api.edge import Command
from services.invoicing.domain.document import DocumentNotFound, DocumentState, Subject
from services.invoicing.tables import documents
from services.invoicing.use_cases.render_document import make_again
from shared.db import UnitOfWork
from shared.web import Page, PageRequest, Reading, page_request, problems, reading

router = APIRouter(prefix="/v1/ops/invoicing", tags=["operations"])


class StuckView(BaseModel):
    """A document that failed to render or did not pass its checks, and why."""

    kind: str
    id: UUID
    account_id: UUID
    since: datetime
    reason: str
    next_step: str

    @classmethod
    def of(cls, row: Any) -> "StuckView":
        return cls(
            kind="document",
            id=row.id,
            account_id=row.account_id,
            since=row.created_at,
            reason=row.error,
            next_step="Mend what the reason names, then POST "
            f"/v1/ops/invoicing/documents/{row.id}/render.",
        )


@router.get("/stuck")
async def list_stuck(
    query: Annotated[Reading[UnitOfWork], Depends(reading)],
    page: Annotated[PageRequest, Depends(page_request)],
) -> Page[StuckView]:
    """Documents whose last attempt failed (staff)."""
    query.caller.require_staff()
    failed = select(documents).where(documents.c.error.is_not(None))
    async with query.begin() as uow:
        rows = (await uow.session.execute(page.narrow(failed, documents.c.id))).all()
    return page.page(rows, StuckView.of, lambda row: row.id)


class DocumentView(BaseModel):
    """`error` says why the last attempt failed."""

    id: UUID
    account_id: UUID
    subject: Subject
    state: DocumentState
    attempts: int
    error: str | None


@router.post(
    "/documents/{document_id}/render", status_code=202, responses=problems(DocumentNotFound)
)
async def render_again(document_id: UUID, command: Command) -> DocumentView:
    """Make a document again, after what stopped it was mended (staff)."""
    command.caller.require_staff()
    async with command.begin() as uow:
        document = await make_again(uow, document_id, at=command.now)
        uow.audit("document.render", document_id, account_id=document.account_id)
        return DocumentView.model_validate(document, from_attributes=True)
