"""Somebody logs in. Spans transactions: hashing a password takes too long to hold one open."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from uuid import UUID

from services.auth.domain.mfa import SecondFactorRequired
from services.auth.domain.sessions import new_secret
from services.auth.domain.users import User, WrongCredentials, address_key
from services.auth.passwords import Passwords
from services.auth.repository import AuthUnitOfWork
from services.auth.throttle import Throttle
from services.auth.use_cases.grants import Device, Grant, open_session, place_of
from shared.errors import Unauthenticated

Begin = Callable[[], AbstractAsyncContextManager[AuthUnitOfWork]]


async def log_in(
    begin: Begin,
    passwords: Passwords,
    throttle: Throttle,
    *,
    email: str,
    password: str,
    code: str | None,
    account_id: UUID | None,
    device: Device,
    now: datetime,
) -> Grant:
    """Open a session. An unknown address costs and answers what a wrong password does."""
    who = address_key(email)
    await throttle.check(who, device.ip)
    async with begin() as uow:
        known = await uow.users.password_of(who)
    right, renewed = await passwords.verify(password, known[1] if known else None)
    if known is None or not right:
        await throttle.failed(who, device.ip)
        raise WrongCredentials
    try:
        async with begin() as uow:
            user = await uow.users.get(known[0])
            user.may_sign_in(with_hash=known[1])
            await _check_second_factor(uow, user, code, now=now)
            if renewed is not None:
                user.password_hash = renewed
            membership = await place_of(uow, user, account_id)
            grant = await open_session(
                uow, user, membership, device=device, secret=new_secret(), now=now
            )
    except SecondFactorRequired:
        raise  # not a guess: the client did not know
    except Unauthenticated:
        await throttle.failed(who, device.ip)
        raise
    await throttle.succeeded(who, device.ip)
    return grant


async def _check_second_factor(
    uow: AuthUnitOfWork, user: User, code: str | None, *, now: datetime
) -> None:
    totp = await uow.totps.find(user.id)
    if totp is None or not totp.is_on:
        return
    if code is None:
        raise SecondFactorRequired
    totp.check(code, at=now)
