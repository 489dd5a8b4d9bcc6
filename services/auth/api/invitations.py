"""Invitations to an account, and accepting them."""

from datetime import datetime, timedelta
from typing import Annotated
from uuid import UUID

from fastapi import Depends, Response
from pydantic import BaseModel

from services.auth import queries
from services.auth.addresses import Address
from services.auth.api.edges import (
    DOORKEEPER,
    MANAGER,
    AccountCommand,
    AccountReading,
    Auth,
    From,
    PublicCommand,
    person,
    role_of,
)
from services.auth.api.views import Name, Password, Strict, Token
from services.auth.domain.accounts import (
    AccountIsClosed,
    AlreadyMember,
    Invitation,
    InvitationNotFound,
    InvitationOver,
    InvitationStatus,
    RoleTooWeak,
    require_manager,
)
from services.auth.domain.mail import Template
from services.auth.domain.roles import Role
from services.auth.domain.sessions import TokenRefused
from services.auth.domain.users import PasswordRefused
from services.auth.mail_limits import TooManyMails
from services.auth.passwords import check_strength
from services.auth.throttle import TooManyTries
from services.auth.use_cases.invite import accept_invitation, invite, withdraw_invitation
from shared.clock import utc_now
from shared.web import (
    FOR_PEOPLE_OR_OPERATOR,
    Page,
    PageRequest,
    Router,
    page_request,
    problems,
)

router = Router(tags=["accounts"])

#: Until then an account invites few: whoever made it to send mails has gone elsewhere.
NEW_FOR = timedelta(days=1)


class InvitationView(BaseModel):
    """The address is shown while the invitation is open, and wiped after."""

    id: UUID
    account_id: UUID
    email: str | None
    role: Role
    status: InvitationStatus
    expires_at: datetime
    created_at: datetime


def _view(invitation: Invitation) -> InvitationView:
    return InvitationView(
        id=invitation.id,
        account_id=invitation.account_id,
        email=invitation.email,
        role=invitation.role,
        status=invitation.status,
        expires_at=invitation.expires_at,
        created_at=invitation.created_at,
    )


@router.get("/v1/accounts/{account_id}/invitations", dependencies=[MANAGER])
async def list_invitations(
    edge: AccountReading, page: Annotated[PageRequest, Depends(page_request)]
) -> Page[InvitationView]:
    """Who was invited."""
    async with edge.begin() as uow:
        require_manager(await role_of(uow, edge))
        found = await queries.invitations(uow, edge.account_id, page)
        return page.page(found, _view, lambda one: one.id)


class InviteRequest(Strict):
    email: Address
    role: Role = Role.MEMBER


@router.post(
    "/v1/accounts/{account_id}/invitations",
    status_code=201,
    response_model=InvitationView,
    responses=problems(RoleTooWeak, AlreadyMember, AccountIsClosed, TooManyMails),
    dependencies=[FOR_PEOPLE_OR_OPERATOR, DOORKEEPER],
)
async def offer(body: InviteRequest, edge: AccountCommand, auth: Auth, device: From) -> Response:
    """Mail somebody an invitation. Owners invite to any role, admins to all but owner."""
    user_id = None if edge.caller.operator_key else person(edge.caller)
    async with edge.begin() as uow:
        invitation = await invite(
            uow,
            edge.account_id,
            email=body.email,
            role=body.role,
            invited_by=user_id,
            by=await role_of(uow, edge),
            now=edge.now,
        )
        account = await uow.accounts.get(edge.account_id)
        if user_id is None:
            await auth.mail_limits.by_the_backend(Template.INVITATION, body.email)
        else:
            await auth.mail_limits.invitation(
                account.id,
                user_id,
                body.email,
                device.ip,
                is_new=account.created_at > utc_now() - NEW_FOR,
                # Staff who invite for a customer stand for the operator, who knows the customer.
                has_paid=edge.caller.is_operator or await queries.has_paid(uow, account.id),
            )
        return await edge.answer(uow, _view(invitation), status=201)


@router.delete(
    "/v1/accounts/{account_id}/invitations/{invitation_id}",
    status_code=204,
    responses=problems(InvitationNotFound, InvitationOver, RoleTooWeak),
    dependencies=[MANAGER],
)
async def withdraw(invitation_id: UUID, edge: AccountCommand) -> Response:
    """Take an invitation back."""
    async with edge.begin() as uow:
        await withdraw_invitation(uow, invitation_id, by=await role_of(uow, edge))
        return await edge.answer(uow)


class AcceptRequest(Strict):
    """Name and password are for people who are new here; others keep theirs."""

    token: Token
    password: Password | None = None
    full_name: Name | None = None


class JoinedView(BaseModel):
    user_id: UUID
    account_id: UUID
    role: Role


@router.post(
    "/v1/auth/invitations/accept",
    response_model=JoinedView,
    responses=problems(TokenRefused, InvitationOver, AlreadyMember, PasswordRefused, TooManyTries),
)
async def accept(body: AcceptRequest, edge: PublicCommand, auth: Auth, device: From) -> Response:
    """Join, with the token from the mail: it proves the address. Log in afterwards."""
    password_hash = None
    if body.password is not None:
        check_strength(body.password, personal=(body.full_name or "",))
        password_hash = await auth.passwords.hash(body.password)
    async with auth.throttle.token(device.ip), edge.begin() as uow:
        membership = await accept_invitation(
            uow,
            token=body.token,
            password_hash=password_hash,
            full_name=body.full_name,
            now=edge.now,
        )
        view = JoinedView(
            user_id=membership.user_id, account_id=membership.account_id, role=membership.role
        )
        return await edge.answer(uow, view)
