"""An address is proven: whoever proved it has it, and what others set up there is gone."""

from datetime import datetime

from sqlalchemy.exc import IntegrityError

from services.auth.domain.users import AddressTaken, PersonalDetails, User, UserStatus, address_key
from services.auth.repository import AuthUnitOfWork
from services.auth.use_cases.erase_user import forget_user


async def claim_address(uow: AuthUnitOfWork, email: str, *, now: datetime) -> User | None:
    """The user who has proven this address before, if any.

    To be called by every way in that proves an address: the mailed token of a sign-up or an
    invitation, a new address, the operator's command line. Whoever typed the address without
    proving it leaves nothing behind: no sign-up, no user, no token. The address is locked until
    the transaction ends; to be called before anything of it is.
    """
    key = address_key(email)
    await uow.users.lock_address(key)
    user = await uow.users.find_by_address(email)
    if user is not None and user.status is UserStatus.PENDING:
        await forget_user(uow, user, because="somebody else proved the address", now=now)
        user = None
    await uow.registrations.drop(key)
    await uow.mailed_tokens.drop_of_address(key)
    return user


async def add_user(
    uow: AuthUnitOfWork, user: User, *, email: str, full_name: str | None
) -> PersonalDetails:
    """Store a new user at an address that was just claimed."""
    details = PersonalDetails.of(user.id, email=email, full_name=full_name)
    try:
        await uow.users.add(user, details)
    except IntegrityError as error:  # somebody else was faster by a moment
        raise AddressTaken("Somebody has this address. Log in instead.", field="email") from error
    return details
