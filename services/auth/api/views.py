"""What answers look like, and what request bodies have in common."""

from datetime import datetime
from typing import Annotated
from uuid import UUID

from pydantic import BaseModel, Field, StringConstraints

from services.auth.domain.accounts import Account, AccountStatus
from services.auth.domain.roles import Role, StaffRole
from services.auth.domain.users import PersonalDetails, User, UserStatus
from shared.web import RequestModel

#: A name that people gave: anything but control characters.
Name = Annotated[
    str,
    StringConstraints(
        strip_whitespace=True, min_length=1, max_length=200, pattern=r"^[^\x00-\x1f]*$"
    ),
]
#: An opaque token; longer ones are not ours.
Token = Annotated[str, Field(min_length=1, max_length=200)]
#: A code of the second factor, where one is on.
Code = Annotated[
    str | None,
    Field(min_length=6, max_length=40, description="A code, or a backup code."),
]
#: What a client made once, and keeps.
DeviceSecret = Annotated[
    str | None,
    Field(
        min_length=32,
        max_length=200,
        description=(
            "Random, made once by this client and kept. Where a user was let in with it before, "
            "wrong tries of others do not delay them."
        ),
    ),
]
#: Bounded here, judged by the domain.
Password = Annotated[str, Field(min_length=1, max_length=1024)]


class Strict(RequestModel):
    """A request body of auth."""


class UserView(BaseModel):
    id: UUID
    email: str
    full_name: str | None
    status: UserStatus
    staff: StaffRole | None
    created_at: datetime
    version: int

    @classmethod
    def of(cls, user: User, details: PersonalDetails) -> "UserView":
        return cls(
            id=user.id,
            email=details.email,
            full_name=details.full_name,
            status=user.status,
            staff=user.staff_role,
            created_at=user.created_at,
            version=user.version,
        )


class AccountView(BaseModel):
    id: UUID
    name: str | None
    country: str
    time_zone: str
    #: Where mails about money go while no member gets them.
    email: str | None
    language: str | None
    currency: str | None
    #: The operator's own, which members do not see.
    external_id: str | None
    metadata: dict[str, str] | None
    status: AccountStatus
    created_at: datetime
    version: int

    @classmethod
    def of(cls, account: Account, *, for_operator: bool = False) -> "AccountView":
        return cls(
            id=account.id,
            name=account.name,
            country=account.country,
            time_zone=account.time_zone,
            email=account.email,
            language=account.language,
            currency=account.currency,
            external_id=account.external_id if for_operator else None,
            metadata=account.metadata if for_operator else None,
            status=account.status,
            created_at=account.created_at,
            version=account.version,
        )


class MyAccountView(AccountView):
    """An account of mine, and what I am in it."""

    role: Role | None


class Accepted(BaseModel):
    """What is said whether or not anything will happen."""

    status: str = "accepted"
