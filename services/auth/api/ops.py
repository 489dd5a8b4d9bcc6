"""What needs a person: mails that could not be sent."""

from typing import Annotated, Any

from fastapi import Depends
from sqlalchemy import select

from services.auth.domain.mail import MailStatus
from services.auth.tables import mails
from shared.db import UnitOfWork
from shared.stuck import StuckView
from shared.web import Page, PageRequest, Reading, Router, for_staff, page_request, reading

router = Router(prefix="/v1/ops/auth", tags=["operations"])


@router.get("/stuck", dependencies=[for_staff()])
async def list_stuck(
    query: Annotated[Reading[UnitOfWork], Depends(reading)],
    page: Annotated[PageRequest, Depends(page_request)],
) -> Page[StuckView]:
    """Mails that were tried in vain and wait for a person (staff)."""
    given_up = select(mails).where(mails.c.status == MailStatus.FAILED)
    async with query.begin() as uow:
        rows = (await uow.session.execute(page.narrow(given_up, mails.c.id))).all()
    return page.page(rows, _stuck, lambda row: row.id)


def _stuck(row: Any) -> StuckView:
    """Whom the mail was for stays in the database."""
    return StuckView(
        kind="mail",
        id=row.id,
        since=row.created_at,
        reason=row.last_error or "The mail server refused it.",
        next_step="Mend the mail server or the address; the user can ask for the mail again.",
    )
