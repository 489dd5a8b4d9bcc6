"""What is mine: profile, password, sessions, export, erasure."""

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from fastapi import Depends, Response
from pydantic import BaseModel

from services.auth import queries
from services.auth.addresses import Address
from services.auth.api.edges import Auth, From, LogInAgain, MyCommand, MyReading, with_code
from services.auth.api.views import (
    Accepted,
    AccountView,
    Code,
    MyAccountView,
    Name,
    Password,
    Strict,
    Token,
    UserView,
)
from services.auth.domain.accounts import Account, LastOwner, Membership
from services.auth.domain.mfa import SecondFactorRequired, SecondFactorWrong
from services.auth.domain.sessions import Session, SessionNotFound, TokenRefused
from services.auth.domain.users import AddressTaken, PasswordRefused, WrongCredentials
from services.auth.mail_limits import TooManyMails
from services.auth.passwords import check_strength
from services.auth.throttle import TooManyTries
from services.auth.use_cases.change_email import ask_to_change_email, change_email
from services.auth.use_cases.change_password import change_password
from services.auth.use_cases.erase_user import erase_user
from services.auth.use_cases.update_profile import update_profile
from shared.errors import PreconditionFailed
from shared.web import Page, PageRequest, Router, page_request, problems

router = Router(prefix="/v1/me", tags=["me"])


class MeView(UserView):
    """A user as they see themself, and the account that their token is for."""

    account_id: UUID | None
    role: str | None
    second_factor: bool


@router.get("", response_model=MeView)
async def read(edge: MyReading) -> Response:
    """Who I am. The ETag is the profile's; account and role are the token's."""
    async with edge.begin() as uow:
        user, details = await queries.user_with_details(uow, edge.user_id)
        view = MeView(
            **UserView.of(user, details).model_dump(),
            account_id=edge.caller.account_id,
            role=edge.caller.role,
            second_factor=await queries.has_second_factor(uow, user.id),
        )
        # Never 304: the same profile reads differently with another token.
        return Response(
            view.model_dump_json(),
            headers={"etag": f'"{view.version}"', "cache-control": "no-store"},
            media_type="application/json",
        )


class UpdateMeRequest(Strict):
    full_name: Name | None = None


@router.patch("", response_model=UserView, responses=problems(PreconditionFailed))
async def update(body: UpdateMeRequest, edge: MyCommand) -> Response:
    """Change my profile."""
    async with edge.begin() as uow:
        user = await uow.users.get(edge.user_id)
        edge.require_version(user.version)
        details = await update_profile(
            uow,
            user,
            full_name=body.full_name,
            given="full_name" in body.model_fields_set,
            now=edge.now,
        )
        return await edge.answer(uow, UserView.of(user, details))


@router.delete("", status_code=204, responses=problems(LastOwner, PreconditionFailed))
async def erase(edge: MyCommand) -> Response:
    """Erase me: personal details, sessions and keys go at once; accounts only I am in close.

    Invoices and the ledger stay as the law requires. An account that others are in needs
    another owner first.
    """
    async with edge.begin() as uow:
        user = await uow.users.get(edge.user_id)
        edge.require_version(user.version)
        await erase_user(uow, user, now=edge.now)
        return await edge.answer(uow)


class ChangePasswordRequest(Strict):
    current_password: Password
    password: Password
    totp: Code = None


@router.post(
    "/password",
    status_code=204,
    responses=problems(
        WrongCredentials, SecondFactorRequired, SecondFactorWrong, PasswordRefused, TooManyTries
    ),
)
async def change_my_password(
    body: ChangePasswordRequest, edge: MyCommand, auth: Auth, device: From
) -> Response:
    """Choose a new password, knowing the old one. Every session ends, this one too.

    Where a second factor is on, with a code of it.
    """
    async with edge.runtime.begin(edge.scope) as uow:
        _, details = await queries.user_with_details(uow, edge.user_id)
    check_strength(body.password, personal=(details.email, details.full_name or ""))
    await change_password(
        lambda: edge.runtime.begin(edge.scope),
        auth.passwords,
        auth.throttle,
        user_id=edge.user_id,
        current=body.current_password,
        new=body.password,
        code=body.totp,
        device=device,
        now=edge.now,
    )
    return Response(status_code=204)


class ChangeEmailRequest(Strict):
    email: Address
    totp: Code = None


