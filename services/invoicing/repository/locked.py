"""Rows that are locked once, and held for the rest of the transaction."""

from collections.abc import Callable, Collection, Hashable
from typing import Any, TypeVar

from sqlalchemy import Select
from sqlalchemy.ext.asyncio import AsyncSession

T = TypeVar("T")

#: In a session's `info`: nothing of it is ever written, so that nobody is kept waiting for it.
DRY = "dry"


def is_dry(session: AsyncSession) -> bool:
    """Whether this transaction only computes."""
    return bool(session.info.get(DRY))


def locking(session: AsyncSession, statement: Select[T]) -> Select[T]:
    """The statement with row locks, unless nothing will be written."""
    return statement if is_dry(session) else statement.with_for_update()


class Locked:
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
                locking(self._session, statement()).execution_options(populate_existing=True)
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
        for found in await self._session.scalars(locking(self._session, statement)):
            self._held[key_of(found)] = found
        self._absent.update(key for key in keys if key not in self._held)
