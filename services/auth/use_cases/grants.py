"""What a log-in gives: an access token for a quarter of an hour and a refresh token."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from services.auth.domain.accounts import Account, AccountNotFound, AccountStatus, Membership
from services.auth.domain.bearer import Bearer, membership_claim
from services.auth.domain.roles import NO_ACCOUNT
from services.auth.domain.sessions import RefreshTokenRefused, Session, fingerprint
from services.auth.domain.users import User
from services.auth.repository import AuthUnitOfWork


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """The session, whom its access token speaks for, and the refresh token in plain text."""

    bearer: Bearer
    refresh_token: str


async def place_of(uow: AuthUnitOfWork, user: User, account_id: UUID | None) -> Membership | None:
    """Where they log in to: the account they name, else their first open one.

    None for staff, who act for the operator unless they name an account of their own, and for
    people who belong to no account (any more).
    """
    if account_id is None and user.staff_role is not None:
        return None
    for membership in await uow.memberships.list_of_user(user.id):
        if account_id in (None, membership.account_id):
            account = await uow.session.get(Account, membership.account_id)
            if account is not None and account.status is AccountStatus.OPEN:
                return membership
    if account_id is not None:
        raise AccountNotFound("You are not a member of this account.", field="account_id")
    return None


async def bearer_of(uow: AuthUnitOfWork, user: User, session: Session) -> Bearer:
    """Whom a session's next access token speaks for, with today's roles."""
    membership = None
    if session.signed_in_to != NO_ACCOUNT:
        membership = await uow.memberships.find(session.signed_in_to, user.id)
        account = await uow.session.get(Account, session.signed_in_to)
        if membership is None or account is None or account.status is AccountStatus.CLOSED:
            raise RefreshTokenRefused
    return bearer(user, membership, session)


def bearer(user: User, membership: Membership | None, session: Session) -> Bearer:
    return Bearer(
        subject=str(user.id),
        account_id=membership.account_id if membership else None,
        role=membership.role if membership else None,
        staff=user.staff_role,
        session_id=session.id,
        authenticated_at=session.created_at,
        membership=membership_claim(membership.id, membership.version) if membership else None,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """Where a log-in comes from, as the user will see it in their list of sessions."""

    ip: str | None
    user_agent: str | None
    #: What the client made once and keeps, to be known by again.
    secret: str | None = None

    @property
    def hash(self) -> bytes | None:
        return None if self.secret is None else fingerprint(self.secret)


async def open_session(
    uow: AuthUnitOfWork,
    user: User,
    membership: Membership | None,
    *,
    device: Device,
    secret: str,
    now: datetime,
) -> Grant:
    session = Session.open(
        user_id=user.id,
        account_id=membership.account_id if membership else NO_ACCOUNT,
        ip=device.ip,
        user_agent=device.user_agent,
        at=now,
    )
    await uow.sessions.add(session, session.issue(secret, at=now))
    return Grant(bearer=bearer(user, membership, session), refresh_token=secret)
