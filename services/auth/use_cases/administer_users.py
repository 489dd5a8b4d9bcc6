"""What staff do to users."""

from datetime import datetime
from uuid import UUID

from services.auth.domain.api_keys import KeyEnd
from services.auth.domain.roles import MAKES_CUSTOMERS_KEYS, StaffRole
from services.auth.domain.users import NotYourself, User
from services.auth.repository import AuthUnitOfWork
from shared.clock import utc_now


async def suspend_user(uow: AuthUnitOfWork, user: User, *, by: UUID, now: datetime) -> None:
    """Keep them out. Their sessions and the keys that they made end, and do not come back."""
    if user.id == by:
        raise NotYourself("Nobody can suspend themself.")
    uow.emit(user.suspend(at=now))
    await uow.sessions.revoke_all(user.id, because="suspended", at=now)
    await uow.api_keys.end_made_by(user.id, because=KeyEnd.MAKER_SUSPENDED, at=utc_now())
    uow.audit("user.suspended", user.id)


def reactivate_user(uow: AuthUnitOfWork, user: User, *, now: datetime) -> None:
    uow.emit(user.reactivate(at=now))
    uow.audit("user.reactivated", user.id)


async def change_staff_role(
    uow: AuthUnitOfWork, user: User, role: StaffRole | None, *, by: UUID, now: datetime
) -> None:
    if user.id == by:
        raise NotYourself("Nobody can change their own role.")
    if user.staff_role is not role:
        await set_staff_role(uow, user, role, now=now)
        uow.emit(user.touch(at=now))


async def set_staff_role(
    uow: AuthUnitOfWork, user: User, role: StaffRole | None, *, now: datetime
) -> None:
    """Ends their sessions, so that the old role is not carried on, and what it alone allowed."""
    before, user.staff_role = user.staff_role, role
    await uow.sessions.revoke_all(user.id, because="another staff role", at=now)
    if role is not MAKES_CUSTOMERS_KEYS:
        await uow.api_keys.end_made_by(
            user.id, because=KeyEnd.MAKER_LOST_ROLE, at=utc_now(), as_staff=True
        )
    uow.audit("user.staff_role_changed", user.id, before={"role": before}, after={"role": role})
