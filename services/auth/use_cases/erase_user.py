"""Forget a person (GDPR, Art. 17): all that says who they are goes; ids stay for the books."""

from datetime import datetime

from sqlalchemy import delete, update

from services.auth import tables
from services.auth.domain.accounts import Account, AccountStatus, LastOwner, Membership
from services.auth.domain.api_keys import KeyEnd
from services.auth.domain.roles import Role
from services.auth.domain.sessions import Session
from services.auth.domain.users import PersonalDetails, User
from services.auth.repository import AuthUnitOfWork
from services.auth.use_cases.update_account import close_account
from shared.clock import utc_now


async def erase_user(uow: AuthUnitOfWork, user: User, *, now: datetime) -> None:
    """Erase them and close the accounts that nobody else is in.

    Raises `LastOwner` while others are in an account that nobody else owns.
    """
    details = await uow.users.details(user.id)
    if details is not None:
        await uow.mails.erase(user.id, details.address_key)
        await uow.invitations.erase(details.address_key)
        await uow.registrations.drop(details.address_key)
        await uow.mailed_tokens.drop_of_address(details.address_key)
    await forget_user(uow, user, because="erasure", now=now)
    await uow.session.execute(
        update(Session).where(tables.sessions.c.user_id == user.id).values(ip=None, user_agent=None)
    )
    # Answers that are kept for repeats may say who they are.
    keys = uow.platform.idempotency_keys
    await uow.session.execute(delete(keys).where(keys.c.scope.startswith(f"{user.id}/")))


async def forget_user(uow: AuthUnitOfWork, user: User, *, because: str, now: datetime) -> None:
    """Take away all that they come in with and where they are in; the address is free again."""
    memberships = await uow.memberships.list_of_user(user.id)
    # One order for everybody, so that two owners who go at once do not wait for each other.
    for membership in sorted(memberships, key=lambda one: one.account_id):
        await _leave(uow, membership)
    totp = await uow.totps.find(user.id)
    if totp is not None:
        await uow.totps.remove(totp)
    await uow.known_devices.forget_all(user.id)
    await uow.mailed_tokens.drop_of_user(user.id)
    await uow.session.execute(
        delete(PersonalDetails).where(tables.personal_details.c.user_id == user.id)
    )
    await uow.sessions.revoke_all(user.id, because=because, at=now)
    await uow.api_keys.end_made_by(user.id, because=KeyEnd.MAKER_ERASED, at=utc_now())
    uow.emit(user.erase(at=now))
    uow.audit("user.erased", user.id, after={"because": because})


async def _leave(uow: AuthUnitOfWork, membership: Membership) -> None:
    account: Account = await uow.accounts.get(membership.account_id)
    others = [
        one
        for one in await uow.memberships.list_of_account(account.id)
        if one.user_id != membership.user_id
    ]
    if account.status is AccountStatus.OPEN:
        if not others:
            # Its subscriptions end at the account's own time, which a test clock may have moved.
            await close_account(uow, account, now=await uow.now(account.id))
        elif membership.role is Role.OWNER and all(one.role is not Role.OWNER for one in others):
            raise LastOwner("Make somebody else an owner of the account first.")
    await uow.memberships.remove(membership)
