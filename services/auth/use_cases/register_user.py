"""Somebody signs up. Whether the address is theirs is for the mail to find out."""

from datetime import datetime
from uuid import UUID

from services.auth.domain.accounts import Account, Membership
from services.auth.domain.mail import Template
from services.auth.domain.registrations import Registration
from services.auth.domain.roles import Role
from services.auth.repository import AuthUnitOfWork
from services.auth.use_cases.mail_tokens import ask_for_mail
from shared.ids import new_id


def register_user(
    uow: AuthUnitOfWork,
    *,
    email: str,
    password_hash: str,
    full_name: str | None,
    account_name: str | None,
    country: str,
    time_zone: str,
    now: datetime,
) -> Registration:
    """Keep what they set until the address is proven, and mail a token to it.

    The same happens for an address that somebody has already: only its owner is told.
    """
    registration = Registration.of(
        email=email,
        password_hash=password_hash,
        full_name=full_name,
        account_name=account_name,
        country=country,
        time_zone=time_zone,
        at=now,
    )
    uow.registrations.add(registration)
    ask_for_mail(uow, email, Template.SIGN_UP, now=now)
    return registration


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


def a_place(user_id: UUID, account_id: UUID, role: Role, *, now: datetime) -> Membership:
    return Membership(
        id=new_id(), account_id=account_id, user_id=user_id, role=role, created_at=now
    )
