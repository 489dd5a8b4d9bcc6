"""What this service knows of accounts: where they are, how they can pay, their projects."""

from dataclasses import dataclass
from uuid import UUID

from shared.errors import Conflict, Invalid, NotFound, Unavailable


class AccountNotFound(NotFound):
    """There is no such account here, and news of it is not on its way."""

    code = "account-not-found"


class AccountNotReady(Unavailable):
    """Its registration has not reached this service yet."""

    code = "account-not-ready"


class AccountIsClosed(Conflict):
    """It ended, and buys nothing more."""

    code = "account-closed"


class PaymentMethodUnknown(Invalid):
    """It is none of the account's ways to pay, or was detached."""

    code = "payment-method-unknown"


class ProjectNotActive(Invalid):
    """It is no project of the account's, or takes no new subscriptions."""

    code = "project-not-active"


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


@dataclass(eq=False, kw_only=True)
class Project:
    """What subscriptions of an account may belong to; the highest sequence wins."""

    id: UUID
    account_id: UUID
    active: bool = False
    version: int = 0
