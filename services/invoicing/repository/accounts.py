"""Accounts and what they have in credit."""

from collections.abc import Collection
from datetime import datetime
from uuid import UUID

from sqlalchemy import select, tuple_
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.ext.asyncio import AsyncSession

from services.invoicing.domain.account import (
    Account,
    AccountCredit,
    AccountNotFound,
    CreditKind,
)
from services.invoicing.domain.invoice import Invoice
from services.invoicing.repository.locked import Locked, is_dry
from services.invoicing.tables import (
    account_credits,
    accounts,
)


class Accounts(Locked):
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

    async def hold_consolidated(self) -> None:
        """Lock, of the accounts that were read, those whose charges are gathered.

        Two workers that bill two subscriptions of one account take turns at its draft.
        """
        gathering = {a.account_id for a in self._read.values() if a.consolidated_billing}
        await self._hold(
            gathering,
            select(Account)
            .where(accounts.c.account_id.in_(gathering))
            .order_by(accounts.c.account_id),
            lambda account: account.account_id,
        )

    async def get(self, account_id: UUID) -> Account:
        account = await self.find_locked(account_id)
        if account is None:
            raise AccountNotFound("There is no such account.")
        return account


class Credits(Locked):
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
        self._absent.discard((account_id, currency))
        if is_dry(self._session):
            credit = await self.find(account_id, currency) or AccountCredit(
                account_id=account_id, currency=currency
            )
            self._held[account_id, currency] = credit
        else:
            credit = await self._make_sure(account_id, currency)
        self._session.add(credit.add(amount, kind, at=at, invoice_id=invoice_id, note=note))

    async def _make_sure(self, account_id: UUID, currency: str) -> AccountCredit:
        if (account_id, currency) in self._held:
            held: AccountCredit = self._held[account_id, currency]
            return held
        await self._session.execute(
            upsert(account_credits)
            .values(account_id=account_id, currency=currency, balance=0)
            .on_conflict_do_nothing()
        )
        credit = await self.find(account_id, currency)
        if credit is None:
            raise AccountNotFound("There is no such account.")
        return credit

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
