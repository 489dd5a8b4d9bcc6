"""Make one of the operator's own people a user."""

from datetime import datetime

from services.auth.domain.roles import NO_ACCOUNT, StaffRole
from services.auth.domain.users import User
from services.auth.repository import AuthUnitOfWork
from services.auth.use_cases.administer_users import set_staff_role
from services.auth.use_cases.claim_address import add_user, claim_address


async def create_staff(
    uow: AuthUnitOfWork,
    *,
    email: str,
    password_hash: str,
    role: StaffRole,
    now: datetime,
) -> tuple[User, bool]:
    """The staff user with this address and whether they are new.

    The operator vouches for the address: what somebody signed up with it and never confirmed is
    gone. Somebody who has confirmed it becomes staff, keeps their password and logs in again.
    """
    user = await claim_address(uow, email, now=now)
    if user is not None:
        if user.staff_role is not role:
            await set_staff_role(uow, user, role, now=now)
        return user, False
    user, registered = User.register(
        home_account_id=NO_ACCOUNT, password_hash=password_hash, at=now
    )
    user.staff_role = role
    verified = user.verify(at=now)
    await add_user(uow, user, email=email, full_name=None)
    uow.emit(registered)
    uow.emit(verified)
    uow.audit("user.staff_created", user.id, after={"role": role})
    return user, True
