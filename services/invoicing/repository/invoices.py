"""Invoices, and what the next ones will say."""

from collections.abc import Collection
from uuid import UUID

from sqlalchemy import insert, select
from sqlalchemy.ext.asyncio import AsyncSession

from services.invoicing.domain.invoice import Invoice, InvoiceNotFound, Status
from services.invoicing.domain.pending import PendingCharges
from services.invoicing.domain.upcoming import Upcoming
from services.invoicing.repository.locked import Locked
from services.invoicing.tables import (
    gathered_periods,
    invoices,
    pending_charges,
    upcoming,
    with_lines,
)
from shared.events.subscriptions import Billable


class Invoices(Locked):
    def __init__(self, session: AsyncSession) -> None:
        super().__init__(session)
        self._billed: dict[str, bool] = {}
        #: Drafts that gather, as this transaction made them.
        self._gathering: dict[str, Invoice] = {}

    def add(self, invoice: Invoice) -> None:
        self._session.add(invoice)
        self._held[invoice.id] = invoice
        if invoice.billing_key:
            self._billed[invoice.billing_key] = True
        if invoice.gathering_key:
            self._gathering[invoice.gathering_key] = invoice

    async def get(self, invoice_id: UUID) -> Invoice:
        invoice = await self._lock(
            invoice_id,
            lambda: select(Invoice).where(invoices.c.id == invoice_id).options(with_lines),
        )
        if invoice is None:
            raise InvoiceNotFound("There is no such invoice.")
        return invoice

    async def know_billed(self, billing_keys: Collection[str]) -> None:
        """Look at once which of these periods were billed."""
        if not billing_keys:
            return
        found = await self._session.scalars(
            select(invoices.c.billing_key)
            .where(invoices.c.billing_key.in_(billing_keys))
            .union_all(
                select(gathered_periods.c.billing_key).where(
                    gathered_periods.c.billing_key.in_(billing_keys)
                )
            )
        )
        self._billed = dict.fromkeys(billing_keys, False) | dict.fromkeys(found, True)

    async def is_billed(self, billing_key: str) -> bool:
        """Whether a period was billed before."""
        if billing_key in self._billed:
            return self._billed[billing_key]
        return await self.find_billed(billing_key) is not None

    async def find_billed(self, billing_key: str) -> UUID | None:
        """The invoice that a period or an order was billed with."""
        gathered = gathered_periods.c
        found: UUID | None = await self._session.scalar(
            select(invoices.c.id)
            .where(invoices.c.billing_key == billing_key)
            .union_all(select(gathered.invoice_id).where(gathered.billing_key == billing_key))
        )
        return found

    async def find_gathering(self, key: str) -> Invoice | None:
        """The draft that gathers under this key. The caller holds the account's lock."""
        if key not in self._gathering:
            open_draft = (invoices.c.gathering_key == key, invoices.c.status == Status.DRAFT)
            invoice_id = await self._session.scalar(select(invoices.c.id).where(*open_draft))
            if invoice_id is None:
                return None
            self._gathering[key] = await self.get(invoice_id)
        draft = self._gathering[key]
        # It may have been finalized while its lock was waited for.
        return draft if draft.status is Status.DRAFT else None

    async def note_gathered(self, billing_key: str, invoice: Invoice) -> None:
        """Keep that this period is billed, with others, by the invoice."""
        self._billed[billing_key] = True
        await self._session.execute(
            insert(gathered_periods).values(billing_key=billing_key, invoice_id=invoice.id)
        )

    async def list_of(self, subscription_id: UUID, *statuses: Status) -> list[Invoice]:
        """Those of a subscription that have such a status, locked."""
        ids = await self._session.scalars(
            select(invoices.c.id)
            .where(invoices.c.subscription_id == subscription_id, invoices.c.status.in_(statuses))
            .order_by(invoices.c.id)
        )
        # Until each was had alone, it may have become something else.
        found = [await self.get(invoice_id) for invoice_id in ids]
        return [invoice for invoice in found if invoice.status in statuses]


class Pending:
    """Charges that wait for their subscription's next invoice."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session
        self._known: dict[UUID, list[PendingCharges]] = {}

    async def add(self, pending: PendingCharges) -> None:
        await self.read([pending.subscription_id])
        self._session.add(pending)
        self._known[pending.subscription_id].append(pending)

    async def read(self, subscription_ids: Collection[UUID]) -> None:
        """Read what waits for these, all at once; their events come one transaction at a time."""
        unknown = [one for one in subscription_ids if one not in self._known]
        if not unknown:
            return
        self._known |= {subscription_id: [] for subscription_id in unknown}
        found = await self._session.scalars(
            select(PendingCharges)
            .where(
                pending_charges.c.subscription_id.in_(unknown),
                pending_charges.c.invoice_id.is_(None),
            )
            .order_by(pending_charges.c.id)
            .with_for_update()
        )
        for pending in found:
            self._known[pending.subscription_id].append(pending)

    async def waiting(self, subscription_id: UUID, currency: str) -> list[PendingCharges]:
        await self.read([subscription_id])
        return [
            pending
            for pending in self._known[subscription_id]
            if pending.currency == currency and pending.invoice_id is None
        ]


class UpcomingInvoices(Locked):
    """What comes again of each subscription."""

    async def find(self, subscription_id: UUID) -> Upcoming | None:
        found: Upcoming | None = await self._session.scalar(
            select(Upcoming).where(upcoming.c.id == subscription_id)
        )
        return found

    async def list_of(self, account_id: UUID) -> list[Upcoming]:
        """Of all subscriptions of an account, in the order in which they were made."""
        found = await self._session.scalars(
            select(Upcoming).where(upcoming.c.account_id == account_id).order_by(upcoming.c.id)
        )
        return list(found)

    async def hold(self, subscription_ids: Collection[UUID]) -> None:
        """Lock what is known of these, all at once."""
        await self._hold(
            subscription_ids,
            select(Upcoming).where(upcoming.c.id.in_(subscription_ids)).order_by(upcoming.c.id),
            lambda known: known.id,
        )

    async def take_in(self, event: Billable) -> None:
        known = await self._lock(
            event.subscription_id,
            lambda: select(Upcoming).where(upcoming.c.id == event.subscription_id),
        )
        if known is None:
            known = Upcoming(
                id=event.subscription_id,
                account_id=event.account_id,
                currency=event.currency,
                period_start=event.period_start,
                period_end=event.period_end,
            )
            self._absent.discard(known.id)
            self._held[known.id] = known
            self._session.add(known)
        known.take_in(event)
