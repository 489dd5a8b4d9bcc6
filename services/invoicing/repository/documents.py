"""The files of invoices and credit notes."""

from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncSession

from services.invoicing.domain.document import Document, DocumentNotFound, DocumentState, Subject
from services.invoicing.tables import (
    documents,
)
from shared.clock import utc_now


class Documents:
    """The files of invoices and credit notes, made after the commit."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    def want(self, subject_id: UUID, account_id: UUID, subject: Subject) -> None:
        now = utc_now()
        self._session.add(
            Document(
                id=subject_id,
                account_id=account_id,
                subject=subject,
                created_at=now,
                due_at=now,
            )
        )

    async def hurry(self, document_id: UUID) -> None:
        """Have it rendered before all that waits, unless it is in work already."""
        await self._session.execute(
            update(documents)
            .where(
                documents.c.id == document_id,
                documents.c.state == DocumentState.PENDING,
                documents.c.attempts == 0,
            )
            .values(due_at=documents.c.created_at - timedelta(days=365))
        )

    async def next_due(self, now: datetime) -> Document | None:
        found: Document | None = await self._session.scalar(
            select(Document)
            .where(documents.c.state == DocumentState.PENDING, documents.c.due_at <= now)
            .order_by(documents.c.due_at)
            .limit(1)
            .with_for_update(skip_locked=True)
        )
        return found

    async def get(self, document_id: UUID) -> Document:
        found = await self._session.get(Document, document_id, with_for_update=True)
        if found is None:
            raise DocumentNotFound("There is no such document.")
        return found
