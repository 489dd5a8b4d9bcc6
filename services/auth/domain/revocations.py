"""What is over before the access tokens that stand on it expire; every service has to know."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from uuid import UUID

from services.auth.domain.keys import LONGEST_LIFE

#: No token that stands on what was revoked is alive after this long. A minute more, for tokens
#: that were on their way to be signed when it happened.
KEPT_FOR = LONGEST_LIFE + timedelta(minutes=1)


class RevokedKind(StrEnum):
    SESSION = "session"
    KEY = "key"
    MEMBERSHIP = "membership"
    #: What customers were let in to by the operator's backend; log-ins and keys end one by one.
    ACCOUNT = "account"


@dataclass(frozen=True, slots=True, kw_only=True)
class Revocation:
    """Tokens that stand on `subject` are over; of a membership, those of a version below."""

    kind: RevokedKind
    subject: UUID
    below: int = 1
    #: Real time, as tokens live by it.
    at: datetime

    @property
    def until(self) -> datetime:
        return self.at + KEPT_FOR
