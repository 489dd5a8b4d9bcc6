"""What this service knows of accounts: where they are, and how they can pay."""

from dataclasses import dataclass, field
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


@dataclass(eq=False, kw_only=True)
class InvoiceState:
    """How far an invoice of a subscription has come, gathered from events in any order."""

    invoice_id: UUID
    account_id: UUID
    #: The one that it bills; None on a consolidated invoice, and while that is not known yet.
    subscription_id: UUID | None = None
    #: All that a consolidated invoice bills.
    subscription_ids: list[UUID] = field(default_factory=list)
    #: It is the first invoice of a subscription that waits for it.
    is_first: bool = False
    paid: bool = False
    #: Voided, or nobody expects the money any more.
    dropped: bool = False
    dunning: bool = False
    #: What the plan's policy wants after dunning came to nothing.
    exhausted: str | None = None

    @property
    def is_overdue(self) -> bool:
        if self.paid:
            return False
        return self.exhausted is not None or (self.dunning and not self.dropped)
