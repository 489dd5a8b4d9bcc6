"""What needs a person: what could not be made, and what was given back twice."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends
from sqlalchemy import ColumnElement, Select, literal, select, text, union_all

from services.invoicing.tables import OVERRETURNED, documents, invoices
from shared.db import UnitOfWork
from shared.stuck import StuckView
from shared.web import Page, PageRequest, Reading, page_request, reading

router = APIRouter(prefix="/v1/ops/invoicing", tags=["operations"])

NEXT_STEP = {
    "draft": "Change what the reason names, then finalize the draft.",
    "document": "Mend what the reason names, then POST /v1/ops/invoicing/documents/{id}/render.",
    "returned_too_much": "Look at the invoice's refunds, disputes and credit notes, and settle the "
    "difference with the customer.",
}


def _stuck(row: Any) -> StuckView:
    return StuckView(
        kind=row.kind,
        id=row.id,
        account_id=row.account_id,
        since=row.since,
        reason=row.reason,
        next_step=NEXT_STEP[row.kind].format(id=row.id),
    )


@router.get("/stuck")
async def list_stuck(
    query: Annotated[Reading[UnitOfWork], Depends(reading)],
    page: Annotated[PageRequest, Depends(page_request)],
) -> Page[StuckView]:
    """Drafts and documents that failed, and what was given back twice (staff)."""
    query.caller.require_staff()
    stuck = union_all(
        _rows("document", documents, documents.c.error).where(documents.c.error.is_not(None)),
        _rows("draft", invoices, invoices.c.parked_reason).where(
            invoices.c.parked_reason.is_not(None)
        ),
        _rows(
            "returned_too_much",
            invoices,
            literal("More was given back than was paid, or counted as given back than was."),
        ).where(text(OVERRETURNED)),
    ).subquery()
    async with query.begin() as uow:
        rows = (await uow.session.execute(page.narrow(select(stuck), stuck.c.id))).all()
    return page.page(rows, _stuck, lambda row: row.id)


def _rows(kind: str, table: Any, reason: ColumnElement[Any]) -> Select[Any]:
    return select(
        literal(kind).label("kind"),
        table.c.id,
        table.c.account_id,
        table.c.created_at.label("since"),
        reason.label("reason"),
    )
