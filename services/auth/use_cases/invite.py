"""Invite somebody to an account, take that back, and accept."""

from datetime import datetime
from uuid import UUID

from services.auth.domain.accounts import (
    AccountIsClosed,
    AccountStatus,
    AlreadyMember,
    Invitation,
    Membership,
    require_manager,
)
from services.auth.domain.mail import Mail, Template, plain_name
from services.auth.domain.roles import Role
from services.auth.domain.sessions import fingerprint, new_secret
from services.auth.domain.users import PasswordRefused, User, UserIsSuspended, UserStatus
from services.auth.repository import AuthUnitOfWork
from services.auth.use_cases.claim_address import add_user, claim_address
from services.auth.use_cases.register_user import a_place
from shared.clock import utc_now


async def invite(
    uow: AuthUnitOfWork,
    account_id: UUID,
    *,
    email: str,
    role: Role,
    invited_by: UUID | None,
    by: Role,
    now: datetime,
) -> Invitation:
    """Offer a place and mail the token. Raises `AlreadyMember`."""
    require_manager(by)
    account = await uow.accounts.get(account_id)
    if account.status is AccountStatus.CLOSED:
        raise AccountIsClosed("The account is closed.")
    known = await uow.users.password_of(email)
    if known is not None and await uow.memberships.find(account_id, known[0]) is not None:
        raise AlreadyMember("This address belongs to a member already.", field="email")
    secret = new_secret()
    # Invitations end in real time: a test clock must not open or close a door.
    invitation = Invitation.offer(
        account_id=account_id,
        email=email,
        role=role,
        token_hash=fingerprint(secret),
        invited_by=invited_by,
        by=by,
        at=utc_now(),
    )
    uow.invitations.add(invitation)
    name = plain_name(account.name)
    uow.mail(
        Mail.to_address(
            email,
            Template.INVITATION,
            dated=now,
            at=utc_now(),
            token=secret,
            account=f"“{name}”" if name else "an account",
            role=role.value,
        )
    )
    uow.audit("invitation.offered", invitation.id, account_id=account_id, after={"role": role})
    return invitation


async def withdraw_invitation(uow: AuthUnitOfWork, invitation_id: UUID, *, by: Role) -> None:
    require_manager(by)
    invitation = await uow.invitations.get(invitation_id)
    invitation.withdraw()
    uow.audit("invitation.withdrawn", invitation.id)


async def accept_invitation(
    uow: AuthUnitOfWork,
    *,
    token: str,
    password_hash: str | None,
    full_name: str | None,
    now: datetime,
) -> Membership:
    """A place in the account for whoever reads the address.

    A user too, if nobody has proven the address before: the token proves it now, so a stranger's
    sign-up with it is dropped, and the password is the one that comes with the token.
    """
    invitation = await uow.invitations.by_token(token)
    email = invitation.accept(at=now)
    user = await claim_address(uow, email, now=now)
    account = await uow.accounts.get(invitation.account_id)
    await uow.require_clock_at_rest(account.id)
    if account.status is AccountStatus.CLOSED:
        raise AccountIsClosed("The account is closed.")
    if user is None:
        user = await _newcomer(
            uow,
            email=email,
            account_id=account.id,
            password_hash=password_hash,
            full_name=full_name,
            now=now,
        )
    elif user.status is UserStatus.SUSPENDED:
        raise UserIsSuspended("This user is suspended; ask support.")
    elif await uow.memberships.find(account.id, user.id) is not None:
        raise AlreadyMember("You are a member already.")
    membership = a_place(user.id, account.id, invitation.role, now=now)
    uow.memberships.add(membership)
    uow.audit("member.joined", user.id, account_id=account.id, after={"role": invitation.role})
    return membership


async def _newcomer(
    uow: AuthUnitOfWork,
    *,
    email: str,
    account_id: UUID,
    password_hash: str | None,
    full_name: str | None,
    now: datetime,
) -> User:
    if password_hash is None:
        raise PasswordRefused("Choose a password: you are new here.", field="password")
    user, registered = User.register(
        home_account_id=account_id, password_hash=password_hash, at=now
    )
    verified = user.verify(at=now)
    await add_user(uow, user, email=email, full_name=full_name)
    uow.emit(registered)
    uow.emit(verified)
    return user