@router.post(
    "/email",
    status_code=202,
    response_model=Accepted,
    responses=problems(
        LogInAgain, SecondFactorRequired, SecondFactorWrong, TooManyMails, TooManyTries
    ),
)
async def ask_for_new_email(
    body: ChangeEmailRequest, edge: MyCommand, auth: Auth, device: From
) -> Response:
    """Have a token mailed to a new address.

    Needs a log-in of the last ten minutes and, where a second factor is on, a code of it.
    """
    edge.require_fresh()
    async with with_code(auth, edge.user_id, body.totp), edge.begin() as uow:
        await ask_to_change_email(uow, edge.user_id, email=body.email, code=body.totp, now=edge.now)
        await auth.mail_limits.address_change(edge.user_id, body.email, device.ip)
        return await edge.answer(uow, Accepted(), status=202)


class ConfirmEmailRequest(Strict):
    token: Token


@router.post(
    "/email/confirm",
    response_model=UserView,
    responses=problems(TokenRefused, AddressTaken, TooManyTries),
)
async def confirm_new_email(
    body: ConfirmEmailRequest, edge: MyCommand, auth: Auth, device: From
) -> Response:
    """Take the new address, with the token that was mailed to it. Every session ends, this too."""
    async with auth.throttle.token(device.ip), edge.begin() as uow:
        user, details = await change_email(uow, edge.user_id, token=body.token, now=edge.now)
        return await edge.answer(uow, UserView.of(user, details))


class SessionView(BaseModel):
    """A log-in that is alive. `current` is the one that asks."""

    id: UUID
    ip: str | None
    user_agent: str | None
    created_at: datetime
    last_used_at: datetime
    expires_at: datetime
    current: bool


def _session(session: Session, current: UUID | None) -> SessionView:
    return SessionView(
        id=session.id,
        ip=session.ip,
        user_agent=session.user_agent,
        created_at=session.created_at,
        last_used_at=session.last_used_at,
        expires_at=session.expires_at,
        current=session.id == current,
    )


@router.get("/sessions")
async def list_sessions(
    edge: MyReading, page: Annotated[PageRequest, Depends(page_request)]
) -> Page[SessionView]:
    """Where I am signed in."""
    async with edge.begin() as uow:
        found = await queries.living_sessions(uow, edge.user_id, page, now=edge.now)
        return page.page(
            found, lambda one: _session(one, edge.caller.session_id), lambda one: one.id
        )


@router.delete("/sessions", status_code=204)
async def end_sessions(edge: MyCommand) -> Response:
    """Log out everywhere, here too."""
    async with edge.begin() as uow:
        await uow.sessions.revoke_all(edge.user_id, because="log-out of all", at=edge.now)
        uow.audit("session.all_revoked", edge.user_id)
        return await edge.answer(uow)


@router.delete("/sessions/{session_id}", status_code=204, responses=problems(SessionNotFound))
async def end_session(session_id: UUID, edge: MyCommand) -> Response:
    """Log out one device. Its access token ends everywhere within five seconds."""
    async with edge.begin() as uow:
        session = await uow.sessions.get(session_id, user_id=edge.user_id)
        uow.sessions.end(session, because="log-out from another device", at=edge.now)
        return await edge.answer(uow)


class ExportView(BaseModel):
    """Everything that auth holds about me."""

    exported_at: datetime
    profile: UserView
    accounts: list[MyAccountView]
    sessions: list[SessionView]
    known_devices: list[dict[str, Any]]
    api_keys: list[dict[str, Any]]
    mails: list[dict[str, Any]]
    audit_log: list[dict[str, Any]]


@router.get("/export")
async def export(edge: MyReading) -> ExportView:
    """Everything that is kept about me here; other services hold no personal data of mine.

    Invoices, with the bill-to copies that the law requires, are exported by invoicing.
    """
    async with edge.begin() as uow:
        user, details = await queries.user_with_details(uow, edge.user_id)
        found = await queries.everything_about(uow, user.id)
        return ExportView(
            exported_at=edge.now,
            profile=UserView.of(user, details),
            accounts=[my_account(account, place) for account, place in found["accounts"]],
            sessions=[_session(one, edge.caller.session_id) for one in found["sessions"]],
            known_devices=[
                {"created_at": one.created_at, "last_used_at": one.last_used_at}
                for one in found["known_devices"]
            ],
            api_keys=[
                {"id": key.id, "name": key.name, "prefix": key.prefix, "created_at": key.created_at}
                for key in found["api_keys"]
            ],
            mails=[
                {"id": mail.id, "template": mail.template, "dated": mail.dated, "at": mail.sent_at}
                for mail in found["mails"]
            ],
            audit_log=[
                {"at": row.at, "actor": row.actor, "action": row.action, "subject": row.subject}
                for row in found["audit_log"]
            ],
        )


def my_account(
    account: Account, place: Membership | None, *, for_operator: bool = False
) -> MyAccountView:
    view = AccountView.of(account, for_operator=for_operator)
    return MyAccountView(**view.model_dump(), role=place.role if place else None)
