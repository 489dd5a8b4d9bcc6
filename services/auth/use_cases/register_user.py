"""Somebody signs up: a user, their personal details apart, and an account that they own."""

from datetime import datetime
from uuid import UUID

from sqlalchemy.exc import IntegrityError

from services.auth.domain.accounts import Account, Membership
from services.auth.domain.roles import Role
from services.auth.domain.users import AddressTaken, PersonalDetails, User
from services.auth.repository import AuthUnitOfWork
from services.auth.use_cases.mail_tokens import mail_verification
from shared.ids import new_id


async def register_user(
    uow: AuthUnitOfWork,
    *,
    email: str,
    password_hash: str,
    full_name: str | None,
    account_name: str | None,
    country: str,
    time_zone: str,
    now: datetime,
) -> tuple[User, PersonalDetails, Account]:
    """Register them and mail a token to the address. Raises `AddressTaken`."""
    account, registered = Account.register(
        name=account_name or full_name, country=country, time_zone=time_zone, at=now
    )
    user, details = await add_user(
        uow,
        home_account_id=account.id,
        email=email,
        full_name=full_name,
        password_hash=password_hash,
        now=now,
    )
    await uow.accounts.add(account)
    uow.memberships.add(a_place(user.id, account.id, Role.OWNER, now=now))
    uow.emit(registered)
    await mail_verification(uow, user.id, now=now)
    return user, details, account


async def open_account(
    uow: AuthUnitOfWork,
    user_id: UUID,
    *,
    name: str,
    country: str,
    time_zone: str,
    now: datetime,
) -> Account:
    """One more account for somebody who has one already."""
    account, registered = Account.register(name=name, country=country, time_zone=time_zone, at=now)
    await uow.accounts.add(account)
    uow.memberships.add(a_place(user_id, account.id, Role.OWNER, now=now))
    uow.emit(registered)
    uow.audit("account.opened", account.id, account_id=account.id)
    return account


async def add_user(
    uow: AuthUnitOfWork,
    *,
    home_account_id: UUID,
    email: str,
    full_name: str | None,
    password_hash: str,
    now: datetime,
) -> tuple[User, PersonalDetails]:
    """A new user with this address, still to be verified."""
    taken = AddressTaken("Somebody has registered this address. Log in instead.", field="email")
    if await uow.users.is_taken(email):
        raise taken
    user, registered = User.register(
        home_account_id=home_account_id, password_hash=password_hash, at=now
    )
    details = PersonalDetails.of(user.id, email=email, full_name=full_name)
    try:
        await uow.users.add(user, details)
    except IntegrityError as error:  # somebody else was faster by a moment
        raise taken from error
    uow.emit(registered)
    return user, details


def a_place(user_id: UUID, account_id: UUID, role: Role, *, now: datetime) -> Membership:
    return Membership(
        id=new_id(), account_id=account_id, user_id=user_id, role=role, created_at=now
    )
