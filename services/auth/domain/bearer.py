"""Whom an access token speaks for."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from services.auth.domain.roles import Role, StaffRole


@dataclass(frozen=True, slots=True, kw_only=True)
class Bearer:
    """A person in one account, one of the staff, a key, or a customer whom a key let in."""

    subject: str
    account_id: UUID | None
    role: Role | None = None
    staff: StaffRole | None = None
    #: What an API key may do; None for a person.
    scopes: tuple[str, ...] | None = None
    #: A key of the operator, which may act for every account.
    is_operator: bool = False
    #: From which networks a key may be used; from everywhere when there are none.
    networks: tuple[str, ...] = ()
    #: Of a customer session: the key of the operator that opened it.
    opened_by: UUID | None = None
    #: When the token ends, where that is not a quarter of an hour from now.
    ends_at: datetime | None = None
    session_id: UUID | None = None
    #: When the person gave their password.
    authenticated_at: datetime | None = None
    #: The membership and its version that the role comes from.
    membership: str | None = None
    #: A key of the operator has another one after each change of its secrets.
    key_version: int = 0


def membership_claim(membership_id: UUID, version: int) -> str:
    """How a token names the membership that it stands on; another role is another version."""
    return f"{membership_id}.{version}"
