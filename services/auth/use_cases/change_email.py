"""Move a user to another address, once they have shown that they read its mail."""

from datetime import datetime
from uuid import UUID

from sqlalchemy.exc import IntegrityError

from services.auth.domain.mail import Mail, Template
from services.auth.domain.sessions import MailedToken, Purpose, TokenRefused, new_secret
from services.auth.domain.users import AddressTaken, PersonalDetails, User, address_key
from services.auth.repository import AuthUnitOfWork


async def ask_to_change_email(
    uow: AuthUnitOfWork, user_id: UUID, *, email: str, now: datetime
) -> None:
    """Mail a token to the new address. Whether somebody else has it is not told here."""
    secret = new_secret()
    await uow.mailed_tokens.replace(
        MailedToken.make(secret, user_id=user_id, purpose=Purpose.CHANGE_EMAIL, email=email, at=now)
    )
    uow.mail(Mail.to_address(email, Template.CHANGE_EMAIL, dated=now, at=now, token=secret))


async def change_email(
    uow: AuthUnitOfWork, user_id: UUID, *, token: str, now: datetime
) -> tuple[User, PersonalDetails]:
    """Take the new address. Raises `TokenRefused`, or `AddressTaken` when it is somebody's."""
    mailed = await uow.mailed_tokens.get(token, Purpose.CHANGE_EMAIL)
    if mailed.user_id != user_id or mailed.email is None:
        raise TokenRefused
    user = await uow.users.get(user_id)
    mailed.use(at=now)
    details = await uow.users.details(user_id)
    if details is None:
        raise TokenRefused
    old = details.email
    details.email, details.address_key = mailed.email, address_key(mailed.email)
    mailed.email = None
    try:
        await uow.session.flush()
    except IntegrityError as error:
        raise AddressTaken("Somebody has registered this address.", field="email") from error
    uow.emit(user.touch(at=now))
    uow.mail(Mail.to_address(old, Template.ADDRESS_CHANGED, dated=now, at=now))
    uow.audit("user.address_changed", user_id)
    return user, details
