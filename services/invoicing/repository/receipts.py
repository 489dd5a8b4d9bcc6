"""Money that came, and what was taken back."""

from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from services.invoicing.domain.credit_note import CreditNote
from services.invoicing.domain.payment import Means, ReceivedPayment, ReturnedPayment, Returns
from services.invoicing.tables import (
    credit_notes,
    received_payments,
    returned_payments,
    with_credit_note_lines,
)
from shared.events.payments import DisputeEvent, RefundEvent


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


class ReturnedPayments:
    """What goes back of the invoices; guarded by the lock on the invoice."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def take_in(self, event: RefundEvent | DisputeEvent) -> None:
        known = await self._session.get(ReturnedPayment, event.subject, populate_existing=True)
        if known is None:
            known = ReturnedPayment.of(event)
            self._session.add(known)
        known.take_in(event)
        await self._session.flush()

    async def of_invoice(self, invoice_id: UUID) -> Returns:
        """What all of them come to."""
        found = await self._session.scalars(
            select(ReturnedPayment).where(returned_payments.c.invoice_id == invoice_id)
        )
        return Returns.of(found)


class CreditNotes:
    """Issued once and never changed; guarded by the lock on their invoice."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session
        #: Those that this transaction made.
        self.made: list[CreditNote] = []

    def add(self, note: CreditNote) -> None:
        self._session.add(note)
        self.made.append(note)

    async def list_of(self, invoice_id: UUID) -> list[CreditNote]:
        found = await self._session.scalars(
            select(CreditNote)
            .where(credit_notes.c.invoice_id == invoice_id)
            .options(with_credit_note_lines)
        )
        unsaved = [
            note
            for note in self.made
            if note.invoice_id == invoice_id and note in self._session.new
        ]
        return [*found, *unsaved]
