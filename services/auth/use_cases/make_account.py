"""The operator's backend makes an account for a customer of its own; no person has to be in it."""

from datetime import datetime

from services.auth.domain.accounts import Account, AccountChanges
from services.auth.repository import AuthUnitOfWork
from services.auth.use_cases.update_account import settings_of


async def make_account(
    uow: AuthUnitOfWork,
    given: AccountChanges,
    *,
    name: str,
    country: str,
    time_zone: str,
    now: datetime,
) -> Account:
    """Raises `ExternalIdTaken`, which says whose it is, and unknown places."""
    external_id = given.get("external_id")
    if external_id is not None:
        await uow.accounts.require_free(external_id)
    account, registered = Account.of_operator(
        name=name,
        country=country,
        time_zone=time_zone,
        email=given.get("email"),
        external_id=external_id,
        metadata=given.get("metadata"),
        language=given.get("language"),
        currency=given.get("currency"),
        at=now,
    )
    await uow.accounts.add(account)
    uow.emit(registered)
    uow.audit("account.made", account.id, account_id=account.id, after=settings_of(account))
    return account
