"""The people in an account."""

from datetime import datetime
from typing import Annotated
from uuid import UUID

from fastapi import Depends, Response
from pydantic import BaseModel

from services.auth import queries
from services.auth.api.edges import DOORKEEPER, INSIDER, AccountCommand, AccountReading, role_of
from services.auth.api.views import Strict
from services.auth.domain.accounts import LastOwner, MemberNotFound, Membership, RoleTooWeak
from services.auth.domain.roles import Role, StaffRole
from services.auth.domain.users import PersonalDetails
from services.auth.use_cases.manage_members import change_member_role, remove_member
from shared.errors import PreconditionFailed
from shared.web import Page, PageRequest, Router, for_role, page_request, problems

router = Router(prefix="/v1/accounts/{account_id}/members", tags=["accounts"])

LEAVING = for_role(
    staff=(StaffRole.SUPPORT,), but="`member` and `billing` only for themselves, to leave"
)


class MemberView(BaseModel):
    user_id: UUID
    email: str | None
    full_name: str | None
    role: Role
    joined_at: datetime
    version: int


def _member(membership: Membership, details: PersonalDetails | None) -> MemberView:
    return MemberView(
        user_id=membership.user_id,
        email=details.email if details else None,
        full_name=details.full_name if details else None,
        role=membership.role,
        joined_at=membership.created_at,
        version=membership.version,
    )


@router.get("", dependencies=[INSIDER])
async def list_members(
    edge: AccountReading, page: Annotated[PageRequest, Depends(page_request)]
) -> Page[MemberView]:
    """Who is in the account."""
    async with edge.begin() as uow:
        await role_of(uow, edge)
        found = await queries.members(uow, edge.account_id, page)
        return page.page(found, lambda row: _member(row[0], row[1]), lambda row: row[0].id)


class RoleRequest(Strict):
    role: Role


@router.patch(
    "/{user_id}",
    response_model=MemberView,
    responses=problems(MemberNotFound, RoleTooWeak, LastOwner, PreconditionFailed),
    dependencies=[DOORKEEPER],
)
async def change_role(user_id: UUID, body: RoleRequest, edge: AccountCommand) -> Response:
    """Give a member another role. Tokens with the old one end within five seconds."""
    async with edge.begin() as uow:
        by = await role_of(uow, edge)
        membership = await uow.memberships.get(edge.account_id, user_id)
        edge.require_version(membership.version)
        await change_member_role(uow, membership, body.role, by=by)
        details = await uow.users.details(user_id)
        return await edge.answer(uow, _member(membership, details))


@router.delete(
    "/{user_id}",
    status_code=204,
    responses=problems(MemberNotFound, RoleTooWeak, LastOwner, PreconditionFailed),
    dependencies=[LEAVING],
)
async def remove(user_id: UUID, edge: AccountCommand) -> Response:
    """Take somebody out of the account, or leave it."""
    async with edge.begin() as uow:
        by = await role_of(uow, edge)
        membership = await uow.memberships.get(edge.account_id, user_id)
        edge.require_version(membership.version)
        is_me = edge.caller.scopes is None and edge.caller.subject == str(user_id)
        await remove_member(uow, membership, by=by, by_themself=is_me, now=edge.now)
        return await edge.answer(uow)
