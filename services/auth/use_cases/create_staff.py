"""Make one of the operator's own people a user."""

from datetime import datetime

from services.auth.domain.roles import NO_ACCOUNT, StaffRole
from services.auth.domain.users import PersonalDetails, User, UserStatus
from services.auth.repository import AuthUnitOfWork


async def create_staff(
    uow: AuthUnitOfWork,
    *,
    email: str,
    password_hash: str,
    role: StaffRole,
    now: datetime,
) -> tuple[User, bool]:
    """The staff user with this address and whether they are new.

    Somebody who is registered already becomes staff and keeps their password.
    """
    user = await uow.users.find_by_address(email)
    if user is not None:
        if user.staff_role is not role or user.status is UserStatus.PENDING:
            before = user.staff_role
            user.staff_role = role
            if user.status is UserStatus.PENDING:
                uow.emit(user.verify(at=now))
            uow.audit(
                "user.staff_role_changed", user.id, before={"role": before}, after={"role": role}
            )
        return user, False
    user, registered = User.register(
        home_account_id=NO_ACCOUNT, password_hash=password_hash, at=now
    )
    user.staff_role = role
    await uow.users.add(user, PersonalDetails.of(user.id, email=email, full_name=None))
    uow.emit(registered)
    uow.emit(user.verify(at=now))
    uow.audit("user.staff_created", user.id, after={"role": role})
    return user, True
