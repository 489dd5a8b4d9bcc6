"""Carry a session on: a refresh token is traded for the next one, once."""

from datetime import datetime

from services.auth.domain.sessions import RefreshTokenRefused, new_secret
from services.auth.domain.users import UserStatus
from services.auth.repository import AuthUnitOfWork
from services.auth.use_cases.grants import Grant, bearer_of


async def refresh_session(
    uow: AuthUnitOfWork, *, refresh_token: str, now: datetime
) -> Grant | None:
    """The next pair, or None: refused. None is to be committed, for it may end the session.

    A token that was used before was copied by somebody: the whole family ends, without a grace,
    since nobody can say which of the two is the thief.
    """
    owner = await uow.sessions.owner_of(refresh_token)
    user = await uow.users.find(owner) if owner is not None else None
    found = await uow.sessions.find_by_token(refresh_token)
    if user is None or found is None:
        return None
    session, token = found
    if token.used_at is not None and session.is_alive(at=now):
        uow.sessions.end(session, because="reuse of a refresh token", at=now)
        uow.audit("session.revoked", session.id, after={"because": session.revoked_because})
        return None
    if not session.is_alive(at=now) or user.status is not UserStatus.ACTIVE:
        return None
    try:
        token.use(at=now)
        bearer = await bearer_of(uow, user, session)
    except RefreshTokenRefused:
        return None
    secret = new_secret()
    uow.sessions.add_token(session.issue(secret, at=now))
    return Grant(bearer=bearer, refresh_token=secret)
