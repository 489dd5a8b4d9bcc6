"""End the session that a refresh token belongs to."""

from datetime import datetime

from services.auth.repository import AuthUnitOfWork


async def log_out(uow: AuthUnitOfWork, *, refresh_token: str, now: datetime) -> None:
    """An unknown token is no error: whoever sends it is logged out."""
    found = await uow.sessions.find_by_token(refresh_token)
    if found is not None:
        uow.sessions.end(found[0], because="log-out", at=now)
