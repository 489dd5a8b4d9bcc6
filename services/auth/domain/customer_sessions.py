"""A customer in the browser, let in by the operator's backend: one account, a short while."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from services.auth.domain.keys import LONGEST_LIFE
from services.auth.domain.roles import Role
from shared.ids import new_id
from shared.security import KeyScope

DEFAULT_LIFE = timedelta(minutes=15)

#: What a customer does with what they pay for. Not what the operator's backend does for them, such
#: as counting usage and spending tokens, and nothing that the account itself hangs on.
CUSTOMER_SCOPES = (
    KeyScope.ACCOUNTS_READ,
    KeyScope.BILLING_READ,
    KeyScope.BILLING_WRITE,
    KeyScope.INVOICES_READ,
    KeyScope.PAYMENTS_READ,
    KeyScope.PAYMENTS_WRITE,
    KeyScope.PROJECTS_READ,
    KeyScope.SUBSCRIPTIONS_READ,
    KeyScope.SUBSCRIPTIONS_WRITE,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class CustomerSession:
    """It is its token: nothing of it is kept but the entry in the audit log."""

    id: UUID
    account_id: UUID
    #: The key of the operator that let them in; with it the session ends.
    key_id: UUID
    role: Role
    created_at: datetime
    expires_at: datetime

    @classmethod
    def open(
        cls, *, account_id: UUID, key_id: UUID, role: Role, life: timedelta, at: datetime
    ) -> "CustomerSession":
        return cls(
            id=new_id(),
            account_id=account_id,
            key_id=key_id,
            role=role,
            created_at=at,
            expires_at=at + min(life, LONGEST_LIFE),
        )
