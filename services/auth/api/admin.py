"""For the operator's staff: users and the audit log."""

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from fastapi import Depends, Query, Response
from pydantic import BaseModel

from services.auth import queries
from services.auth.api.edges import MyCommand, MyReading
from services.auth.api.views import Strict
from services.auth.domain.roles import StaffRole
from services.auth.domain.users import (
    IllegalUserTransition,
    NotYourself,
    PersonalDetails,
    User,
    UserNotFound,
    UserStatus,
)
from services.auth.use_cases.administer_users import (
    change_staff_role,
    reactivate_user,
    suspend_user,
)
from shared.errors import PreconditionFailed
from shared.web import Page, PageRequest, Router, for_staff, page_request, problems

router = Router(prefix="/v1/admin", tags=["admin"])


class AdminUserView(BaseModel):
    """A user as staff see them; personal details are null after erasure."""

    id: UUID
    email: str | None
    full_name: str | None
    status: UserStatus
    staff: StaffRole | None
    created_at: datetime
    version: int


def _view(user: User, details: PersonalDetails | None) -> AdminUserView:
    return AdminUserView(
        id=user.id,
        email=details.email if details else None,
        full_name=details.full_name if details else None,
        status=user.status,
        staff=user.staff_role,
        created_at=user.created_at,
        version=user.version,
    )


@router.get("/users", dependencies=[for_staff(StaffRole.SUPPORT)])
async def list_users(
    edge: MyReading,
    page: Annotated[PageRequest, Depends(page_request)],
    q: Annotated[str | None, Query(max_length=254, description="How the address begins.")] = None,
    status: Annotated[UserStatus | None, Query()] = None,
    staff: Annotated[bool | None, Query(description="Only staff, or only others.")] = None,
) -> Page[AdminUserView]:
    async with edge.begin() as uow:
        found = await queries.users(uow, page, beginning=q, status=status, staff=staff)
        return page.page(found, lambda row: _view(row[0], row[1]), lambda row: row[0].id)


@router.get(
    "/users/{user_id}",
    response_model=AdminUserView,
    responses=problems(UserNotFound),
    dependencies=[for_staff(StaffRole.SUPPORT)],
)
async def read_user(user_id: UUID, edge: MyReading) -> Response:
    async with edge.begin() as uow:
        user = await uow.users.get(user_id)
        return edge.reply(_view(user, await uow.users.details(user_id)))


class UpdateUserRequest(Strict):
    """`staff: null` takes the role away; a field that is left out stays."""

    staff: StaffRole | None = None


@router.patch(
    "/users/{user_id}",
    response_model=AdminUserView,
    responses=problems(UserNotFound, NotYourself, PreconditionFailed),
    dependencies=[for_staff(StaffRole.ADMIN)],
)
async def update_user(user_id: UUID, body: UpdateUserRequest, edge: MyCommand) -> Response:
    """Make somebody staff, or not any more. For staff of the role admin."""
    async with edge.begin() as uow:
        user = await uow.users.get(user_id)
        edge.require_version(user.version)
        if "staff" in body.model_fields_set:
            await change_staff_role(uow, user, body.staff, by=edge.user_id, now=edge.now)
        return await edge.answer(uow, _view(user, await uow.users.details(user_id)))


@router.post(
    "/users/{user_id}/suspend",
    response_model=AdminUserView,
    responses=problems(UserNotFound, NotYourself, IllegalUserTransition, PreconditionFailed),
    dependencies=[for_staff(StaffRole.SUPPORT)],
)
async def suspend(user_id: UUID, edge: MyCommand) -> Response:
    """Keep somebody out: their sessions and the keys they made end everywhere in five seconds."""
    async with edge.begin() as uow:
        user = await uow.users.get(user_id)
        edge.require_version(user.version)
        await suspend_user(uow, user, by=edge.user_id, now=edge.now)
        return await edge.answer(uow, _view(user, await uow.users.details(user_id)))


@router.post(
    "/users/{user_id}/reactivate",
    response_model=AdminUserView,
    responses=problems(UserNotFound, IllegalUserTransition, PreconditionFailed),
    dependencies=[for_staff(StaffRole.SUPPORT)],
)
async def reactivate(user_id: UUID, edge: MyCommand) -> Response:
    """Let somebody in again."""
    async with edge.begin() as uow:
        user = await uow.users.get(user_id)
        edge.require_version(user.version)
        reactivate_user(uow, user, now=edge.now)
        return await edge.answer(uow, _view(user, await uow.users.details(user_id)))


class AuditEntryView(BaseModel):
    """Who did what to which thing, and what it was before and after."""

    id: UUID
    at: datetime
    actor: str
    action: str
    subject: str
    account_id: UUID | None
    before: dict[str, Any] | None
    after: dict[str, Any] | None
    request_id: str


@router.get("/audit-log", dependencies=[for_staff(StaffRole.SUPPORT, StaffRole.FINANCE)])
async def read_audit_log(
    edge: MyReading,
    page: Annotated[PageRequest, Depends(page_request)],
    account_id: Annotated[UUID | None, Query()] = None,
    subject: Annotated[str | None, Query(max_length=100)] = None,
    actor: Annotated[str | None, Query(max_length=100)] = None,
) -> Page[AuditEntryView]:
    """What people and keys changed in auth, newest first."""
    async with edge.begin() as uow:
        found = await queries.audit_log(
            uow, page, account_id=account_id, subject=subject, actor=actor
        )
        return page.page(
            found,
            lambda row: AuditEntryView.model_validate(row._asdict()),
            lambda row: row.id,
        )
