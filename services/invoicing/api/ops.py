"""What needs a person: documents that could not be made."""

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Depends
from pydantic import BaseModel
from sqlalchemy import select

from services.invoicing.tables import documents
from shared.db import UnitOfWork
from shared.web import Page, PageRequest, Reading, page_request, reading

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
            next_step="Mend what the reason names; asking for the document again renders it.",
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
