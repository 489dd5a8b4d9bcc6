"""API keys: how an account's own programs come in."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from uuid import UUID

from services.auth.domain.roles import INCLUDED, MAKES_CUSTOMERS_KEYS, Role, StaffRole
from services.auth.domain.sessions import fingerprint, new_secret
from shared.errors import Invalid, NotFound
from shared.ids import new_id
from shared.security import OPERATOR_SCOPES, ApiKeyRefused

#: What every key begins with, so that services and scanners of leaked secrets know it.
KEY_PREFIX = "prn_"
#: How much of a key is kept readable, to tell keys apart.
SHOWN = len(KEY_PREFIX) + 8
#: "Last used" is written at most this often, so that a busy key is not a busy row.
NOTED_EVERY = timedelta(minutes=1)


class ApiKeyNotFound(NotFound):
    code = "api-key-not-found"


class ExpiryPassed(Invalid):
    """A key cannot expire before it is made."""

    code = "expiry-passed"


class ScopeOfTheOperator(Invalid):
    """A key of an account cannot have a scope for what only the operator does."""

    code = "scope-of-the-operator"


class KeyEnd(StrEnum):
    """Why a key works no more. It does not come back, whatever becomes of the reason."""

    REVOKED = "revoked"
    MAKER_LEFT = "maker-left"
    MAKER_ERASED = "maker-erased"
    MAKER_SUSPENDED = "maker-suspended"
    MAKER_LOST_ROLE = "maker-lost-role"
    ACCOUNT_CLOSED = "account-closed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Maker:
    """Who made a key, as they are now."""

    is_active: bool
    staff: StaffRole | None
    #: In the key's account, and the membership that says so.
    role: Role | None
    membership: str | None

    @property
    def strength(self) -> Role | None:
        """What they may do in the account; None: nothing.

        A staff admin who is a member of the account counts as that member.
        """
        if not self.is_active:
            return None
        if self.role is None and self.staff is MAKES_CUSTOMERS_KEYS:
            return Role.OWNER
        return self.role


@dataclass(eq=False, kw_only=True)
class ApiKey:
    """Only its hash is kept. It acts within its scopes, with the role that it was given.

    It never does what its maker could not do now: where their role is a weaker one by now, that
    one counts.
    """

    id: UUID
    account_id: UUID
    name: str
    prefix: str
    key_hash: bytes
    role: Role
    scopes: list[str]
    created_by: UUID
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None = None
    revoked_because: KeyEnd | None = None
    #: To the minute, so that a busy key is not a busy row.
    last_used_at: datetime | None = None

    @classmethod
    def create(
        cls,
        *,
        account_id: UUID,
        name: str,
        role: Role,
        scopes: list[str],
        created_by: UUID,
        expires_at: datetime | None,
        at: datetime,
    ) -> tuple["ApiKey", str]:
        """A key and its secret, which nobody can read again."""
        if expires_at is not None and expires_at <= at:
            raise ExpiryPassed("The expiry lies in the past.", field="expires_at")
        for scope in OPERATOR_SCOPES.intersection(scopes):
            raise ScopeOfTheOperator(f"Only keys of the operator have {scope}.", field="scopes")
        secret = KEY_PREFIX + new_secret()
        key = cls(
            id=new_id(),
            account_id=account_id,
            name=name,
            prefix=secret[:SHOWN],
            key_hash=fingerprint(secret),
            role=role,
            scopes=scopes,
            created_by=created_by,
            created_at=at,
            expires_at=expires_at,
        )
        return key, secret

    def require_alive(self, *, at: datetime) -> None:
        if self.revoked_at is not None or (self.expires_at is not None and at >= self.expires_at):
            raise ApiKeyRefused

    def acting_role(self, maker: Maker) -> Role:
        """What it acts as today. Raises `ApiKeyRefused` where its maker could do nothing of it."""
        strength = maker.strength
        if strength is None:
            raise ApiKeyRefused
        if self.role in INCLUDED[strength]:
            return self.role
        if strength in INCLUDED[self.role]:
            return strength
        raise ApiKeyRefused

    def revoke(self, *, because: KeyEnd, at: datetime) -> None:
        """End it. Ending twice keeps the first time and reason."""
        if self.revoked_at is None:
            self.revoked_at = at
            self.revoked_because = because
