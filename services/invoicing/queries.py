"""Reading for a response: no locks, nothing is changed."""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from sqlalchemy import ColumnElement, Select, and_, literal, literal_column, or_, select

from services.invoicing.domain.account import Account, AccountCredit, AccountNotFound, CreditEntry
from services.invoicing.domain.credit_note import CreditNote, CreditNoteNotFound
from services.invoicing.domain.document import Document, DocumentNotFound
from services.invoicing.domain.exchange import ExchangeRate
from services.invoicing.domain.invoice import Invoice, InvoiceNotFound, Status
from services.invoicing.domain.legal_entity import LegalEntity, LegalEntityNotFound
from services.invoicing.domain.numbering import INVOICES
from services.invoicing.domain.payment import ReturnState
from services.invoicing.domain.tax import TaxRate
from services.invoicing.tables import (
    account_credit_entries,
    account_credits,
    accounts,
    credit_notes,
    documents,
    exchange_rates,
    invoices,
    legal_entities,
    number_series,
    returned_payments,
    tax_rates,
    with_credit_note_lines,
    with_lines,
)
from shared.db import UnitOfWork
from shared.pages import PageRequest

#: In shorter words every letter counts.
SHORTEST_WITH_TYPOS = 4


def _matching(
    *,
    status: Status | None,
    subscription_id: UUID | None,
    created_from: datetime | None,
    created_to: datetime | None,
) -> Select[Invoice]:
    statement = select(Invoice)
    if status is not None:
        statement = statement.where(invoices.c.status == status)
    if subscription_id is not None:
        gathered = invoices.c.subscription_ids
        statement = statement.where(
            or_(
                invoices.c.subscription_id == subscription_id,
                # Told apart as the index tells them.
                and_(gathered.contains([subscription_id]), gathered != literal_column("'{}'")),
            )
        )
    if created_from is not None:
        statement = statement.where(invoices.c.created_at >= created_from)
    if created_to is not None:
        statement = statement.where(invoices.c.created_at < created_to)
    return statement


def _has_word(word: str, *, typos: bool) -> ColumnElement[bool]:
    """The word, or one much like it: both are answered by the trigram index."""
    escaped = word.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    like = invoices.c.search_text.ilike(f"%{escaped}%")
    if not typos or len(word) < SHORTEST_WITH_TYPOS:
        return like
    return or_(like, literal(word).op("<%", is_comparison=True)(invoices.c.search_text))


async def list_invoices(
    uow: UnitOfWork,
    page: PageRequest,
    *,
    status: Status | None = None,
    subscription_id: UUID | None = None,
    created_from: datetime | None = None,
    created_to: datetime | None = None,
    q: str | None = None,
) -> Sequence[Invoice]:
    """Newest first. `q` forgives typos when nothing is as it is written there."""
    statement = _matching(
        status=status,
        subscription_id=subscription_id,
        created_from=created_from,
        created_to=created_to,
    )
    words = (q or "").split()
    if words:
        as_written = statement.where(*[_has_word(word, typos=False) for word in words])
        # Whoever asks for a number wants that one, and not those that look like it.
        typos = await uow.session.scalar(as_written.limit(1)) is None
        statement = statement.where(*[_has_word(word, typos=typos) for word in words])
    statement = page.narrow(statement.options(with_lines), invoices.c.id)
    return (await uow.session.scalars(statement)).all()


async def read_invoice(uow: UnitOfWork, invoice_id: UUID) -> Invoice:
    invoice = await uow.session.scalar(
        select(Invoice).where(invoices.c.id == invoice_id).options(with_lines)
    )
    if invoice is None:
        raise InvoiceNotFound("There is no such invoice.")
    return invoice


async def list_credit_notes(
    uow: UnitOfWork, page: PageRequest, *, invoice_id: UUID | None
) -> Sequence[CreditNote]:
    statement = select(CreditNote).options(with_credit_note_lines)
    if invoice_id is not None:
        statement = statement.where(credit_notes.c.invoice_id == invoice_id)
    return (await uow.session.scalars(page.narrow(statement, credit_notes.c.id))).all()


