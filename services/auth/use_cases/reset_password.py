"""Choose a new password: with a mailed token, or knowing the old one."""

from datetime import datetime

from services.auth.domain.mail import Mail, Template
from services.auth.domain.sessions import Purpose, TokenRefused
from services.auth.domain.users import User, UserStatus
from services.auth.repository import AuthUnitOfWork


async def check_reset(uow: AuthUnitOfWork, *, token: str, now: datetime) -> tuple[str, ...]:
    """Whether the token is good, without using it. Gives the words a password must not be of."""
    mailed = await uow.mailed_tokens.get(token, Purpose.RESET_PASSWORD)
    if mailed.used_at is not None or now >= mailed.expires_at:
        raise TokenRefused
    details = await uow.users.details(mailed.user_id)
    return (details.email, details.full_name or "") if details else ()


async def reset_password(
    uow: AuthUnitOfWork, *, token: str, password_hash: str, now: datetime
) -> User:
    """Set it and end every session. The token works once."""
    mailed = await uow.mailed_tokens.get(token, Purpose.RESET_PASSWORD)
    mailed.use(at=now)
    user = await uow.users.get(mailed.user_id)
    if user.status is not UserStatus.ACTIVE:
        raise TokenRefused
    await set_password(uow, user, password_hash, now=now)
    return user


async def set_password(
    uow: AuthUnitOfWork, user: User, password_hash: str, *, now: datetime
) -> None:
    """Set it, end every session, and tell the owner of the address."""
    user.password_hash = password_hash
    await uow.sessions.revoke_all(user.id, because="new password", at=now)
    uow.mail(Mail.to_user(user.id, Template.PASSWORD_CHANGED, dated=now, at=now))
    uow.audit("user.password_changed", user.id)
