"""Turn a second factor on and off."""

from datetime import datetime
from uuid import UUID

from services.auth.domain.mail import Mail, Template
from services.auth.domain.mfa import SecondFactorRequired, Totp, TotpAlreadyOn, TotpNotOn
from services.auth.repository import AuthUnitOfWork


async def enroll_totp(uow: AuthUnitOfWork, user_id: UUID, *, now: datetime) -> tuple[Totp, str]:
    """A new secret, in the place of one that was never confirmed, and the label for the app."""
    await uow.users.get(user_id)
    found = await uow.totps.find(user_id)
    if found is not None and found.is_on:
        raise TotpAlreadyOn("A second factor is on already. Turn it off first.")
    totp = Totp.enroll(user_id=user_id, at=now)
    if found is None:
        uow.totps.add(totp)
    else:
        found.secret, found.created_at = totp.secret, now
        totp = found
    details = await uow.users.details(user_id)
    return totp, details.email if details else str(user_id)


async def confirm_totp(
    uow: AuthUnitOfWork, user_id: UUID, *, code: str, now: datetime
) -> list[str]:
    """Turn it on. Gives the backup codes."""
    totp = await uow.totps.find(user_id)
    if totp is None:
        raise TotpNotOn("Begin first: POST /v1/me/mfa/totp.")
    codes = totp.confirm(code, at=now)
    await _tell(uow, user_id, "on", now=now)
    return codes


async def remove_totp(
    uow: AuthUnitOfWork, user_id: UUID, *, code: str | None, now: datetime
) -> None:
    """Turn it off, with a code of it. Raises `TotpNotOn`."""
    totp = await uow.totps.find(user_id)
    if totp is None or not totp.is_on:
        raise TotpNotOn("No second factor is on.")
    await require_second_factor(uow, user_id, code, now=now)
    await uow.totps.remove(totp)
    await _tell(uow, user_id, "off", now=now)


async def require_second_factor(
    uow: AuthUnitOfWork, user_id: UUID, code: str | None, *, now: datetime
) -> None:
    """Where one is on: a code of it, or a backup code. It is used up by this.

    Raises `SecondFactorRequired` without a code, `SecondFactorWrong` when it is not good.
    """
    totp = await uow.totps.find(user_id)
    if totp is None or not totp.is_on:
        return
    if code is None:
        raise SecondFactorRequired
    totp.check(code, at=now)


async def _tell(uow: AuthUnitOfWork, user_id: UUID, state: str, *, now: datetime) -> None:
    user = await uow.users.get(user_id)
    uow.emit(user.touch(at=now))
    uow.audit("user.second_factor_changed", user_id, after={"state": state})
    uow.mail(Mail.to_user(user_id, Template.SECOND_FACTOR_CHANGED, dated=now, at=now, state=state))
