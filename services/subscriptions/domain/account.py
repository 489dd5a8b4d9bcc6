"""What this service knows of accounts: where they are, and how they can pay."""

from dataclasses import dataclass
from uuid import UUID

from shared.errors import Conflict, Unavailable


class AccountNotReady(Unavailable):
    """Its registration has not reached this service yet."""

    code = "account-not-ready"


class AccountIsClosed(Conflict):
    """It ended, and buys nothing more."""

    code = "account-closed"


@dataclass(eq=False, kw_only=True)
class Account:
    id: UUID
    country: str
    time_zone: str
    closed: bool = False
    #: Of auth's account; what is older is passed over.
    version: int = 0


@dataclass(eq=False, kw_only=True)
class PaymentMethod:
    """A way for an account to pay; the highest sequence wins."""

    id: UUID
    account_id: UUID
    is_default: bool
    attached: bool
    version: int
