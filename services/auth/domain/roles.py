"""What people may do: their role in an account, or on the operator's staff."""

from enum import StrEnum
from uuid import UUID

#: Stands for "no account": staff act for the operator, whose id this is in events.
NO_ACCOUNT = UUID(int=0)


class Role(StrEnum):
    """A member's role in one account, strongest first."""

    OWNER = "owner"  # everything, and may close the account
    ADMIN = "admin"  # everything but owners' business
    BILLING = "billing"  # invoices, payment methods, and the mails about them
    MEMBER = "member"  # uses what the account pays for


class StaffRole(StrEnum):
    """A role of the operator's own people, weakest first."""

    SUPPORT = "support"
    FINANCE = "finance"
    ADMIN = "admin"


#: What each role includes.
INCLUDED: dict[Role, frozenset[Role]] = {
    Role.OWNER: frozenset(Role),
    Role.ADMIN: frozenset({Role.ADMIN, Role.BILLING, Role.MEMBER}),
    Role.BILLING: frozenset({Role.BILLING}),
    Role.MEMBER: frozenset({Role.MEMBER}),
}
#: Who of the staff may make keys of a customer's account.
MAKES_CUSTOMERS_KEYS = StaffRole.ADMIN
#: Who may change an account's members, invitations and keys.
MANAGERS = frozenset({Role.OWNER, Role.ADMIN})
#: Whom the mails about money go to.
BILLED = (Role.OWNER, Role.BILLING)
