"""Invoices, what was taken back of them, and what waits for the next ones."""

from collections.abc import Collection, Sequence
from uuid import UUID

from sqlalchemy import ColumnElement, Select, and_, insert, literal_column, or_, select, tuple_
from sqlalchemy.ext.asyncio import AsyncSession

from services.invoicing.domain.invoice import Invoice, InvoiceLine, InvoiceNotFound, Status
from services.invoicing.domain.pending import PendingCharges
from services.invoicing.domain.unnamed import UNNAMED, Origin, billed_by, is_unnamed
from services.invoicing.repository.locked import Locked, is_dry, locking
from services.invoicing.tables import (
    gathered_periods,
    invoice_lines,
    invoices,
    pending_charges,
    with_lines,
)
from shared.events.subscriptions import TakeBack


class Invoices(Locked):
    def __init__(self, session: AsyncSession) -> None:
        super().__init__(session)
        self._billed: dict[str, bool] = {}
        #: Drafts that gather, as this transaction made them.
        self._gathering: dict[str, Invoice] = {}
        #: Those that this transaction made.
        self.made: list[Invoice] = []

    def add(self, invoice: Invoice) -> None:
        self._session.add(invoice)
        self.made.append(invoice)
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

    async def hold(self, invoice_ids: Collection[UUID]) -> None:
        """Lock these, in one order for everybody."""
        wanted = [one for one in invoice_ids if one not in self._held]
        await self._hold(
            wanted,
            select(Invoice)
            .where(invoices.c.id.in_(wanted))
            .order_by(invoices.c.id)
            .options(with_lines)
            .execution_options(populate_existing=True),
            lambda invoice: invoice.id,
        )

    async def peek(self, invoice_ids: Collection[UUID]) -> list[Invoice]:
        """These as they are, without a lock."""
        if not invoice_ids:
            return []
        found = await self._session.scalars(
            select(Invoice)
            .where(invoices.c.id.in_(invoice_ids))
            .order_by(invoices.c.id)
            .options(with_lines)
        )
        return list(found)

    async def with_those_it_takes_from(self, invoice_id: UUID) -> tuple[Invoice, list[Invoice]]:
        """The invoice, and those that its negative lines take back from: all locked."""
        original = invoice_lines.alias()
        found = await self._session.scalars(
            select(original.c.invoice_id)
            .join(invoice_lines, invoice_lines.c.takes_back == original.c.id)
            .where(invoice_lines.c.invoice_id == invoice_id, original.c.invoice_id != invoice_id)
            .distinct()
        )
        others = sorted(found)
        await self.hold({invoice_id, *others})
        return await self.get(invoice_id), [await self.get(other) for other in others]

    async def lines_of_charges(
        self, subscription_id: UUID, take_backs: Sequence[TakeBack]
    ) -> dict[UUID, InvoiceLine]:
        """The line that bills the charge of each take-back, by the take-back's id.

        An invoice that was made again has the charge of the voided one: the newest counts. Lines
        of releases before take-backs do not know their charge: it is told by price, kind and
        period, and each is taken once.
        """
        if not take_backs:
            return {}
        of_one = invoices.c.subscription_id == subscription_id
        gathered = invoices.c.subscription_ids
        of_several = and_(
            gathered.contains([subscription_id]),
            # Told apart as the index tells them.
            gathered != literal_column("'{}'"),
            invoice_lines.c.subscription_id == subscription_id,
        )
        found = [
            line
            for invoice in self.made
            if not _is_stored(self._session, invoice)
            for line in invoice.lines
            if line.subscription_id == subscription_id
        ]
        for whose in (of_one, of_several):
            found += await self._session.scalars(_lines(take_backs).where(whose))
        return _match(take_backs, sorted(found, key=lambda line: line.invoice_id, reverse=True))

    async def unnamed_credits(self, invoice_ids: Collection[UUID]) -> list[InvoiceLine]:
        """What these give back without a name, as releases before take-backs did."""
        if not invoice_ids:
            return []
        found = await self._session.scalars(
            select(InvoiceLine)
            .where(
                invoice_lines.c.invoice_id.in_(invoice_ids),
                invoice_lines.c.kind.in_(UNNAMED),
                invoice_lines.c.amount < 0,
                invoice_lines.c.takes_back.is_(None),
            )
            .order_by(invoice_lines.c.invoice_id, invoice_lines.c.position)
        )
        return list(found)

    async def origins(self, credits_: Sequence[InvoiceLine]) -> list[Origin]:
        """By which lines of earlier invoices what these give back was billed; each is one's."""
        if not credits_:
            return []
        invoice_id, line = invoices.c.id, invoice_lines.c
        found = await self._session.scalars(
            select(InvoiceLine)
            .join(Invoice, invoice_id == line.invoice_id)
            .where(
                _of_subscriptions({credit.subscription_id for credit in credits_}),
                invoice_id < max(credit.invoice_id for credit in credits_),
                line.price_id.in_({credit.price_id for credit in credits_}),
                line.amount > 0,
            )
            .order_by(line.invoice_id.desc(), line.position.desc())
        )
        newest_first = list(found)
        origins: list[Origin] = []
        for credit in credits_:
            before = [one for one in newest_first if one.invoice_id < credit.invoice_id]
            billed = billed_by(credit, before, {origin.billed.id for origin in origins})
            if billed is not None:
                origins.append(Origin(credit, billed))
        return origins

    async def usage_given_back(self, lines: Sequence[InvoiceLine]) -> list[Origin]:
        """What an earlier release gave back of these windows of usage without a name.

        Of several lines that billed one, the last before it was corrected counts.
        """
        unnamed = [line for line in lines if line.kind == "usage" and line.charge_id is None]
        if not unnamed:
            return []
        line, status = invoice_lines.c, invoices.c.status
        found = await self._session.scalars(
            select(InvoiceLine)
            .join(Invoice, invoices.c.id == line.invoice_id)
            .where(
                _of_subscriptions({one.subscription_id for one in unnamed}),
                status.not_in((Status.DRAFT, Status.VOID)),
                line.kind == "usage",
                line.takes_back.is_(None),
                tuple_(line.price_id, line.period_start).in_(
                    {(one.price_id, one.period_start) for one in unnamed}
                ),
            )
            .order_by(line.invoice_id.desc(), line.position.desc())
        )
        newest_first = list(found)
        origins = []
        for credit in newest_first:
            before = [one for one in newest_first if one.invoice_id <= credit.invoice_id]
            billed = billed_by(credit, before, ()) if is_unnamed(credit) else None
            if billed in unnamed:
                origins.append(Origin(credit, billed))
        return origins

    async def lines_that_take_back(self, invoice: Invoice) -> list[InvoiceLine]:
        """The negative lines of later invoices that take back lines of this one."""
        if not invoice.amount_moved:
            return []
        own = {line.id for line in invoice.lines}
        found = await self._session.scalars(
            select(InvoiceLine)
            .join(Invoice, invoices.c.id == invoice_lines.c.invoice_id)
            .where(
                invoice_lines.c.takes_back.in_(own),
                invoices.c.id != invoice.id,
                # Of a draft nothing was taken yet, and of a void one nothing any more.
                invoices.c.status != Status.DRAFT,
                invoices.c.amount_brought > 0,
            )
        )
        lines = {line.id: line for line in found}
        for other in self.made:
            if other.amount_brought and other.id != invoice.id:
                lines |= {line.id: line for line in other.lines if line.takes_back in own}
        return list(lines.values())

    async def line(self, line_id: UUID) -> InvoiceLine | None:
        return await self._session.get(InvoiceLine, line_id)

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
        if is_dry(self._session):
            return False  # what would be billed is asked for
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
        if is_dry(self._session):
            return
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
        statement = (
            select(PendingCharges)
            .where(
                pending_charges.c.subscription_id.in_(unknown),
                pending_charges.c.invoice_id.is_(None),
            )
            .order_by(pending_charges.c.id)
        )
        found = await self._session.scalars(locking(self._session, statement))
        for pending in found:
            self._known[pending.subscription_id].append(pending)

    async def drop(self, pending: PendingCharges) -> None:
        """It waits no more, and no invoice took it in."""
        self._known[pending.subscription_id].remove(pending)
        if pending in self._session.new:
            self._session.expunge(pending)
        else:
            await self._session.delete(pending)

    async def waiting(self, subscription_id: UUID, currency: str) -> list[PendingCharges]:
        await self.read([subscription_id])
        return [
            pending
            for pending in self._known[subscription_id]
            if pending.currency == currency and pending.invoice_id is None
        ]


