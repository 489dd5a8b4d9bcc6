"""Signing keys: published before they sign, and for a while after, so that rotation is silent."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

#: Access tokens live this long …
ACCESS_LIFE = timedelta(minutes=15)
#: … and those of customer sessions at most this long.
LONGEST_LIFE = timedelta(hours=1)
#: Verifiers keep keys for five minutes: a key is published twice as long before it signs.
PUBLISHED_BEFORE = timedelta(minutes=10)
#: After its last signature a key is published until no token of it is alive, and some more.
PUBLISHED_AFTER = LONGEST_LIFE + timedelta(minutes=5)
#: A key signs this long, then the schedule brings the next.
ROTATE_AFTER = timedelta(days=90)


@dataclass(eq=False, kw_only=True)
class SigningKey:
    """A P-256 key pair. Which one signs follows from the time alone."""

    #: RFC 7638 thumbprint.
    kid: str
    private_jwk: dict[str, Any]
    signs_from: datetime
    #: Null while no successor is known.
    published_until: datetime | None = None
    created_at: datetime

    def is_published(self, *, at: datetime) -> bool:
        return self.published_until is None or at < self.published_until

    def hand_over(self, successor: "SigningKey") -> None:
        """Stay published as long as a token of ours may be alive."""
        self.published_until = successor.signs_from + PUBLISHED_AFTER


def signing(keys: list[SigningKey], *, at: datetime) -> SigningKey:
    """The key to sign with: the newest of those whose time has come."""
    return max((key for key in keys if key.signs_from <= at), key=lambda key: key.signs_from)
