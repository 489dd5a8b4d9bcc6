"""Loading for a change: locked, in the caller's scope. And the unit of work that holds it all."""

from collections.abc import Awaitable, Callable, Iterable
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import update
from sqlalchemy.ext.asyncio import AsyncSession

from services.invoicing.domain.document import Subject
from services.invoicing.domain.invoice import Invoice
from services.invoicing.domain.legal_entity import LegalEntity
from services.invoicing.domain.numbering import NumberSeriesNotFound, render
from services.invoicing.repository.accounts import Accounts, Credits
from services.invoicing.repository.documents import Documents
from services.invoicing.repository.invoices import Invoices, Pending
from services.invoicing.repository.issuers import LegalEntities, Rates
from services.invoicing.repository.locked import is_dry
from services.invoicing.repository.receipts import CreditNotes, Receipts, ReturnedPayments
from services.invoicing.tables import number_series
from shared.context import Cause, caused_by, current_cause
from shared.db import Platform, Scope, UnitOfWork


class InvoicingUnitOfWork(UnitOfWork):
    """One transaction, with what it loads and the invoices that get their number at its end."""

    def __init__(self, session: AsyncSession, scope: Scope, platform: Platform) -> None:
        super().__init__(session, scope, platform)
        self.invoices = Invoices(session)
        self.accounts = Accounts(session)
        self.credits = Credits(session)
        self.legal_entities = LegalEntities(session)
        self.rates = Rates(session)
        self.pending = Pending(session)
        self.receipts = Receipts(session)
        self.returns = ReturnedPayments(session)
        self.credit_notes = CreditNotes(session)
        self.documents = Documents(session)
        self._unnumbered: list[tuple[Invoice, LegalEntity, datetime, Cause]] = []
        self._unfilled: dict[UUID, tuple[Cause, Callable[[], Awaitable[None]]]] = {}

    def finalize(self, invoice: Invoice, entity: LegalEntity, *, at: datetime) -> None:
        """Have the computed invoice finalized as the last thing before the commit."""
        self._unnumbered.append((invoice, entity, at, current_cause()))

    def fill_later(self, invoice: Invoice, fill: Callable[[], Awaitable[None]]) -> None:
        """Have a draft computed once before the commit, however much it gathers until then."""
        self._unfilled[invoice.id] = (current_cause(), fill)

    @property
    def is_dry(self) -> bool:
        """Whether it only computes: nothing of it is ever written, and no number taken."""
        return is_dry(self.session)

    def is_numbered_last(self, invoice: Invoice) -> bool:
        """Whether it gets its number at the end of this transaction."""
        return any(entry[0] is invoice for entry in self._unnumbered)

    async def settle_invoices(self, account_id: UUID) -> None:
        """Have what this transaction made for an account finished before something is taken back.

        What it bills is found then as if it had been made by another transaction.
        """
        waiting = any(entry[0].account_id == account_id for entry in self._unnumbered)
        if waiting or self._unfilled:
            await self.fill_drafts()
            await self.number_invoices()
            if not self.is_dry:
                await self.session.flush()

    async def fill_drafts(self) -> None:
        """Compute the drafts that have gathered something."""
        waiting, self._unfilled = self._unfilled, {}
        for cause, fill in waiting.values():
            with caused_by(cause):
                await fill()

    async def number_invoices(self) -> None:
        """Take the numbers, in one short lock per series, and report what was finalized.

        All transactions take the series in the same order, so that none waits in a circle.
        """
        waiting, self._unnumbered = self._unnumbered, []
        series = sorted({(entry[1].id, entry[0].series) for entry in waiting})
        for entity_id, name in series:
            mine = [e for e in waiting if (e[1].id, e[0].series) == (entity_id, name)]
            numbers = await self.take_numbers(entity_id, name, (e[1].local(e[2]) for e in mine))
            for (invoice, entity, at, cause), number in zip(mine, numbers, strict=True):
                days = invoice.payment_terms_days
                due_at = at + timedelta(days=entity.payment_terms_days if days is None else days)
                self.documents.want(invoice.id, invoice.account_id, Subject.INVOICE)
                with caused_by(cause):
                    self.emit(invoice.finalize(number=number, at=at, due_at=due_at))
                    invoice.plan_reminder(entity.reminder_days, after=at)
                    if invoice.amount_due == 0:
                        self.emit(invoice.receive(0, at=at, payment_id=None))
        if waiting:
            self.wake("render_documents")

    async def take_numbers(
        self, entity_id: UUID, series: str, dates: Iterable[datetime]
    ) -> list[str]:
        """The next numbers of a series; the row stays locked until the commit: no gaps."""
        wanted = list(dates)
        if self.is_dry:
            return [""] * len(wanted)
        row = (
            await self.session.execute(
                update(number_series)
                .where(
                    number_series.c.legal_entity_id == entity_id,
                    number_series.c.series == series,
                )
                .values(last=number_series.c.last + len(wanted))
                .returning(number_series.c.last, number_series.c.pattern)
                .execution_options(synchronize_session=False)
            )
        ).one_or_none()
        if row is None:
            raise NumberSeriesNotFound(f"The legal entity has no number series {series!r}.")
        last, pattern = row
        first = last - len(wanted) + 1
        return [render(pattern, seq=first + i, on=on, series=series) for i, on in enumerate(wanted)]

    async def write(self) -> None:
        await self.fill_drafts()
        await self.number_invoices()
        await super().write()
