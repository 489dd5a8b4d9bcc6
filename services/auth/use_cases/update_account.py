"""Change an account's name, country or time zone."""

from datetime import datetime

from services.auth.domain.accounts import Account
from services.auth.repository import AuthUnitOfWork


async def update_account(
    uow: AuthUnitOfWork,
    account: Account,
    *,
    name: str | None,
    country: str | None,
    time_zone: str | None,
    now: datetime,
) -> Account:
    before = {"country": account.country, "time_zone": account.time_zone}
    event = account.update(name=name, country=country, time_zone=time_zone, at=now)
    if event is not None:
        uow.emit(event)
        uow.audit(
            "account.updated",
            account.id,
            account_id=account.id,
            before=before,
            after={"country": account.country, "time_zone": account.time_zone},
        )
    return account


async def close_account(uow: AuthUnitOfWork, account: Account, *, now: datetime) -> None:
    """End it: its keys stop working; the services end what it subscribed to."""
    uow.emit(account.close(at=now))
    await uow.api_keys.revoke_all(account.id, at=now)
    uow.audit("account.closed", account.id, account_id=account.id)
