"""Short-lived tokens for the browser of a customer, made by the operator's backend."""

from datetime import datetime, timedelta
from uuid import UUID

from fastapi import Depends, Response
from pydantic import BaseModel, Field

from services.auth.api.edges import Auth, MyCommand
from services.auth.domain.accounts import AccountIsClosed, AccountNotFound
from services.auth.domain.customer_sessions import DEFAULT_LIFE
from services.auth.domain.keys import LONGEST_LIFE
from services.auth.domain.roles import Role
from services.auth.use_cases.open_customer_session import open_customer_session
from shared.clock import utc_now
from shared.errors import Forbidden
from shared.security import Caller
from shared.web import RequestModel, Right, Router, problems

DEFAULT_SECONDS = int(DEFAULT_LIFE.total_seconds())
LONGEST_SECONDS = int(LONGEST_LIFE.total_seconds())


class OperatorKeyNeeded(Forbidden):
    """Only a secret key of the operator lets customers in."""

    code = "operator-key-needed"


def require_operator_key(asking: Caller) -> None:
    """Nobody but a key of the operator; asked before the request is looked at."""
    if not asking.operator_key:
        raise OperatorKeyNeeded("This takes a secret key of the operator.")


router = Router(
    prefix="/v1/customer-sessions",
    tags=["customer sessions"],
    dependencies=[Depends(Right(require_operator_key))],
)


class CustomerSessionRequest(RequestModel):
    """Who is let in, as what, and for how long."""

    account_id: UUID
    role: Role = Role.BILLING
    expires_in: int = Field(DEFAULT_SECONDS, ge=60, le=LONGEST_SECONDS, description="Seconds.")


class CustomerSessionView(BaseModel):
    """`token` is in this answer alone: a repeat of the request has null in its place.

    `url` leads to the portal with the token behind `#`, where no server and no log sees it; null
    while the installation names no portal.
    """

    id: UUID
    account_id: UUID
    role: Role
    token: str | None
    token_type: str = "Bearer"  # noqa: S105 -- the kind of token
    expires_at: datetime
    url: str | None


@router.post(
    "",
    status_code=201,
    response_model=CustomerSessionView,
    responses=problems(AccountNotFound, AccountIsClosed, OperatorKeyNeeded),
)
async def open_session(body: CustomerSessionRequest, command: MyCommand, auth: Auth) -> Response:
    """Let a customer in to their account: a token for the browser, and a link for the portal.

    It does what a customer may do with this account, in the role that is named, and ends with the
    key, with the account, or when its time is over.
    """
    now = utc_now()  # a token lives in real time, whatever a test clock says
    async with command.begin() as uow:
        session, bearer = await open_customer_session(
            uow,
            body.account_id,
            key_id=UUID(command.caller.subject),
            role=body.role,
            life=timedelta(seconds=body.expires_in),
            now=now,
        )
        token = await auth.issuer.access_token(bearer, at=now)
        portal = command.runtime.settings.portal_url
        view = CustomerSessionView(
            id=session.id,
            account_id=session.account_id,
            role=session.role,
            token=token,
            expires_at=session.expires_at,
            url=f"{portal}#token={token}" if portal else None,
        )
        shown_again = view.model_copy(update={"token": None, "url": None})
        answer = await command.answer(uow, view, status=201, repeat=shown_again)
    answer.headers["cache-control"] = "no-store"
    return answer