def _of_subscriptions(subscription_ids: Collection[UUID | None]) -> ColumnElement[bool]:
    """Invoices that bill one of these, alone or with others."""
    ids, gathered = [one for one in subscription_ids if one is not None], invoices.c
    return or_(
        gathered.subscription_id.in_(ids),
        # Told apart as the index tells them.
        and_(
            gathered.subscription_ids.overlap(ids),
            gathered.subscription_ids != literal_column("'{}'"),
        ),
    )


def _lines(take_backs: Sequence[TakeBack]) -> Select[InvoiceLine]:
    """Lines that may bill the charges of these."""
    line = invoice_lines.c
    like_one = or_(
        *[
            and_(
                line.price_id == one.price_id,
                line.kind == one.kind,
                line.period_start == one.period_start,
                line.period_end == one.period_end,
            )
            for one in take_backs
        ]
    )
    return (
        select(InvoiceLine)
        .join(Invoice, invoices.c.id == line.invoice_id)
        .where(
            line.amount > 0,
            or_(
                line.charge_id.in_([one.charge_id for one in take_backs]),
                and_(line.charge_id.is_(None), like_one),
            ),
        )
    )


def _match(
    take_backs: Sequence[TakeBack], newest_first: Sequence[InvoiceLine]
) -> dict[UUID, InvoiceLine]:
    matched: dict[UUID, InvoiceLine] = {}
    used: set[UUID] = set()
    for one in take_backs:
        line = next((line for line in newest_first if line.charge_id == one.charge_id), None)
        if line is None:
            line = next(
                (
                    line
                    for line in newest_first
                    if line.charge_id is None and line.id not in used and _is_like(line, one)
                ),
                None,
            )
        if line is not None:
            used.add(line.id)
            matched[one.id] = line
    return matched


def _is_like(line: InvoiceLine, one: TakeBack) -> bool:
    """Whether a line that does not know its charge is this one's."""
    return (
        line.amount > 0
        and (line.price_id, line.kind) == (one.price_id, one.kind)
        and (line.period_start, line.period_end) == (one.period_start, one.period_end)
    )


def _is_stored(session: AsyncSession, invoice: Invoice) -> bool:
    """Whether a query finds it."""
    return invoice not in session.new
