"""Change what an account is called, where it is and how it is billed; close it."""

from datetime import datetime

from services.auth.domain.accounts import Account, AccountChanges
from services.auth.domain.api_keys import KeyEnd
from services.auth.domain.revocations import RevokedKind
from services.auth.repository import AuthUnitOfWork
from shared.clock import utc_now


async def update_account(
    uow: AuthUnitOfWork, account: Account, changes: AccountChanges, *, now: datetime
) -> Account:
    """Change what is there. Raises `ExternalIdTaken`, `AccountIsClosed`, unknown places."""
    wanted = changes.get("external_id")
    if wanted is not None and wanted != account.external_id:
        await uow.accounts.require_free(wanted)
    before = settings_of(account)
    event = account.update(changes, at=now)
    if event is not None:
        uow.emit(event)
        uow.audit(
            "account.updated",
            account.id,
            account_id=account.id,
            before=before,
            after=settings_of(account),
        )
    return account


def settings_of(account: Account) -> dict[str, object]:
    """What the audit log keeps of an account: no name, no address, nobody's notes."""
    return {
        "country": account.country,
        "time_zone": account.time_zone,
        "language": account.language,
        "currency": account.currency,
        "external_id": account.external_id,
    }


async def close_account(uow: AuthUnitOfWork, account: Account, *, now: datetime) -> None:
    """End it: its keys and whoever is in it are out; the services end what it subscribed to."""
    uow.emit(account.close(at=now))
    at = utc_now()
    await uow.api_keys.end_of_account(account.id, because=KeyEnd.ACCOUNT_CLOSED, at=at)
    await uow.sessions.revoke_into(account.id, because="account closed", at=at)
    uow.revoke(RevokedKind.ACCOUNT, account.id)
    uow.audit("account.closed", account.id, account_id=account.id)
