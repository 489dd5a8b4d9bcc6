"""What staff do to users."""

from datetime import datetime
from uuid import UUID

from services.auth.domain.roles import StaffRole
from services.auth.domain.users import NotYourself, User
from services.auth.repository import AuthUnitOfWork


async def suspend_user(uow: AuthUnitOfWork, user: User, *, by: UUID, now: datetime) -> None:
    if user.id == by:
        raise NotYourself("Nobody can suspend themself.")
    uow.emit(user.suspend(at=now))
    await uow.sessions.revoke_all(user.id, because="suspended", at=now)
    uow.audit("user.suspended", user.id)


def reactivate_user(uow: AuthUnitOfWork, user: User, *, now: datetime) -> None:
    uow.emit(user.reactivate(at=now))
    uow.audit("user.reactivated", user.id)


async def change_staff_role(
    uow: AuthUnitOfWork, user: User, role: StaffRole | None, *, by: UUID, now: datetime
) -> None:
    """Ends their sessions, so that old tokens with the old role are not carried on."""
    if user.id == by:
        raise NotYourself("Nobody can change their own role.")
    before, user.staff_role = user.staff_role, role
    if before is role:
        return
    await uow.sessions.revoke_all(user.id, because="another staff role", at=now)
    uow.emit(user.touch(at=now))
    uow.audit("user.staff_role_changed", user.id, before={"role": before}, after={"role": role})
