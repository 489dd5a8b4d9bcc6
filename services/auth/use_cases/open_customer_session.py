"""The operator's backend lets a customer in to their own account, in the browser."""

from datetime import datetime, timedelta
from uuid import UUID

from services.auth.domain.accounts import AccountIsClosed, AccountStatus
from services.auth.domain.bearer import Bearer
from services.auth.domain.customer_sessions import CUSTOMER_SCOPES, CustomerSession
from services.auth.domain.roles import Role
from services.auth.repository import AuthUnitOfWork


async def open_customer_session(
    uow: AuthUnitOfWork,
    account_id: UUID,
    *,
    key_id: UUID,
    role: Role,
    life: timedelta,
    now: datetime,
) -> tuple[CustomerSession, Bearer]:
    """The session, and whom its token speaks for. Raises `AccountNotFound`, `AccountIsClosed`."""
    account = await uow.accounts.get(account_id)
    if account.status is AccountStatus.CLOSED:
        raise AccountIsClosed("The account is closed.")
    session = CustomerSession.open(
        account_id=account.id, key_id=key_id, role=role, life=life, at=now
    )
    uow.audit(
        "customer_session.opened",
        session.id,
        account_id=account.id,
        after={"role": role, "expires_at": session.expires_at.isoformat()},
    )
    bearer = Bearer(
        subject=str(session.id),
        account_id=account.id,
        role=role,
        scopes=tuple(CUSTOMER_SCOPES),
        opened_by=key_id,
        ends_at=session.expires_at,
    )
    return session, bearer
