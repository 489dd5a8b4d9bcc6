"""Loading for a change: rows are locked, and held for the rest of the transaction."""

from collections.abc import Callable, Collection, Hashable, Iterable
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any, TypeVar
from uuid import UUID

from sqlalchemy import Select, func, or_, select, tuple_, update
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.ext.asyncio import AsyncSession

from services.invoicing.domain.account import (
    Account,
    AccountCredit,
    AccountNotFound,
    CreditKind,
)
from services.invoicing.domain.credit_note import CreditNote
from services.invoicing.domain.document import Document, DocumentNotFound, DocumentState, Subject
from services.invoicing.domain.exchange import ExchangeRate
from services.invoicing.domain.invoice import Invoice, InvoiceNotFound, Status
from services.invoicing.domain.legal_entity import LegalEntity, LegalEntityNotFound, NoLegalEntity
from services.invoicing.domain.numbering import NumberSeriesNotFound, render
from services.invoicing.domain.payment import Means, ReceivedPayment
from services.invoicing.domain.pending import PendingCharges
from services.invoicing.domain.tax import RateOf
from services.invoicing.domain.upcoming import Upcoming
from services.invoicing.tables import (
    account_credits,
    accounts,
    credit_notes,
    documents,
    exchange_rates,
    invoices,
    legal_entities,
    number_series,
    pending_charges,
    received_payments,
    tax_rates,
    upcoming,
    with_credit_note_lines,
    with_lines,
)
from shared.clock import utc_now
from shared.context import Cause, caused_by, current_cause
from shared.db import Platform, Scope, UnitOfWork
from shared.events.subscriptions import Billable

T = TypeVar("T")


class _Locked:
    """Loads under a row lock, once per transaction: what is held is never read over."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session
        self._held: dict[Hashable, Any] = {}
        self._absent: set[Hashable] = set()

    async def _lock(self, key: Hashable, statement: Callable[[], Select[T]]) -> T | None:
        if key in self._absent:
            return None
        if key not in self._held:
            # What an earlier read in this transaction saw may have changed since.
            found = await self._session.scalar(
                statement().with_for_update().execution_options(populate_existing=True)
            )
            if found is None:
                return None
            self._held[key] = found
        held: T = self._held[key]
        return held

    async def _hold(
        self, keys: Collection[Hashable], statement: Select[T], key_of: Callable[[T], Hashable]
    ) -> None:
        """Lock many at once, in the order of the statement; remember which are not there."""
        if not keys:
            return
        for found in await self._session.scalars(statement.with_for_update()):
            self._held[key_of(found)] = found
        self._absent.update(key for key in keys if key not in self._held)


class Invoices(_Locked):
    def __init__(self, session: AsyncSession) -> None:
        super().__init__(session)
        self._billed: dict[str, bool] = {}

    def add(self, invoice: Invoice) -> None:
        self._session.add(invoice)
        self._held[invoice.id] = invoice
        if invoice.billing_key:
            self._billed[invoice.billing_key] = True

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
            select(invoices.c.billing_key).where(invoices.c.billing_key.in_(billing_keys))
        )
        self._billed = dict.fromkeys(billing_keys, False) | dict.fromkeys(found, True)

    async def is_billed(self, billing_key: str) -> bool:
        """Whether a period was billed before."""
        if billing_key in self._billed:
            return self._billed[billing_key]
        return await self.find_billed(billing_key) is not None

    async def find_billed(self, billing_key: str) -> UUID | None:
        """The invoice that a period or an order was billed with."""
        found: UUID | None = await self._session.scalar(
            select(invoices.c.id).where(invoices.c.billing_key == billing_key)
        )
        return found

    async def list_open_of(self, subscription_id: UUID) -> list[Invoice]:
        ids = await self._session.scalars(
            select(invoices.c.id)
            .where(invoices.c.subscription_id == subscription_id, invoices.c.status == Status.OPEN)
            .order_by(invoices.c.id)
        )
        return [await self.get(invoice_id) for invoice_id in ids]


class Accounts(_Locked):
    def __init__(self, session: AsyncSession) -> None:
        super().__init__(session)
        self._read: dict[UUID, Account] = {}

    async def read(self, account_ids: Collection[UUID]) -> None:
        """Read many at once, for `find`."""
        if account_ids:
            found = await self._session.scalars(
                select(Account).where(accounts.c.account_id.in_(account_ids))
            )
            self._read = {account.account_id: account for account in found}

    async def find(self, account_id: UUID) -> Account | None:
        """Without a lock: what is frozen on an invoice is a copy."""
        if account_id in self._read:
            return self._read[account_id]
        return await self._session.get(Account, account_id)

    async def find_locked(self, account_id: UUID) -> Account | None:
        return await self._lock(
            account_id, lambda: select(Account).where(accounts.c.account_id == account_id)
        )

    async def get(self, account_id: UUID) -> Account:
        account = await self.find_locked(account_id)
        if account is None:
            raise AccountNotFound("There is no such account.")
        return account


class Credits(_Locked):
    """What accounts have in credit, per currency."""

    async def hold(self, pairs: Collection[tuple[UUID, str]]) -> None:
        """Lock what these accounts have, all at once."""
        columns = tuple_(account_credits.c.account_id, account_credits.c.currency)
        await self._hold(
            pairs,
            select(AccountCredit)
            .where(columns.in_(pairs))
            .order_by(account_credits.c.account_id, account_credits.c.currency),
            lambda credit: (credit.account_id, credit.currency),
        )

    async def find(self, account_id: UUID, currency: str) -> AccountCredit | None:
        return await self._lock(
            (account_id, currency),
            lambda: select(AccountCredit).where(
                account_credits.c.account_id == account_id,
                account_credits.c.currency == currency,
            ),
        )

    async def add(
        self,
        account_id: UUID,
        currency: str,
        amount: int,
        kind: CreditKind,
        *,
        at: datetime,
        invoice_id: UUID | None = None,
        note: str | None = None,
    ) -> None:
        """Give the account credit."""
        await self._session.execute(
            upsert(account_credits)
            .values(account_id=account_id, currency=currency, balance=0)
            .on_conflict_do_nothing()
        )
        self._absent.discard((account_id, currency))
        credit = await self.find(account_id, currency)
        if credit is None:
            raise AccountNotFound("There is no such account.")
        self._session.add(credit.add(amount, kind, at=at, invoice_id=invoice_id, note=note))

    async def apply(self, invoice: Invoice, *, at: datetime) -> None:
        """Pay as much of a draft as the account's credit covers."""
        if invoice.total == 0:
            return
        credit = await self.find(invoice.account_id, invoice.currency)
        if credit is None or credit.balance == 0:
            return
        invoice.credit_applied = min(credit.balance, invoice.total)
        entry = credit.add(
            -invoice.credit_applied, CreditKind.APPLIED, at=at, invoice_id=invoice.id
        )
        self._session.add(entry)


