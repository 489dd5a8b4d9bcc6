"""Change who is in an account, and as what. An account always has an owner."""

from datetime import datetime

from services.auth.domain.accounts import LastOwner, Membership
from services.auth.domain.api_keys import KeyEnd
from services.auth.domain.revocations import RevokedKind
from services.auth.domain.roles import Role
from services.auth.repository import AuthUnitOfWork
from shared.clock import utc_now


async def change_member_role(
    uow: AuthUnitOfWork, membership: Membership, role: Role, *, by: Role
) -> None:
    """Tokens with the old role end, and the next ones have the new one.

    Raises `RoleTooWeak`, or `LastOwner` when nobody would own the account.
    """
    before = membership.role
    membership.change_role(role, by=by)
    if before is Role.OWNER and role is not Role.OWNER:
        await _require_another_owner(uow, membership)
    uow.revoke(RevokedKind.MEMBERSHIP, membership.id, below=membership.version)
    uow.audit(
        "member.role_changed", membership.user_id, before={"role": before}, after={"role": role}
    )


async def remove_member(
    uow: AuthUnitOfWork, membership: Membership, *, by: Role, by_themself: bool, now: datetime
) -> None:
    """Take them out; their sessions into this account and the keys that they made for it end."""
    membership.may_be_removed(by=by, by_themself=by_themself)
    if membership.role is Role.OWNER:
        await _require_another_owner(uow, membership)
    await uow.memberships.remove(membership)
    await uow.sessions.revoke_all(
        membership.user_id,
        because="left the account",
        at=now,
        account_id=membership.account_id,
    )
    await uow.api_keys.end_made_by(
        membership.user_id,
        because=KeyEnd.MAKER_LEFT,
        at=utc_now(),
        account_id=membership.account_id,
    )
    uow.audit("member.removed", membership.user_id, before={"role": membership.role})


async def _require_another_owner(uow: AuthUnitOfWork, membership: Membership) -> None:
    # Under the account's lock: of two owners who leave at once, the second one stays.
    await uow.accounts.get(membership.account_id)
    owners = await uow.memberships.list_of_account(membership.account_id, roles=(Role.OWNER,))
    if all(owner.user_id == membership.user_id for owner in owners):
        raise LastOwner("Make somebody else an owner first: an account needs one.")
