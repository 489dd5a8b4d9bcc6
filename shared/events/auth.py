"""What auth reports. Ids and settings only: names and addresses never leave auth."""

from typing import ClassVar, Literal
from uuid import UUID

from shared.events.base import Event


class AccountEvent(Event):
    subject_field: ClassVar[str] = "account_id"


class AccountRegistered(AccountEvent):
    """There is a new account that can be billed: somebody signed up, or the operator made it."""

    name: ClassVar[str] = "account.registered"

    country: str
    time_zone: str
    #: What its documents are written in and what it usually pays in, where that was said.
    language: str | None = None
    currency: str | None = None


class AccountUpdated(AccountEvent):
    """Something in the account changed. With another time zone, periods that run keep their bounds.

    What only auth keeps, such as the name, is not told: it is asked from auth.
    """

    name: ClassVar[str] = "account.updated"

    country: str
    time_zone: str
    language: str | None = None
    currency: str | None = None


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


class UserUpdated(UserEvent):
    """Something in the profile changed; what it says now is asked from auth."""

    name: ClassVar[str] = "user.updated"


class UserSuspended(UserEvent):
    """Staff keeps them out for now."""

    name: ClassVar[str] = "user.suspended"


class UserReactivated(UserEvent):
    """They may come in again."""

    name: ClassVar[str] = "user.reactivated"


class UserErased(UserEvent):
    """Their personal details are gone from auth; others drop theirs."""

    name: ClassVar[str] = "user.erased"


class ProjectEvent(Event):
    subject_field: ClassVar[str] = "project_id"

    project_id: UUID


class ProjectCreated(ProjectEvent):
    """An account has a new project; subscriptions may belong to it once it is active."""

    name: ClassVar[str] = "project.created"

    status: Literal["draft", "active"]


class ProjectUpdated(ProjectEvent):
    """Its name or description changed."""

    name: ClassVar[str] = "project.updated"


class ProjectActivated(ProjectEvent):
    """New subscriptions may belong to it."""

    name: ClassVar[str] = "project.activated"


class ProjectArchived(ProjectEvent):
    """It takes no new subscriptions; those it has go on."""

    name: ClassVar[str] = "project.archived"
