"""Being signed in: sessions, the refresh tokens that carry them on, and mailed tokens."""

import hashlib
import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from uuid import UUID

from shared.errors import Invalid, NotFound, Unauthenticated
from shared.ids import new_id

#: A session ends this long after log-in, however busy it is …
SESSION_LIFE = timedelta(days=30)
#: … and this long after its last use.
IDLE_LIFE = timedelta(days=14)
#: What was mailed can be used this long.
VERIFICATION_LIFE = timedelta(days=2)
RESET_LIFE = timedelta(minutes=30)
#: Changes to how somebody signs in want a log-in not older than this.
FRESH = timedelta(minutes=10)


class SessionNotFound(NotFound):
    code = "session-not-found"


class RefreshTokenRefused(Unauthenticated):
    """Unknown, used, expired or revoked: one answer for all of them."""

    code = "refresh-token-refused"

    def __init__(self) -> None:
        super().__init__("The refresh token is not good any more. Log in again.")


class TokenRefused(Invalid):
    """A mailed token that is unknown, used or too old: one answer for all of them."""

    code = "token-refused"

    def __init__(self) -> None:
        super().__init__("The token is wrong, was used, or is too old.", field="token")


def new_secret() -> str:
    """256 bits from the system, safe in URLs."""
    return secrets.token_urlsafe(32)


def fingerprint(secret: str) -> bytes:
    """What is stored of a secret that is itself random: SHA-256 is enough for 256 bits."""
    return hashlib.sha256(secret.encode()).digest()


@dataclass(eq=False, kw_only=True)
class Session:
    """One log-in on one device: the family of its refresh tokens."""

    id: UUID
    user_id: UUID
    #: The account that its tokens are for; nil for staff. Sessions belong to the user and not
    #: to the account, hence not called `account_id`.
    signed_in_to: UUID
    ip: str | None
    user_agent: str | None
    created_at: datetime
    last_used_at: datetime
    expires_at: datetime
    revoked_at: datetime | None = None
    revoked_because: str | None = None

    @classmethod
    def open(
        cls,
        *,
        user_id: UUID,
        account_id: UUID,
        ip: str | None,
        user_agent: str | None,
        at: datetime,
    ) -> "Session":
        return cls(
            id=new_id(),
            user_id=user_id,
            signed_in_to=account_id,
            ip=ip,
            user_agent=user_agent[:200] if user_agent else None,
            created_at=at,
            last_used_at=at,
            expires_at=at + SESSION_LIFE,
        )

    def is_alive(self, *, at: datetime) -> bool:
        return self.revoked_at is None and at < self.expires_at

    def issue(self, secret: str, *, at: datetime) -> "RefreshToken":
        """The next refresh token of the family."""
        self.last_used_at = at
        return RefreshToken(
            token_hash=fingerprint(secret),
            session_id=self.id,
            issued_at=at,
            expires_at=min(at + IDLE_LIFE, self.expires_at),
        )

    def revoke(self, *, because: str, at: datetime) -> None:
        """End it. Ending twice keeps the first reason."""
        if self.revoked_at is None:
            self.revoked_at = at
            self.revoked_because = because


@dataclass(eq=False, kw_only=True)
class RefreshToken:
    """Works once. Seen again, it was copied: the family ends."""

    token_hash: bytes
    session_id: UUID
    issued_at: datetime
    expires_at: datetime
    used_at: datetime | None = None

    def use(self, *, at: datetime) -> None:
        if self.used_at is not None or at >= self.expires_at:
            raise RefreshTokenRefused
        self.used_at = at


@dataclass(eq=False, kw_only=True)
class KnownDevice:
    """Somewhere a user proved themself before: a stranger's wrong tries do not delay them there."""

    user_id: UUID
    #: Of a secret that the client made; only its hash is kept.
    device_hash: bytes
    created_at: datetime
    last_used_at: datetime


class Purpose(StrEnum):
    VERIFY_EMAIL = "verify_email"
    RESET_PASSWORD = "reset_password"  # noqa: S105 -- a purpose, not a password
    CHANGE_EMAIL = "change_email"


@dataclass(eq=False, kw_only=True)
class MailedToken:
    """Proves that its bearer reads the mail of one address. Works once, and for that address."""

    token_hash: bytes
    #: Null where the address is nobody's yet: it is to be confirmed after a sign-up.
    user_id: UUID | None
    purpose: Purpose
    #: The address as it was typed, where the token is to make it somebody's.
    email: str | None = None
    #: The address that it was mailed to. Null on a token that an earlier release made.
    address_key: str | None = None
    created_at: datetime
    expires_at: datetime
    used_at: datetime | None = None

    @classmethod
    def make(
        cls,
        secret: str,
        *,
        user_id: UUID | None,
        purpose: Purpose,
        address_key: str,
        email: str | None = None,
        at: datetime,
    ) -> "MailedToken":
        life = RESET_LIFE if purpose is Purpose.RESET_PASSWORD else VERIFICATION_LIFE
        return cls(
            token_hash=fingerprint(secret),
            user_id=user_id,
            purpose=purpose,
            email=email,
            address_key=address_key,
            created_at=at,
            expires_at=at + life,
        )

    def is_good(self, *, at: datetime, for_address: str | None = None) -> bool:
        """Not used, not too old, and `for_address`: the one that its user has now."""
        if for_address is not None and self.address_key not in (None, for_address):
            return False
        return self.used_at is None and at < self.expires_at

    def use(self, *, at: datetime, for_address: str | None = None) -> None:
        if not self.is_good(at=at, for_address=for_address):
            raise TokenRefused
        self.used_at = at