async def read_credit_note(uow: UnitOfWork, note_id: UUID) -> CreditNote:
    note = await uow.session.scalar(
        select(CreditNote).where(credit_notes.c.id == note_id).options(with_credit_note_lines)
    )
    if note is None:
        raise CreditNoteNotFound("There is no such credit note.")
    return note


async def refunds_of(uow: UnitOfWork, note_ids: Sequence[UUID]) -> dict[UUID, ReturnState]:
    """What became of the refunds that these credit notes ordered, as far as it is known."""
    returned = returned_payments.c
    rows = await uow.session.execute(
        select(returned.credit_note_id, returned.state)
        .where(returned.credit_note_id.in_(note_ids))
        # One that failed may have been made anew: the last one counts.
        .order_by(returned.id)
    )
    return {row.credit_note_id: row.state for row in rows}


async def read_document(uow: UnitOfWork, subject_id: UUID) -> Document:
    found = await uow.session.scalar(select(Document).where(documents.c.id == subject_id))
    if found is None:
        raise DocumentNotFound("There is no such document, or it is a draft's.")
    return found


async def read_account(uow: UnitOfWork, account_id: UUID) -> Account:
    account = await uow.session.scalar(select(Account).where(accounts.c.account_id == account_id))
    if account is None:
        raise AccountNotFound("There is no such account, or it has only just been made.")
    return account


async def list_credits(uow: UnitOfWork, account_id: UUID) -> Sequence[AccountCredit]:
    return (
        await uow.session.scalars(
            select(AccountCredit)
            .where(account_credits.c.account_id == account_id)
            .order_by(account_credits.c.currency)
        )
    ).all()


async def list_credit_entries(
    uow: UnitOfWork, page: PageRequest, account_id: UUID
) -> Sequence[CreditEntry]:
    statement = select(CreditEntry).where(account_credit_entries.c.account_id == account_id)
    return (await uow.session.scalars(page.narrow(statement, account_credit_entries.c.id))).all()


async def list_tax_rates(
    uow: UnitOfWork, page: PageRequest, *, country: str | None, category: str | None
) -> Sequence[TaxRate]:
    statement = select(TaxRate)
    if country is not None:
        statement = statement.where(tax_rates.c.country == country)
    if category is not None:
        statement = statement.where(tax_rates.c.category == category)
    return (await uow.session.scalars(page.narrow(statement, tax_rates.c.id))).all()


async def list_exchange_rates(
    uow: UnitOfWork, page: PageRequest, *, base: str | None, quote: str | None
) -> Sequence[ExchangeRate]:
    statement = select(ExchangeRate)
    if base is not None:
        statement = statement.where(exchange_rates.c.base == base)
    if quote is not None:
        statement = statement.where(exchange_rates.c.quote == quote)
    return (await uow.session.scalars(page.narrow(statement, exchange_rates.c.id))).all()


async def list_legal_entities(uow: UnitOfWork, page: PageRequest) -> Sequence[LegalEntity]:
    statement = page.narrow(select(LegalEntity), legal_entities.c.id)
    return (await uow.session.scalars(statement)).all()


async def read_legal_entity(uow: UnitOfWork, entity_id: UUID) -> LegalEntity:
    entity = await uow.session.get(LegalEntity, entity_id)
    if entity is None:
        raise LegalEntityNotFound("There is no such legal entity.")
    return entity


async def patterns_of(uow: UnitOfWork, entities: Sequence[LegalEntity]) -> dict[UUID, str]:
    """How each entity's invoices are numbered."""
    rows = await uow.session.execute(
        select(number_series.c.legal_entity_id, number_series.c.pattern).where(
            number_series.c.series == INVOICES,
            number_series.c.legal_entity_id.in_([entity.id for entity in entities]),
        )
    )
    return {row.legal_entity_id: row.pattern for row in rows}
