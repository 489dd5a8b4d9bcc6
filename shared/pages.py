"""Lists in pages with cursors that stay true while rows are added."""

import base64
import binascii
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar
from uuid import UUID

from pydantic import BaseModel
from sqlalchemy import ColumnElement, Select

from shared.errors import Invalid

T = TypeVar("T")


class Page(BaseModel, Generic[T]):
    """A page, newest first; `next_cursor` is null on the last one."""

    data: list[T]
    next_cursor: str | None


@dataclass(frozen=True, slots=True)
class Cursor:
    """Where the next page starts: after this id. Opaque to clients."""

    after: UUID

    def encode(self) -> str:
        return base64.urlsafe_b64encode(self.after.bytes).decode().rstrip("=")

    @classmethod
    def decode(cls, text: str) -> "Cursor":
        try:
            return cls(UUID(bytes=base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))))
        except (binascii.Error, ValueError):
            raise Invalid("This cursor was not made here.", field="cursor") from None


@dataclass(frozen=True, slots=True)
class PageRequest:
    limit: int
    cursor: Cursor | None

    def narrow(self, statement: Select[Any], key: ColumnElement[UUID]) -> Select[Any]:
        """The rows of this page and one more, which tells whether there is a next page.

        `key` is a UUIDv7, so newest first is descending, and inserts never shift a page.
        """
        if self.cursor is not None:
            statement = statement.where(key < self.cursor.after)
        return statement.order_by(key.desc()).limit(self.limit + 1)

    def page(
        self, rows: Sequence[Any], view: Callable[[Any], T], key: Callable[[Any], UUID]
    ) -> Page[T]:
        """The page of what `narrow` found."""
        shown = rows[: self.limit]
        more = len(rows) > self.limit
        return Page(
            data=[view(row) for row in shown],
            next_cursor=Cursor(key(shown[-1])).encode() if more else None,
        )
