"""The life of a user: from a sign-up that nobody has confirmed yet to erasure."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import TypedDict
from uuid import UUID

from services.auth.domain.roles import StaffRole
from shared.errors import Conflict, Forbidden, Invalid, NotFound, Unauthenticated
from shared.events.auth import (
    UserErased,
    UserReactivated,
    UserRegistered,
    UserSuspended,
    UserUpdated,
    UserVerified,
)
from shared.ids import new_id


class UserStatus(StrEnum):
    #: The address is not confirmed yet. Sign-ups are no users until they are (see registrations);
    #: who signed up while an earlier release ran is one, until the address is proven.
    PENDING = "pending"
    ACTIVE = "active"
    SUSPENDED = "suspended"
    ERASED = "erased"


#: The whole state machine. A move that is not here cannot happen.
MOVES: dict[UserStatus, set[UserStatus]] = {
    UserStatus.PENDING: {UserStatus.ACTIVE, UserStatus.ERASED},
    UserStatus.ACTIVE: {UserStatus.SUSPENDED, UserStatus.ERASED},
    UserStatus.SUSPENDED: {UserStatus.ACTIVE, UserStatus.ERASED},
    UserStatus.ERASED: set(),
}


class UserNotFound(NotFound):
    code = "user-not-found"


class AddressTaken(Conflict):
    """Somebody has registered this address: log in, or ask for a new password."""

    code = "address-taken"


class IllegalUserTransition(Conflict):
    """The user is not in a state that allows this."""

    code = "illegal-user-transition"


class WrongCredentials(Unauthenticated):
    """One answer for an unknown address and a wrong password, so that neither tells anything."""

    code = "wrong-credentials"

    def __init__(self) -> None:
        super().__init__("The e-mail address or the password is wrong.")


class AddressNotVerified(Forbidden):
    """The password is right, but the address is not confirmed yet: follow the link in the mail."""

    code = "address-not-verified"


class UserIsSuspended(Forbidden):
    """The password is right, but staff keeps this user out for now."""

    code = "user-suspended"


class NotYourself(Conflict):
    """Staff cannot suspend themself or change their own role."""

    code = "not-yourself"


class PasswordRefused(Invalid):
    """The password is too short, too plain or too close to the name or address."""

    code = "password-refused"


class _Facts(TypedDict):
    occurred_at: datetime
    account_id: UUID
    sequence: int
    user_id: UUID


@dataclass(eq=False, kw_only=True)
class User:
    """Somebody who signs in. Changes only through methods; each returns the event it caused."""

    id: UUID
    #: Where they came in; carried by their events. Staff have none (the nil UUID).
    home_account_id: UUID
    password_hash: str | None
    status: UserStatus = UserStatus.PENDING
    staff_role: StaffRole | None = None
    created_at: datetime
    version: int = 0

    @classmethod
    def register(
        cls, *, home_account_id: UUID, password_hash: str, at: datetime, user_id: UUID | None = None
    ) -> tuple["User", UserRegistered]:
        user = cls(
            id=user_id or new_id(),
            home_account_id=home_account_id,
            password_hash=password_hash,
            created_at=at,
        )
        return user, UserRegistered(**user._next(at))

    def verify(self, *, at: datetime) -> UserVerified:
        """The address is theirs."""
        if self.status is not UserStatus.PENDING:
            raise IllegalUserTransition("The address is verified already.")
        self._move_to(UserStatus.ACTIVE)
        return UserVerified(**self._next(at))

    def touch(self, *, at: datetime) -> UserUpdated:
        """Note that the profile, which is kept apart, changed."""
        return UserUpdated(**self._next(at))

    def suspend(self, *, at: datetime) -> UserSuspended:
        self._move_to(UserStatus.SUSPENDED)
        return UserSuspended(**self._next(at))

    def reactivate(self, *, at: datetime) -> UserReactivated:
        if self.status is not UserStatus.SUSPENDED:
            raise IllegalUserTransition(f"A user who is {self.status} cannot be reactivated.")
        self._move_to(UserStatus.ACTIVE)
        return UserReactivated(**self._next(at))

    def erase(self, *, at: datetime) -> UserErased:
        """Forget how they come in. Their id stays, so that the books still add up."""
        self._move_to(UserStatus.ERASED)
        self.password_hash = None
        self.staff_role = None
        return UserErased(**self._next(at))

    def may_sign_in(self, *, with_hash: str | None) -> None:
        """Refuse those whose address is unconfirmed or whom staff keeps out.

        `with_hash` is what the password was compared with: it may have changed meanwhile.
        """
        if self.status is UserStatus.PENDING:
            raise AddressNotVerified("Confirm the address first: follow the link in the mail.")
        if self.status is UserStatus.SUSPENDED:
            raise UserIsSuspended("This user is suspended; ask support.")
        if self.status is UserStatus.ERASED or self.password_hash != with_hash:
            raise WrongCredentials

    def _next(self, at: datetime) -> _Facts:
        self.version += 1
        return {
            "occurred_at": at,
            "account_id": self.home_account_id,
            "sequence": self.version,
            "user_id": self.id,
        }

    def _move_to(self, target: UserStatus) -> None:
        if target not in MOVES[self.status]:
            raise IllegalUserTransition(f"A user who is {self.status} cannot become {target}.")
        self.status = target


@dataclass(eq=False, kw_only=True)
class PersonalDetails:
    """What says who a user is. A row of its own: erasing a person is deleting it."""

    user_id: UUID
    #: As they wrote it …
    email: str
    #: … and what all spellings of it share, which is unique.
    address_key: str
    full_name: str | None = None

    @classmethod
    def of(cls, user_id: UUID, *, email: str, full_name: str | None) -> "PersonalDetails":
        return cls(
            user_id=user_id, email=email, address_key=address_key(email), full_name=full_name
        )


def address_key(email: str) -> str:
    """What two spellings of one address share: mail providers ignore case, so we do."""
    return email.strip().lower()
