"""Token orders, grants and the ledger of what happened to them."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import func, insert, select, text
from sqlalchemy.ext.asyncio import AsyncSession

from services.subscriptions import tables
from services.subscriptions.domain.tokens import TokenGrant, TokenOrder, TokenOrderNotFound
from shared.ids import new_id

grants = tables.token_grants.c


class Tokens:
    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    def add(self, entity: TokenOrder | TokenGrant) -> None:
        self._session.add(entity)

    async def lock(self, account_id: UUID) -> None:
        """One debit of an account at a time: whoever comes second sees what the first left."""
        await self._session.execute(
            text("SELECT pg_advisory_xact_lock(hashtextextended(:name, 0))"),
            {"name": f"tokens {account_id}"},
        )

    async def order(self, order_id: UUID) -> TokenOrder:
        found = await self.find_order(order_id)
        if found is None:
            raise TokenOrderNotFound(f"There is no token purchase {order_id}.")
        return found

    async def find_order(self, order_id: UUID) -> TokenOrder | None:
        return await self._session.get(TokenOrder, order_id, with_for_update=True)

    async def left(self, account_id: UUID, *, now: datetime) -> Sequence[TokenGrant]:
        """Grants with something left that has not expired, locked."""
        statement = (
            select(TokenGrant)
            .where(
                grants.account_id == account_id,
                grants.remaining > 0,
                grants.expires_at.is_(None) | (grants.expires_at > now),
            )
            .order_by(grants.id)
            .with_for_update()
        )
        return (await self._session.scalars(statement)).all()

    async def of_order(self, order_id: UUID) -> TokenGrant | None:
        statement = select(TokenGrant).where(grants.order_id == order_id).with_for_update()
        return (await self._session.scalars(statement)).one_or_none()

    async def balance(self, account_id: UUID, *, now: datetime) -> int:
        statement = select(func.coalesce(func.sum(grants.remaining), 0)).where(
            grants.account_id == account_id,
            grants.remaining > 0,
            grants.expires_at.is_(None) | (grants.expires_at > now),
        )
        return int(await self._session.scalar(statement) or 0)

    async def expired(self, criterion: Any, *, most: int) -> Sequence[TokenGrant]:
        """Grants whose time is over with something left."""
        statement = (
            select(TokenGrant)
            .where(grants.remaining > 0, criterion)
            .order_by(grants.expires_at)
            .limit(most)
            .with_for_update(skip_locked=True)
        )
        return (await self._session.scalars(statement)).all()

    async def next_expiry(self, account_id: UUID) -> datetime | None:
        found: datetime | None = await self._session.scalar(
            select(func.min(grants.expires_at)).where(
                grants.account_id == account_id, grants.remaining > 0
            )
        )
        return found

    async def write(self, entries: Sequence[dict[str, Any]]) -> None:
        """Add to the ledger; nothing in it ever changes."""
        await self._session.flush()
        rows = [{"id": new_id(), "reason": None, "debit_id": None, **entry} for entry in entries]
        await self._session.execute(insert(tables.token_entries), rows)
