"""Somebody logs in. Spans transactions: hashing a password takes too long to hold one open."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from uuid import UUID

from services.auth.domain.sessions import new_secret
from services.auth.domain.users import AddressNotVerified, WrongCredentials, address_key
from services.auth.passwords import Passwords
from services.auth.repository import AuthUnitOfWork
from services.auth.throttle import Throttle
from services.auth.use_cases.grants import Device, Grant, open_session, place_of
from services.auth.use_cases.second_factor import require_second_factor

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
    async with begin() as uow:
        known = await uow.users.password_of(who)
        at = await known_device(uow, known[0], device) if known else None
        unproven = [one.password_hash for one in await uow.registrations.with_address(who, at=now)]
    async with throttle.password(who, device.ip, device=at) as guess:
        right, renewed = await passwords.verify(password, known[1] if known else None)
        if known is None or not right:
            for kept in unproven:
                if (await passwords.verify(password, kept))[0]:
                    raise not_verified()
            raise WrongCredentials

        async def come_in() -> Grant:
            async with begin() as uow:
                user = await uow.users.get(known[0])
                user.may_sign_in(with_hash=known[1])
                await require_second_factor(uow, user.id, code, now=now)
                if renewed is not None:
                    user.password_hash = renewed
                if device.hash is not None:
                    await uow.known_devices.note(user.id, device.hash, at=now)
                membership = await place_of(uow, user, account_id)
                return await open_session(
                    uow, user, membership, device=device, secret=new_secret(), now=now
                )

        if code is None:
            grant = await come_in()
        else:
            async with throttle.code(known[0], device=at) as code_guess:
                grant = await come_in()
                code_guess.right = True
        guess.right = True
    return grant


async def known_device(uow: AuthUnitOfWork, user_id: UUID, device: Device) -> bytes | None:
    """The device, if the user has proven themself there before."""
    if device.hash is None or not await uow.known_devices.is_known(user_id, device.hash):
        return None
    return device.hash


def not_verified() -> AddressNotVerified:
    return AddressNotVerified("Confirm the address first: follow the link in the mail.")
