"""What needs a person: what could not be made, and what was given back twice."""

from typing import Any
from uuid import UUID

from fastapi import Response
from sqlalchemy import ColumnElement, Select, literal, select, text, union_all

from services.invoicing.api.edge import Command, Paging, Query
from services.invoicing.domain.invoice import InvoiceNotFound
from services.invoicing.tables import OVERRETURNED, documents, invoices
from shared.clock import utc_now
from shared.stuck import NothingStuck, StuckView
from shared.web import Page, Router, for_staff, problems

router = Router(prefix="/v1/ops/invoicing", tags=["operations"])

NEXT_STEP = {
    "draft": "Change what the reason names, then finalize the draft.",
    "document": "Mend what the reason names, then POST /v1/ops/invoicing/documents/{id}/render.",
    "returned_too_much": "Look at the invoice's refunds, disputes and credit notes, and settle the "
    "difference with the customer; then POST /v1/ops/invoicing/stuck/{id}/dismiss.",
}
NOTHING = "Of no such invoice too much was given back."


def _stuck(row: Any) -> StuckView:
    return StuckView(
        kind=row.kind,
        id=row.id,
        account_id=row.account_id,
        since=row.since,
        reason=row.reason,
        next_step=NEXT_STEP[row.kind].format(id=row.id),
    )


@router.get("/stuck", dependencies=[for_staff()])
async def list_stuck(query: Query, page: Paging) -> Page[StuckView]:
    """Drafts and documents that failed, and what was given back twice (staff)."""
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


@router.post(
    "/stuck/{stuck_id}/dismiss",
    status_code=204,
    responses=problems(NothingStuck),
    dependencies=[for_staff("finance")],
)
async def dismiss(stuck_id: UUID, command: Command) -> Response:
    """Say that what was given back twice of an invoice is settled with the customer (staff).

    It is listed again when yet more goes back.
    """
    async with command.begin() as uow:
        try:
            invoice = await uow.invoices.get(stuck_id)
        except InvoiceNotFound as unknown:
            raise NothingStuck(NOTHING) from unknown
        await uow.require_clock_at_rest(invoice.account_id)
        if not invoice.attend_returns(at=utc_now()):
            raise NothingStuck(NOTHING)
        uow.audit("invoicing.dismiss", stuck_id, account_id=invoice.account_id)
        return await command.answer(uow)


def _rows(kind: str, table: Any, reason: ColumnElement[Any]) -> Select[Any]:
    return select(
        literal(kind).label("kind"),
        table.c.id,
        table.c.account_id,
        table.c.created_at.label("since"),
        reason.label("reason"),
    )
