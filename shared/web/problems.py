"""Refusals and faults as problem documents (RFC 9457)."""

from http import HTTPStatus
from typing import Any
from uuid import UUID

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm.exc import StaleDataError
from starlette.exceptions import HTTPException

from shared.context import current_cause
from shared.errors import (
    BadRequest,
    Conflict,
    DomainError,
    Forbidden,
    Invalid,
    NotFound,
    PreconditionFailed,
    TooManyRequests,
    Unauthenticated,
    Unavailable,
)
from shared.messaging.outages import is_outage
from shared.observability import logger
from shared.web.routing import methods_of

log = logger(__name__)

MEDIA_TYPE = "application/problem+json"

#: The kinds of refusal and their HTTP status, the one place that knows both.
STATUS: dict[type[DomainError], int] = {
    BadRequest: 400,
    Unauthenticated: 401,
    Forbidden: 403,
    NotFound: 404,
    Conflict: 409,
    PreconditionFailed: 412,
    Invalid: 422,
    TooManyRequests: 429,
    Unavailable: 503,
}

#: Titles of those problems that are no refusal of the domain.
TITLES = {status.value: status.phrase for status in HTTPStatus}

#: What the database tells by its SQLSTATE, or the class of it, and a client can do about it.
REFUSED_BY_DATABASE = {
    "22": (
        "value-refused",
        "A value is too large, or holds a character that cannot be stored. Correct it.",
    ),
    "23503": ("unknown-reference", "The request names something that does not exist."),
}


class FieldProblem(BaseModel):
    field: str
    message: str


class Problem(BaseModel):
    """What every error answer looks like; docs/errors.md has a section per `code`."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    code: str
    request_id: str
    errors: list[FieldProblem] | None = None
    #: Of a conflict: the thing that is there already.
    existing_id: UUID | None = None


def status_of(error: type[DomainError]) -> int:
    return next(status for kind, status in STATUS.items() if issubclass(error, kind))


def problems(*errors: type[DomainError]) -> dict[int | str, dict[str, Any]]:
    """The refusals that an endpoint documents in its `responses=`."""
    documented: dict[int | str, dict[str, Any]] = {}
    for error in errors:
        entry = documented.setdefault(status_of(error), {"model": Problem, "description": ""})
        entry["description"] = ", ".join(filter(None, [entry["description"], error.code]))
    return documented


def problem_response(
    request: Request,
    *,
    status: int,
    code: str,
    detail: str,
    title: str | None = None,
    errors: list[FieldProblem] | None = None,
    headers: dict[str, str] | None = None,
    existing_id: UUID | None = None,
) -> JSONResponse:
    problem = Problem(
        type=f"urn:perennial:problem:{code}",
        title=title or code.replace("-", " ").capitalize(),
        status=status,
        detail=detail,
        instance=request.url.path,
        code=code,
        request_id=current_cause().correlation_id,
        errors=errors,
        existing_id=existing_id,
    )
    return JSONResponse(
        problem.model_dump(mode="json", exclude_none=True),
        status,
        headers=headers,
        media_type=MEDIA_TYPE,
    )


def install(app: FastAPI) -> None:
    """Answer every refusal and every bad request with a problem document.

    What nobody foresaw is answered by `RequestContext`, which is still there when it comes.
    """
    app.add_exception_handler(DomainError, _refused)
    app.add_exception_handler(RequestValidationError, _malformed)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(StaleDataError, _stale)
    app.add_exception_handler(OperationalError, _database_away)
    app.add_exception_handler(DBAPIError, _database_refused)
    app.add_exception_handler(PoolTimeout, _database_away)
    app.add_exception_handler(OSError, _database_away)


async def _refused(request: Request, error: Exception) -> JSONResponse:
    if not isinstance(error, DomainError):
        raise error
    headers = {}
    if isinstance(error, TooManyRequests):
        headers["Retry-After"] = str(error.retry_after_seconds)
    if isinstance(error, Unauthenticated):
        headers["WWW-Authenticate"] = "Bearer"
    if isinstance(error, Unavailable):
        headers["Retry-After"] = "1"
    fields = [FieldProblem(field=error.field, message=error.detail)] if error.field else None
    return problem_response(
        request,
        status=status_of(type(error)),
        code=error.code,
        detail=error.detail,
        errors=fields,
        headers=headers,
        existing_id=error.existing_id,
    )


async def _malformed(request: Request, error: Exception) -> JSONResponse:
    if not isinstance(error, RequestValidationError):
        raise error
    faults = [
        FieldProblem(
            field=".".join(str(part) for part in fault["loc"] if part != "body") or "body",
            message=fault["msg"],
        )
        for fault in error.errors()
    ]
    fields = ", ".join(fault.field for fault in faults)
    return problem_response(
        request,
        status=422,
        code="validation-failed",
        detail=f"The request is not as it should be; look at: {fields}.",
        errors=faults,
    )


async def _http(request: Request, error: Exception) -> JSONResponse:
    if not isinstance(error, HTTPException):
        raise error
    title = TITLES.get(error.status_code, "Error")
    headers = dict(error.headers or {})
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        # Each route knows its own method only; clients are told those of the path (RFC 9110).
        allowed = methods_of(request.app, request.url.path)
        headers["Allow"] = ", ".join(sorted(allowed))
    return problem_response(
        request,
        status=error.status_code,
        code=title.lower().replace(" ", "-"),
        title=title,
        detail=f"{error.detail}." if error.detail == title else str(error.detail),
        headers=headers,
    )


async def _stale(request: Request, _error: Exception) -> JSONResponse:
    return problem_response(
        request,
        status=409,
        code="changed-meanwhile",
        detail="Somebody else changed this at the same moment. Read it again and retry.",
    )


async def _database_away(request: Request, error: Exception) -> JSONResponse:
    """A connection that could not be had or was lost is for the client to try again."""
    if not (isinstance(error, OperationalError) or is_outage(error)):
        return await fault(request, error)
    log.warning("The database is out of reach", error=type(error).__name__)
    return problem_response(
        request,
        status=503,
        code="unavailable",
        detail="The database is out of reach; nothing was changed. Try again in a moment.",
        headers={"Retry-After": "1"},
    )


async def _database_refused(request: Request, error: Exception) -> JSONResponse:
    """What no rule of ours caught, and the database did: a value, or a name of something.

    Any other word of the database is our fault.
    """
    state = str(getattr(getattr(error, "orig", None), "sqlstate", None) or "")
    for refused, (code, detail) in REFUSED_BY_DATABASE.items():
        if state.startswith(refused):
            log.warning("The database refused a request", path=request.url.path, sqlstate=state)
            return problem_response(request, status=422, code=code, detail=detail)
    return await _database_away(request, error)


async def fault(request: Request, error: Exception) -> JSONResponse:
    """The answer to what nobody foresaw; the log has the rest."""
    log.error("A request failed", path=request.url.path, exc_info=error)
    return problem_response(
        request,
        status=500,
        code="internal-error",
        detail="Something went wrong on our side. Give the request id to whoever runs this.",
    )
