"""Move a user to another address, once they have shown that they read its mail."""

from datetime import datetime
from uuid import UUID

from sqlalchemy.exc import IntegrityError

from services.auth.domain.mail import Mail, Template
from services.auth.domain.sessions import MailedToken, Purpose, TokenRefused, new_secret
from services.auth.domain.users import AddressTaken, PersonalDetails, User, address_key
from services.auth.repository import AuthUnitOfWork
from services.auth.use_cases.claim_address import claim_address
from services.auth.use_cases.second_factor import require_second_factor


async def ask_to_change_email(
    uow: AuthUnitOfWork, user_id: UUID, *, email: str, code: str | None, now: datetime
) -> None:
    """Mail a token to the new address. Whether somebody else has it is not told here.

    Where a second factor is on, with a code of it.
    """
    await require_second_factor(uow, user_id, code, now=now)
    secret = new_secret()
    await uow.mailed_tokens.replace(
        MailedToken.make(
            secret,
            user_id=user_id,
            purpose=Purpose.CHANGE_EMAIL,
            address_key=address_key(email),
            email=email,
            at=now,
        )
    )
    uow.mail(Mail.to_address(email, Template.CHANGE_EMAIL, dated=now, at=now, token=secret))


async def change_email(
    uow: AuthUnitOfWork, user_id: UUID, *, token: str, now: datetime
) -> tuple[User, PersonalDetails]:
    """Take the new address. Raises `TokenRefused`, or `AddressTaken` when it is somebody's.

    It changes how they come in, so every session ends, and what was mailed to the old address is
    good for nothing any more.
    """
    mailed = await uow.mailed_tokens.get(token, Purpose.CHANGE_EMAIL)
    if mailed.user_id != user_id or mailed.email is None:
        raise TokenRefused
    mailed.use(at=now)
    email = mailed.email
    owner = await claim_address(uow, email, now=now)
    if owner is not None and owner.id != user_id:
        raise taken()
    user = await uow.users.get(user_id)
    details = await uow.users.details(user_id)
    if details is None:
        raise TokenRefused
    old = details.email
    details.email, details.address_key = email, address_key(email)
    try:
        await uow.session.flush()
    except IntegrityError as error:
        raise taken() from error
    await uow.mailed_tokens.drop_of_user(user_id)
    await uow.sessions.revoke_all(user_id, because="new address", at=now)
    uow.emit(user.touch(at=now))
    uow.mail(Mail.to_address(old, Template.ADDRESS_CHANGED, dated=now, at=now))
    uow.audit("user.address_changed", user_id)
    return user, details


def taken() -> AddressTaken:
    return AddressTaken("Somebody has registered this address.", field="email")
