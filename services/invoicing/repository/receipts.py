"""Money that came, and what was taken back."""

from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from services.invoicing.domain.credit_note import CreditNote
from services.invoicing.domain.payment import Means, ReceivedPayment
from services.invoicing.tables import (
    credit_notes,
    received_payments,
    with_credit_note_lines,
)


class Receipts:
    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    def add(self, receipt: ReceivedPayment) -> None:
        self._session.add(receipt)

    async def find(self, payment_id: UUID) -> ReceivedPayment | None:
        return await self._session.get(ReceivedPayment, payment_id)

    async def by_provider(self, invoice_id: UUID) -> int:
        """How much of the invoice a provider took, and can send back."""
        total = await self._session.scalar(
            select(func.coalesce(func.sum(received_payments.c.applied), 0)).where(
                received_payments.c.invoice_id == invoice_id,
                received_payments.c.means == Means.PROVIDER,
            )
        )
        return int(total or 0)


class CreditNotes:
    """Issued once and never changed; guarded by the lock on their invoice."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    def add(self, note: CreditNote) -> None:
        self._session.add(note)

    async def list_of(self, invoice_id: UUID) -> list[CreditNote]:
        found = await self._session.scalars(
            select(CreditNote)
            .where(credit_notes.c.invoice_id == invoice_id)
            .options(with_credit_note_lines)
        )
        return list(found)
