"""The address is confirmed by who reads its mail, who says with which password they come in."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from services.auth.domain.accounts import Account
from services.auth.domain.registrations import PasswordRequired, Registration
from services.auth.domain.roles import Role
from services.auth.domain.sessions import MailedToken, Purpose, TokenRefused
from services.auth.domain.users import User, UserStatus, address_key
from services.auth.passwords import Passwords, check_strength
from services.auth.repository import AuthUnitOfWork
from services.auth.use_cases.claim_address import add_user, claim_address
from services.auth.use_cases.register_user import a_place

Begin = Callable[[], AbstractAsyncContextManager[AuthUnitOfWork]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Newcomer:
    """What somebody says about themself who confirms a sign-up that was not theirs."""

    full_name: str | None
    account_name: str | None
    country: str
    time_zone: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The password that whoever confirms the address comes in with."""

    password_hash: str
    #: Whose password it is: a sign-up's, or that of a user whom an earlier release made. None: it
    #: is new, so nothing that was signed up was theirs.
    signed_up_as: UUID | None


async def choose_password(
    begin: Begin,
    passwords: Passwords,
    *,
    token: str,
    password: str | None,
    personal: tuple[str, ...],
    now: datetime,
) -> Choice | None:
    """Find out whose password came with the token. Spans transactions: hashing takes time.

    None when the token is not good: it may be the repeat of a request that used it. Raises
    `PasswordRequired`, and `PasswordRefused` for a new one that is too weak.
    """
    async with begin() as uow:
        mailed = await uow.mailed_tokens.peek(token, Purpose.VERIFY_EMAIL)
        if mailed is None or not mailed.is_good(at=now):
            return None
        if password is None:
            raise PasswordRequired(
                "Send `password` too: the one that you signed up with, or a new one if it was not "
                "you who signed up.",
                field="password",
            )
        email = await address_of(uow, mailed)
        known = await signed_up(uow, email, now=now)
    for signed_up_as, kept in known:
        right, renewed = await passwords.verify(password, kept)
        if right and kept is not None:
            return Choice(password_hash=renewed or kept, signed_up_as=signed_up_as)
    check_strength(password, personal=(email, *personal))
    return Choice(password_hash=await passwords.hash(password), signed_up_as=None)


async def verify_email(
    uow: AuthUnitOfWork, *, token: str, choice: Choice | None, newcomer: Newcomer, now: datetime
) -> User:
    """Let them in. Raises `TokenRefused`; the same token again is refused too.

    What was signed up with the password that they chose is theirs: names, country, ids. With
    another password they start afresh, and all that was signed up with the address is dropped.
    """
    mailed = await uow.mailed_tokens.peek(token, Purpose.VERIFY_EMAIL)
    if mailed is None or choice is None:
        raise TokenRefused
    email = await address_of(uow, mailed)
    await uow.users.lock_address(address_key(email))
    mailed = await uow.mailed_tokens.get(token, Purpose.VERIFY_EMAIL)
    mailed.use(at=now)
    unconfirmed = await uow.users.find_by_address(email)
    if unconfirmed is not None and unconfirmed.status is not UserStatus.PENDING:
        raise TokenRefused  # another token made it somebody's
    if unconfirmed is not None and unconfirmed.id == choice.signed_up_as:
        uow.emit(unconfirmed.verify(at=now))
        await claim_address(uow, email, now=now)
        return unconfirmed
    registration = None
    if choice.signed_up_as is not None:
        registration = await uow.registrations.find(choice.signed_up_as)
    await claim_address(uow, email, now=now)
    return await _come_in(
        uow, email, registration, newcomer, password_hash=choice.password_hash, now=now
    )


async def signed_up(
    uow: AuthUnitOfWork, email: str, *, now: datetime
) -> list[tuple[UUID, str | None]]:
    """What was signed up with an address and is not confirmed: whose it is, and their hashes."""
    known: list[tuple[UUID, str | None]] = [
        (registration.id, registration.password_hash)
        for registration in await uow.registrations.with_address(email, at=now)
    ]
    unconfirmed = await uow.users.unconfirmed(email)
    return [*known, unconfirmed] if unconfirmed is not None else known


async def address_of(uow: AuthUnitOfWork, mailed: MailedToken) -> str:
    """The address that the token came to. An earlier release's belongs to a user who has it."""
    if mailed.email is not None:
        return mailed.email
    details = None if mailed.user_id is None else await uow.users.details(mailed.user_id)
    if details is None:
        raise TokenRefused
    return details.email


async def _come_in(
    uow: AuthUnitOfWork,
    email: str,
    registration: Registration | None,
    newcomer: Newcomer,
    *,
    password_hash: str,
    now: datetime,
) -> User:
    said = registration or newcomer
    account, opened = Account.register(
        name=said.account_name or said.full_name,
        country=said.country,
        time_zone=said.time_zone,
        at=now,
        account_id=registration.account_id if registration else None,
    )
    user, registered = User.register(
        home_account_id=account.id,
        password_hash=password_hash,
        at=now,
        user_id=registration.id if registration else None,
    )
    verified = user.verify(at=now)
    await add_user(uow, user, email=email, full_name=said.full_name)
    await uow.accounts.add(account)
    uow.memberships.add(a_place(user.id, account.id, Role.OWNER, now=now))
    for event in (opened, registered, verified):
        uow.emit(event)
    return user
