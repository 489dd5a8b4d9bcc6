"""Looking accounts up by what the operator's own system knows of them."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Row, func, literal_column, select

from services.auth.domain.accounts import Account, AccountStatus, Membership
from services.auth.domain.users import address_key
from services.auth.tables import ACCOUNT_WORDS, accounts, memberships, personal_details
from shared.db import UnitOfWork
from shared.pages import PageRequest

MOST_WORDS = 10


@dataclass(frozen=True, slots=True)
class Matching:
    """What accounts have to be like, all of it. Empty: every account."""

    external_id: str | None = None
    email: str | None = None
    words: Sequence[str] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)
    country: str | None = None
    currency: str | None = None
    status: AccountStatus | None = None

    def conditions(self) -> list[ColumnElement[bool]]:
        made: list[ColumnElement[bool]] = [
            accounts.c[column] == wanted
            for column in ("external_id", "country", "currency", "status")
            if (wanted := getattr(self, column)) is not None
        ]
        if self.email is not None:
            made.append(_has_address(address_key(self.email)))
        if self.words:
            # Letters and digits alone: nothing in it has a meaning of its own to the search.
            query = func.to_tsquery(
                literal_column("'simple'::regconfig"),
                " & ".join(f"{word}:*" for word in self.words),
            )
            made.append(literal_column(f"({ACCOUNT_WORDS})").op("@@", is_comparison=True)(query))
        if self.metadata:
            made.append(accounts.c.metadata.contains(dict(self.metadata)))
        return made


def words_of(search: str) -> list[str]:
    """The first words of what somebody types."""
    return re.findall(r"[^\W_]+", search.lower())[:MOST_WORDS]


async def matching(
    uow: UnitOfWork, page: PageRequest, wanted: Matching, *, only: UUID | None = None
) -> Sequence[Account]:
    """Accounts, newest first: all, or `only` one."""
    statement = select(Account).where(*wanted.conditions())
    if only is not None:
        statement = statement.where(accounts.c.id == only)
    return (await uow.session.scalars(page.narrow(statement, accounts.c.id))).all()


async def of_user(
    uow: UnitOfWork, user_id: UUID, page: PageRequest, wanted: Matching
) -> Sequence[Row[Any]]:
    """The accounts that somebody belongs to, each with their place in it."""
    statement: Any = (
        select(Account, Membership)
        .join(Membership, memberships.c.account_id == accounts.c.id)
        .where(memberships.c.user_id == user_id, *wanted.conditions())
    )
    rows: Sequence[Row[Any]] = (
        await uow.session.execute(page.narrow(statement, accounts.c.id))
    ).all()
    return rows


def _has_address(key: str) -> ColumnElement[bool]:
    """The account's own address, or a member's: each is looked up by its index."""
    own = select(accounts.c.id).where(
        func.lower(accounts.c.email) == key, accounts.c.email.is_not(None)
    )
    members = (
        select(memberships.c.account_id)
        .join(personal_details, personal_details.c.user_id == memberships.c.user_id)
        .where(personal_details.c.address_key == key)
    )
    return accounts.c.id.in_(own.union(members))
