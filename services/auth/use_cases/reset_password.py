"""Choose a new password: with a mailed token, or knowing the old one."""

from datetime import datetime

from services.auth.domain.mail import Mail, Template
from services.auth.domain.sessions import Purpose, TokenRefused
from services.auth.domain.users import User, UserStatus
from services.auth.repository import AuthUnitOfWork
from services.auth.use_cases.grants import Device


async def check_reset(uow: AuthUnitOfWork, *, token: str, now: datetime) -> tuple[str, ...]:
    """Whether the token is good, without using it. Gives the words a password must not be of."""
    mailed = await uow.mailed_tokens.peek(token, Purpose.RESET_PASSWORD)
    if mailed is None or mailed.user_id is None:
        raise TokenRefused
    details = await uow.users.details(mailed.user_id)
    if details is None or not mailed.is_good(at=now, for_address=details.address_key):
        raise TokenRefused
    return details.email, details.full_name or ""


async def reset_password(
    uow: AuthUnitOfWork, *, token: str, password_hash: str, device: Device, now: datetime
) -> tuple[User, str]:
    """Set it and end every session. Gives the user and the key of the address that they proved.

    The token works once, and only while the address that it came to is theirs.
    """
    mailed = await uow.mailed_tokens.get(token, Purpose.RESET_PASSWORD)
    if mailed.user_id is None:
        raise TokenRefused
    user = await uow.users.get(mailed.user_id)
    details = await uow.users.details(user.id)
    if details is None or user.status is not UserStatus.ACTIVE:
        raise TokenRefused
    mailed.use(at=now, for_address=details.address_key)
    await set_password(uow, user, password_hash, now=now)
    if device.hash is not None:
        await uow.known_devices.note(user.id, device.hash, at=now)
    return user, details.address_key


async def set_password(
    uow: AuthUnitOfWork, user: User, password_hash: str, *, now: datetime
) -> None:
    """Set it, end every session, and tell the owner of the address."""
    user.password_hash = password_hash
    await uow.sessions.revoke_all(user.id, because="new password", at=now)
    uow.mail(Mail.to_user(user.id, Template.PASSWORD_CHANGED, dated=now, at=now))
    uow.audit("user.password_changed", user.id)
