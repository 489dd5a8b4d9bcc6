"""What will be invoiced next."""

from uuid import UUID

from fastapi import APIRouter

from services.invoicing.api.edge import Query
from services.invoicing.api.views import InvoiceView
from services.invoicing.domain.upcoming import NothingUpcoming
from services.invoicing.use_cases.preview_upcoming import preview_upcoming
from shared.web import problems

router = APIRouter(prefix="/v1/invoices", tags=["invoices"])


@router.get("/upcoming", responses=problems(NothingUpcoming))
async def read_upcoming(subscription_id: UUID, query: Query) -> InvoiceView:
    """The subscription's next invoice as it would be today; `finalizes_at` says when.

    Usage is in it only once its period is over.
    """
    query.caller.require_scope("invoices:read")
    async with query.begin() as uow:
        invoice = await preview_upcoming(uow, subscription_id, at=query.now)
        return InvoiceView.of(invoice)
