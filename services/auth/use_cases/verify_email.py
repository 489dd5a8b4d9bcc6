"""The address is confirmed by who reads its mail."""

from datetime import datetime

from services.auth.domain.sessions import Purpose, TokenRefused
from services.auth.domain.users import User, UserStatus
from services.auth.repository import AuthUnitOfWork


async def verify_email(uow: AuthUnitOfWork, *, token: str, now: datetime) -> User:
    """Let the user in. Raises `TokenRefused`; the same token again is refused too."""
    mailed = await uow.mailed_tokens.get(token, Purpose.VERIFY_EMAIL)
    user = await uow.users.get(mailed.user_id)
    mailed.use(at=now)
    if user.status is not UserStatus.PENDING:
        raise TokenRefused
    uow.emit(user.verify(at=now))
    return user
