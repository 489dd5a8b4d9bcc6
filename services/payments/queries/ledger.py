"""The books, as finance sees them."""

from datetime import datetime
from typing import Any
from uuid import UUID

from pydantic import BaseModel
from sqlalchemy import func, select, true
from sqlalchemy.ext.asyncio import AsyncSession

from services.payments.domain.ledger import LedgerEntry, LedgerTransaction
from services.payments.tables import ledger_entries, ledger_transactions
from shared.money import Money
from shared.pages import Page, PageRequest


class BalanceView(BaseModel):
    account: str
    balance: Money


class BalancesView(BaseModel):
    at: datetime | None
    data: list[BalanceView]


class LegView(BaseModel):
    account: str
    amount: Money


class EntryView(BaseModel):
    """A movement with its legs, which sum to zero."""

    id: UUID
    kind: str
    reference: str
    account_id: UUID | None
    occurred_at: datetime
    recorded_at: datetime
    legs: list[LegView]


async def ledger_balances(
    session: AsyncSession, *, at: datetime | None, account_id: UUID | None
) -> BalancesView:
    """What every account of the books stands at, or stood at an instant."""
    statement = (
        select(
            ledger_entries.c.ledger_account,
            ledger_entries.c.currency,
            func.sum(ledger_entries.c.amount),
        )
        .select_from(LedgerEntry)
        .where(
            ledger_entries.c.occurred_at <= at if at else true(),
            ledger_entries.c.account_id == account_id if account_id else true(),
        )
        .group_by(ledger_entries.c.ledger_account, ledger_entries.c.currency)
        .order_by(ledger_entries.c.ledger_account, ledger_entries.c.currency)
    )
    rows = (await session.execute(statement)).all()
    return BalancesView(
        at=at,
        data=[
            BalanceView(account=account, balance=Money(int(amount), currency))
            for account, currency, amount in rows
        ],
    )


async def list_ledger_entries(
    session: AsyncSession, page: PageRequest, *, reference: str | None
) -> Page[EntryView]:
    """Movements with their legs, newest first."""
    statement = select(LedgerTransaction)
    if reference is not None:
        statement = statement.where(ledger_transactions.c.reference == reference)
    rows = (await session.scalars(page.narrow(statement, ledger_transactions.c.id))).all()
    legs: dict[UUID, list[LegView]] = {}
    for leg in await session.scalars(
        select(LedgerEntry)
        .where(ledger_entries.c.transaction_id.in_([row.id for row in rows]))
        .order_by(ledger_entries.c.id)
    ):
        legs.setdefault(leg.transaction_id, []).append(
            LegView(account=leg.ledger_account, amount=Money(leg.amount, leg.currency))
        )

    def view(row: Any) -> EntryView:
        return EntryView(
            id=row.id,
            kind=row.kind,
            reference=row.reference,
            account_id=row.account_id,
            occurred_at=row.occurred_at,
            recorded_at=row.recorded_at,
            legs=legs.get(row.id, []),
        )

    return page.page(rows, view, lambda row: row.id)
