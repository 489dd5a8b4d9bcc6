"""Change what a user's profile says."""

from datetime import datetime

from services.auth.domain.users import PersonalDetails, User, UserNotFound
from services.auth.repository import AuthUnitOfWork


async def update_profile(
    uow: AuthUnitOfWork, user: User, *, full_name: str | None, given: bool, now: datetime
) -> PersonalDetails:
    """`given` tells a name that is taken out from one that is left alone."""
    details = await uow.users.details(user.id)
    if details is None:
        raise UserNotFound("There is no such user.")
    if given and details.full_name != full_name:
        details.full_name = full_name
        uow.emit(user.touch(at=now))
        uow.audit("user.profile_changed", user.id)  # what it says is personal, so not here
    return details
