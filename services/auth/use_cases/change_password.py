"""Choose a new password, knowing the old one. Spans transactions: hashing takes time."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from uuid import UUID

from services.auth.domain.users import WrongCredentials
from services.auth.passwords import Passwords
from services.auth.repository import AuthUnitOfWork
from services.auth.throttle import Throttle
from services.auth.use_cases.grants import Device
from services.auth.use_cases.reset_password import set_password

Begin = Callable[[], AbstractAsyncContextManager[AuthUnitOfWork]]


async def change_password(
    begin: Begin,
    passwords: Passwords,
    throttle: Throttle,
    *,
    user_id: UUID,
    current: str,
    new: str,
    device: Device,
    now: datetime,
) -> None:
    """Refuses with `WrongCredentials`, and slows down who guesses with a stolen token."""
    who = str(user_id)
    await throttle.check(who, device.ip)
    async with begin() as uow:
        kept = (await uow.users.get(user_id)).password_hash
    right, _ = await passwords.verify(current, kept)
    if not right:
        await throttle.failed(who, device.ip)
        raise WrongCredentials
    password_hash = await passwords.hash(new)
    async with begin() as uow:
        user = await uow.users.get(user_id)
        user.may_sign_in(with_hash=kept)
        await set_password(uow, user, password_hash, now=now)
