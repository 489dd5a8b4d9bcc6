"""Secret keys of the operator: how its own backend comes in, for every account."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from ipaddress import IPv4Network, IPv6Network
from uuid import UUID

from services.auth.domain.api_keys import NOTED_EVERY, ExpiryPassed
from services.auth.domain.sessions import fingerprint
from shared.errors import Conflict, NotFound
from shared.ids import new_id
from shared.secret_keys import SECRET_KEY_PREFIX, new_secret_key
from shared.security import ApiKeyRefused, KeyScope

#: How much of a secret is kept readable, to tell secrets apart.
SHOWN = len(SECRET_KEY_PREFIX) + 8


class OperatorKeyNotFound(NotFound):
    """There is no such key of the operator."""

    code = "operator-key-not-found"


class OperatorKeyOver(Conflict):
    """The key was revoked or has expired: make a new one."""

    code = "operator-key-over"


@dataclass(eq=False, kw_only=True)
class OperatorKey:
    """What a backend may do, and from where. It stays the same key when its secret changes."""

    id: UUID
    name: str
    scopes: list[str]
    #: Networks in CIDR notation; none means everywhere.
    networks: list[str]
    #: As in the audit log: `user:<id>`, or `system` for the command line.
    created_by: str
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None = None
    version: int = 1

    @classmethod
    def create(
        cls,
        *,
        name: str,
        scopes: Iterable[KeyScope],
        networks: Iterable[IPv4Network | IPv6Network],
        expires_at: datetime | None,
        created_by: str,
        at: datetime,
    ) -> "OperatorKey":
        _require_future(expires_at, at=at)
        return cls(
            id=new_id(),
            name=name,
            scopes=sorted(set(scopes)),
            networks=sorted({str(network) for network in networks}),
            created_by=created_by,
            created_at=at,
            expires_at=expires_at,
        )

    def is_alive(self, *, at: datetime) -> bool:
        return self.revoked_at is None and (self.expires_at is None or at < self.expires_at)

    def renew(self, *, expires_at: datetime | None, at: datetime) -> None:
        """What a rotation changes of the key itself: until when it is good, where that is said."""
        if not self.is_alive(at=at):
            raise OperatorKeyOver("The key was revoked or has expired. Make a new one.")
        _require_future(expires_at, at=at)
        self.expires_at = expires_at or self.expires_at
        self.version += 1

    def revoke(self, *, at: datetime) -> bool:
        """End it, with all its secrets. Whether it was not over already."""
        if self.revoked_at is not None:
            return False
        self.revoked_at = at
        self.version += 1
        return True


@dataclass(eq=False, kw_only=True)
class OperatorSecret:
    """One secret of a key: while a key is rotated there are two. Only its hash is kept."""

    key_hash: bytes
    key_id: UUID
    prefix: str
    created_at: datetime
    #: When a rotation has it stop; none while it is the newest.
    ends_at: datetime | None = None
    #: To the minute.
    last_used_at: datetime | None = None

    @classmethod
    def issue(cls, key_id: UUID, *, at: datetime) -> tuple["OperatorSecret", str]:
        """A secret, and in plain what nobody can read again."""
        plain = new_secret_key()
        secret = cls(
            key_hash=fingerprint(plain), key_id=key_id, prefix=plain[:SHOWN], created_at=at
        )
        return secret, plain

    def retire(self, *, after: timedelta, at: datetime) -> None:
        """Have it stop once its successor is in use everywhere; never later than it would."""
        self.ends_at = min(self.ends_at or at + after, at + after)

    def use(self, *, at: datetime) -> None:
        """Raises `ApiKeyRefused` once it has stopped."""
        if self.ends_at is not None and at >= self.ends_at:
            raise ApiKeyRefused
        if self.last_used_at is None or at - self.last_used_at >= NOTED_EVERY:
            self.last_used_at = at.replace(second=0, microsecond=0)


def _require_future(expires_at: datetime | None, *, at: datetime) -> None:
    if expires_at is not None and expires_at <= at:
        raise ExpiryPassed("The expiry lies in the past.", field="expires_at")
