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
from services.auth.use_cases.second_factor import require_second_factor

Begin = Callable[[], AbstractAsyncContextManager[AuthUnitOfWork]]


async def change_password(
    begin: Begin,
    passwords: Passwords,
    throttle: Throttle,
    *,
    user_id: UUID,
    current: str,
    new: str,
    code: str | None,
    device: Device,
    now: datetime,
) -> None:
    """Refuses with `WrongCredentials`, and slows down who guesses with a stolen token.

    Where a second factor is on, with a code of it: a token and a password are not all that the
    owner has.
    """
    async with begin() as uow:
        kept = (await uow.users.get(user_id)).password_hash

    async def set_new() -> None:
        password_hash = await passwords.hash(new)
        async with begin() as uow:
            user = await uow.users.get(user_id)
            user.may_sign_in(with_hash=kept)
            await require_second_factor(uow, user_id, code, now=now)
            await set_password(uow, user, password_hash, now=now)

    async with throttle.password(str(user_id), device.ip, device=None) as guess:
        right, _ = await passwords.verify(current, kept)
        if not right:
            raise WrongCredentials
        if code is None:
            await set_new()
        else:
            async with throttle.code(user_id, device=None) as code_guess:
                await set_new()
                code_guess.right = True
        guess.right = True
