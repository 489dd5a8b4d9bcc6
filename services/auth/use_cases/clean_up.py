"""Drop what is long over, a batch at a time, so that tables do not grow without end."""

from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, CursorResult, Table, delete, func, select, update

from services.auth import tables
from services.auth.domain.accounts import Account, InvitationStatus
from services.auth.domain.mail import MailStatus
from services.auth.repository import AuthUnitOfWork

BATCH = 1000
SESSIONS_KEPT = timedelta(days=30)
TOKENS_KEPT = timedelta(days=1)
MAILS_KEPT = timedelta(days=90)
DEVICES_KEPT = timedelta(days=180)
SETTLED_KEPT = timedelta(days=400)


async def clean_up(uow: AuthUnitOfWork, *, now: datetime) -> int:
    """How many rows went; a full batch means that there may be more."""
    t = tables
    position = t.revocations.c.position
    # Positions go on from the last, whatever the clock says.
    not_the_last = position < select(func.max(position)).scalar_subquery()
    gone = 0
    for table, over in (
        (t.sessions, t.sessions.c.expires_at < now - SESSIONS_KEPT),
        (t.mailed_tokens, t.mailed_tokens.c.expires_at < now - TOKENS_KEPT),
        (
            t.mails,
            (t.mails.c.created_at < now - MAILS_KEPT) & (t.mails.c.status != MailStatus.WAITING),
        ),
        (t.registrations, t.registrations.c.expires_at < now),
        (t.known_devices, t.known_devices.c.last_used_at < now - DEVICES_KEPT),
        (t.revocations, (t.revocations.c.until < now) & not_the_last),
        (t.settled_invoices, t.settled_invoices.c.settled_at < now - SETTLED_KEPT),
    ):
        gone += await _delete(uow, table, over)
    # An address is not kept longer than the offer made to it.
    lapsed: CursorResult[Any] = await uow.session.execute(  # type: ignore[assignment]
        update(t.invitations)
        .where(t.invitations.c.status == InvitationStatus.PENDING, t.invitations.c.expires_at < now)
        .values(status=InvitationStatus.LAPSED, email=None)
    )
    # An earlier release closes accounts without wiping what it knows nothing of.
    closed: CursorResult[Any] = await uow.session.execute(  # type: ignore[assignment]
        update(Account)
        .where(
            t.accounts.c.closed_at.is_not(None),
            t.accounts.c.email.is_not(None) | (t.accounts.c.metadata != {}),
        )
        .values(email=None, metadata={})
        .execution_options(synchronize_session=False)
    )
    return gone + lapsed.rowcount + closed.rowcount


async def _delete(uow: AuthUnitOfWork, table: Table, over: ColumnElement[bool]) -> int:
    key = next(iter(table.primary_key.columns))
    batch = select(key).where(over).limit(BATCH).with_for_update(skip_locked=True)
    result: CursorResult[Any] = await uow.session.execute(  # type: ignore[assignment]
        delete(table).where(key.in_(batch), over)
    )
    return result.rowcount
