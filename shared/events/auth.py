"""What auth reports. Ids and settings only: names and addresses never leave auth."""

from typing import ClassVar
from uuid import UUID

from shared.events.base import Event


class AccountEvent(Event):
    subject_field: ClassVar[str] = "account_id"


class AccountRegistered(AccountEvent):
    """Somebody signed up, and with them an account that can be billed."""

    name: ClassVar[str] = "account.registered"

    country: str
    time_zone: str


class AccountUpdated(AccountEvent):
    """The account's country or time zone changed; periods that run keep their bounds."""

    name: ClassVar[str] = "account.updated"

    country: str
    time_zone: str


class AccountClosed(AccountEvent):
    """The account ended; what it subscribed to ends with it."""

    name: ClassVar[str] = "account.closed"


class UserEvent(Event):
    subject_field: ClassVar[str] = "user_id"

    user_id: UUID


class UserRegistered(UserEvent):
    """Somebody may come in once their address is verified."""

    name: ClassVar[str] = "user.registered"


class UserVerified(UserEvent):
    """The address is theirs."""

    name: ClassVar[str] = "user.verified"