class LegalEntities:
    def __init__(self, session: AsyncSession) -> None:
        self._session = session
        self._default: LegalEntity | None = None

    async def get(self, entity_id: UUID) -> LegalEntity:
        entity = await self._session.get(LegalEntity, entity_id)
        if entity is None:
            raise LegalEntityNotFound("There is no such legal entity.")
        return entity

    async def of(self, account: Account) -> LegalEntity:
        """Who bills this account."""
        if account.legal_entity_id is not None:
            return await self.get(account.legal_entity_id)
        if self._default is None:
            self._default = await self._session.scalar(
                select(LegalEntity).where(legal_entities.c.is_default)
            )
        if self._default is None:
            raise NoLegalEntity("No legal entity is the default: say who issues invoices.")
        return self._default


class Rates:
    """Tax and exchange rates by date, read once per transaction."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session
        self._tax: dict[tuple[str, date], dict[str, Decimal]] = {}

    async def tax_on(self, country: str, day: date) -> RateOf:
        """What the tax engine asks: the country's rates as they were on the supply date."""
        if (country, day) not in self._tax:
            rows = await self._session.execute(
                select(tax_rates.c.category, tax_rates.c.rate).where(
                    tax_rates.c.country == country,
                    tax_rates.c.valid_from <= day,
                    or_(tax_rates.c.valid_to.is_(None), tax_rates.c.valid_to > day),
                )
            )
            self._tax[country, day] = {row.category: row.rate for row in rows}
        rates = self._tax[country, day]

        def rate_of(wanted: str, category: str) -> Decimal | None:
            return rates.get(category) if wanted == country else None

        return rate_of

    async def exchange_on(self, base: str, quote: str, day: date) -> ExchangeRate | None:
        """The rate of that day, or of the last day before it that has one."""
        found: ExchangeRate | None = await self._session.scalar(
            select(ExchangeRate)
            .where(
                exchange_rates.c.base == base,
                exchange_rates.c.quote == quote,
                exchange_rates.c.on <= day,
            )
            .order_by(exchange_rates.c.on.desc())
            .limit(1)
        )
        return found


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


class UpcomingInvoices(_Locked):
    """What comes again of each subscription."""

    async def find(self, subscription_id: UUID) -> Upcoming | None:
        found: Upcoming | None = await self._session.scalar(
            select(Upcoming).where(upcoming.c.id == subscription_id)
        )
        return found

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
        self.credit_notes = CreditNotes(session)
        self.documents = Documents(session)
        self.upcoming = UpcomingInvoices(session)
        self._unnumbered: list[tuple[Invoice, LegalEntity, datetime, Cause]] = []

    def finalize(self, invoice: Invoice, entity: LegalEntity, *, at: datetime) -> None:
        """Have the computed invoice finalized as the last thing before the commit."""
        self._unnumbered.append((invoice, entity, at, current_cause()))

    async def number_invoices(self) -> None:
        """Take the numbers, in one short lock per series, and report what was finalized.

        All transactions take the series in the same order, so that none waits in a circle.
        """
        waiting, self._unnumbered = self._unnumbered, []
        series = sorted({(entry[1].id, entry[0].series) for entry in waiting})
        for entity_id, name in series:
            mine = [e for e in waiting if (e[1].id, e[0].series) == (entity_id, name)]
            numbers = await self.take_numbers(entity_id, name, (e[2] for e in mine))
            for (invoice, entity, at, cause), number in zip(mine, numbers, strict=True):
                days = invoice.payment_terms_days
                due_at = at + timedelta(days=entity.payment_terms_days if days is None else days)
                self.documents.want(invoice.id, invoice.account_id, Subject.INVOICE)
                with caused_by(cause):
                    self.emit(invoice.finalize(number=number, at=at, due_at=due_at))
                    invoice.plan_reminder(entity.reminder_days, after=at)
                    if invoice.amount_due == 0:
                        paid = invoice.receive(0, at=at, payment_id=None)
                        if paid is not None:
                            self.emit(paid)
        if waiting:
            self.wake("render_documents")

    async def take_numbers(
        self, entity_id: UUID, series: str, dates: Iterable[datetime]
    ) -> list[str]:
        """The next numbers of a series; the row stays locked until the commit: no gaps."""
        wanted = list(dates)
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
        await self.number_invoices()
        await super().write()
