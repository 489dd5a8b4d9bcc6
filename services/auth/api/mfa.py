"""A second factor for my log-in."""

from typing import Annotated

from fastapi import Body, Response
from pydantic import BaseModel, Field

from services.auth.api.edges import Auth, LogInAgain, MyCommand, with_code
from services.auth.api.views import Code, Strict
from services.auth.domain.mfa import (
    SecondFactorRequired,
    SecondFactorWrong,
    TotpAlreadyOn,
    TotpCodeRefused,
    TotpNotOn,
)
from services.auth.throttle import TooManyTries
from services.auth.use_cases.second_factor import confirm_totp, enroll_totp, remove_totp
from shared.web import Router, problems

router = Router(prefix="/v1/me/mfa/totp", tags=["me"])


class EnrolledView(BaseModel):
    """Shown once: put the secret into an authenticator, then confirm with its first code."""

    secret: str
    provisioning_uri: str


class HiddenView(BaseModel):
    """What a repeat of the request gets: the secret is not kept to be told again."""

    detail: str = "This was shown with the first answer and cannot be read again."


@router.post(
    "",
    status_code=201,
    response_model=EnrolledView,
    responses=problems(LogInAgain, TotpAlreadyOn),
)
async def enroll(edge: MyCommand) -> Response:
    """Begin: a new secret. It counts from its confirmation on."""
    edge.require_fresh()
    async with edge.begin() as uow:
        totp, label = await enroll_totp(uow, edge.user_id, now=edge.now)
        view = EnrolledView(secret=totp.secret, provisioning_uri=totp.provisioning_uri(label=label))
        return await edge.answer(uow, view, status=201, repeat=HiddenView())


class ConfirmRequest(Strict):
    code: str = Field(min_length=6, max_length=6, pattern=r"^\d{6}$")


class BackupCodesView(BaseModel):
    """Shown once. Each works once, in the place of a code."""

    backup_codes: list[str]


@router.post(
    "/confirm",
    response_model=BackupCodesView,
    responses=problems(TotpNotOn, TotpAlreadyOn, TotpCodeRefused),
)
async def confirm(body: ConfirmRequest, edge: MyCommand) -> Response:
    """Turn it on with a first code. Gives ten backup codes."""
    async with edge.begin() as uow:
        codes = await confirm_totp(uow, edge.user_id, code=body.code, now=edge.now)
        return await edge.answer(uow, BackupCodesView(backup_codes=codes), repeat=HiddenView())


class RemoveRequest(Strict):
    totp: Code = None


#: A request without a body, which is told what is missing.
NO_CODE = RemoveRequest()


@router.delete(
    "",
    status_code=204,
    responses=problems(
        TotpNotOn, LogInAgain, SecondFactorRequired, SecondFactorWrong, TooManyTries
    ),
)
async def remove(
    edge: MyCommand, auth: Auth, body: Annotated[RemoveRequest, Body()] = NO_CODE
) -> Response:
    """Turn it off, with a code of it or a backup code. Needs a log-in of the last ten minutes."""
    edge.require_fresh()
    async with with_code(auth, edge.user_id, body.totp), edge.begin() as uow:
        await remove_totp(uow, edge.user_id, code=body.totp, now=edge.now)
        return await edge.answer(uow)
