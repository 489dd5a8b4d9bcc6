"""What an endpoint works with: who asks, since when, and a transaction that happens once."""

import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Annotated, Any, Generic, TypeVar
from uuid import UUID

from fastapi import Depends, Header, Query, Request, Response
from pydantic import BaseModel
from sqlalchemy import delete, func, select
from sqlalchemy.dialects.postgresql import insert as upsert

from shared.clock import utc_now
from shared.crashpoint import crashpoint
from shared.db import SYSTEM, Database, Scope, UnitOfWork
from shared.errors import (
    BadRequest,
    Conflict,
    Forbidden,
    Invalid,
    PreconditionFailed,
    TestClockBusy,
    Unauthenticated,
)
from shared.runtime import Runtime
from shared.security import (
    AddressNotAllowed,
    ApiKeyRefused,
    Caller,
    KeyMistyped,
    LogInEnded,
    RevocationsUnknown,
    RoleChanged,
)
from shared.web.key_rules import NotForKeys, ScopeMissing, check_key
from shared.web.refusals import refuses

U = TypeVar("U", bound=UnitOfWork)

KEPT_FOR = timedelta(hours=24)
ANONYMOUS = Caller(subject="anonymous", account_id=None)
#: Of an answer, what a repeat gets again.
KEPT_HEADERS = ("content-type", "etag", "location")


#: Methods that change nothing.
READS = frozenset({"GET", "HEAD"})


class IdempotencyKeyMissing(BadRequest):
    code = "idempotency-key-missing"


class IdempotencyKeyReused(Invalid):
    code = "idempotency-key-reused"


class IdempotencyKeyInProgress(Conflict):
    code = "idempotency-key-in-progress"


class Replayed(Exception):
    """Not an error: the stored answer to a request that was made before."""

    def __init__(self, response: Response) -> None:
        super().__init__("replayed")
        self.response = response


class Reading(Generic[U]):
    """A request that changes nothing."""

    def __init__(self, request: Request, asking: Caller, act_for: UUID | None) -> None:
        self.request = request
        self.caller = asking
        self.runtime: Runtime[Any, Any] = request.app.state.runtime
        self.now: datetime = utc_now()
        self._act_for = act_for
        self._database: Database[U] = self.runtime.database

    @property
    def scope(self) -> Scope:
        return SYSTEM if self.caller is ANONYMOUS else self.caller.scope(self._act_for)

    @property
    def account_id(self) -> UUID:
        """The account that this is about: the caller's, or the one that staff act for."""
        account_id = self.scope.account_id
        if account_id is None:
            raise BadRequest("Name the account to act for in the header Perennial-Account.")
        return account_id

    @asynccontextmanager
    async def begin(self) -> AsyncIterator[U]:
        """One transaction, narrowed to what the caller may see; `now` is the account's time."""
        scope = self.scope
        async with self._database.begin(scope) as uow:
            self.now = await uow.now(scope.account_id)
            yield uow

    def reply(self, view: BaseModel, *, status: int = 200) -> Response:
        """The answer, with its version as ETag; 304 for a caller who has that version."""
        response = _respond(view, status)
        etag = response.headers.get("etag")
        if etag and self.request.headers.get("if-none-match") == etag:
            return Response(status_code=304, headers={"etag": etag})
        return response


class Edge(Reading[U]):
    """A request that changes something, at most once per `Idempotency-Key`."""

    def __init__(
        self, request: Request, asking: Caller, act_for: UUID | None, key: str | None, body: bytes
    ) -> None:
        super().__init__(request, asking, act_for)
        self.key = key
        self._hash = hashlib.sha256(body).digest()

    @asynccontextmanager
    async def begin(self) -> AsyncIterator[U]:
        """One transaction that also holds the claim on the caller's key.

        A key that was answered before ends the request with that answer; one whose first
        request still runs is a conflict; one that came with another body is refused. So is
        anything new for an account whose test clock is on its way (`TestClockBusy`): what names
        its account in another way finds out when it asks `uow.now` for that account's time.
        """
        scope = self.scope
        async with self._database.begin(scope) as uow:
            if self.key:
                await self._claim(uow, self.key)
            uow.awaits_clock = True
            self.now = await uow.now(scope.account_id)
            yield uow
            crashpoint("web.before_commit")
        crashpoint("web.committed_not_answered")

    async def answer(
        self,
        uow: U,
        view: BaseModel | None = None,
        *,
        status: int = 200,
        repeat: BaseModel | None = None,
    ) -> Response:
        """The answer, stored under the caller's key in the same transaction.

        `repeat` is what a repeat gets instead, where the answer holds a secret shown once.
        """
        await uow.session.flush()  # so that the view carries what the database decided
        response = Response(status_code=204) if view is None else _respond(view, status)
        if self.key:
            keys = uow.platform.idempotency_keys
            await uow.session.execute(
                upsert(keys).values(
                    scope=self._key_scope,
                    key=self.key,
                    request_hash=self._hash,
                    status=response.status_code,
                    headers={
                        name: response.headers[name]
                        for name in KEPT_HEADERS
                        if name in response.headers
                    },
                    body=bytes((_respond(repeat, status) if repeat else response).body),
                    created_at=utc_now(),
                )
            )
        return response

    def require_version(self, version: int) -> None:
        """Refuse when the caller's `If-Match` names another version (RFC 9110, 13.1.1)."""
        wanted = self.request.headers.get("if-match")
        if wanted and wanted != "*" and wanted.removeprefix("W/") != f'"{version}"':
            raise PreconditionFailed("This changed since you read it. Read it again and retry.")

    @property
    def _key_scope(self) -> str:
        who = f"{self.caller.subject}/{self.scope.account_id or ''}"
        if self.caller is ANONYMOUS:
            # Strangers share nothing but perhaps an address: a key that another chose says nothing.
            who = f"{who}@{self.request.client.host if self.request.client else ''}"
        return f"{who} {self.request.method} {self.request.url.path}"

    async def _claim(self, uow: U, key: str) -> None:
        keys = uow.platform.idempotency_keys
        name = f"{self._key_scope}\n{key}".encode()
        number = int.from_bytes(hashlib.sha256(name).digest()[:8], signed=True)
        if not await uow.session.scalar(select(func.pg_try_advisory_xact_lock(number))):
            raise IdempotencyKeyInProgress(
                "The first request with this Idempotency-Key is still running."
            )
        found = (
            await uow.session.execute(
                select(keys).where(keys.c.scope == self._key_scope, keys.c.key == key)
            )
        ).one_or_none()
        if found is None:
            return
        if found.created_at < utc_now() - KEPT_FOR:
            await uow.session.execute(
                delete(keys).where(keys.c.scope == self._key_scope, keys.c.key == key)
            )
            return
        if found.request_hash != self._hash:
            raise IdempotencyKeyReused(
                "This Idempotency-Key was used for another request. Use a new one."
            )
        response = Response(found.body, found.status, headers=found.headers)
        response.headers["Idempotent-Replayed"] = "true"
        raise Replayed(response)


def _respond(view: BaseModel, status: int) -> Response:
    headers = {}
    # An answer whose `version` is something else, such as a price's, counts its edits apart.
    version = getattr(view, "revision", getattr(view, "version", None))
    if isinstance(version, int):
        headers["etag"] = f'"{version}"'
    return Response(view.model_dump_json(), status, headers=headers, media_type="application/json")


#: What a token or a key may be refused with, wherever one is looked at.
CALLER_REFUSED = (
    *(Unauthenticated, LogInEnded, RoleChanged, ApiKeyRefused, KeyMistyped, RevocationsUnknown),
    *(Forbidden, ScopeMissing, NotForKeys, AddressNotAllowed),
)


@refuses(*CALLER_REFUSED)
async def caller(
    request: Request, authorization: Annotated[str | None, Header(include_in_schema=False)] = None
) -> Caller:
    """Who asks, by the access token. 401 without one that holds."""
    kind, _, token = (authorization or "").partition(" ")
    if kind.lower() != "bearer" or not token:
        raise Unauthenticated("Send an access token: Authorization: Bearer <token>.")
    runtime: Runtime[Any, Any] = request.app.state.runtime
    if runtime.verifier is None:
        raise RuntimeError("this process does not look at tokens")
    asking = await runtime.verifier.verify(token, reads=request.method in READS)
    check_key(request, asking)
    return asking


AccountHeader = Annotated[
    UUID | None,
    Header(
        alias="Perennial-Account",
        description="The account that staff, or a key of the operator, act for.",
    ),
]
KeyHeader = Annotated[
    str | None,
    Header(alias="Idempotency-Key", min_length=1, max_length=255, description="Kept 24 hours."),
]


@refuses(Forbidden)
async def reading(
    request: Request, asking: Annotated[Caller, Depends(caller)], act_for: AccountHeader = None
) -> Reading[Any]:
    """For GET: who asks, and transactions narrowed to what they may see."""
    return Reading(request, asking, _acting(asking, act_for))


@refuses(Forbidden, Invalid)
async def listing(
    request: Request,
    asking: Annotated[Caller, Depends(caller)],
    act_for: AccountHeader = None,
    account_id: Annotated[
        UUID | None, Query(description="Only this account's; as the header Perennial-Account.")
    ] = None,
) -> Reading[Any]:
    """For a list of what accounts have: staff may name one, as a filter or in the header."""
    if account_id is not None and act_for not in {None, account_id}:
        raise Invalid(
            "This is not the account in the header Perennial-Account.", field="account_id"
        )
    return Reading(request, asking, _acting(asking, account_id or act_for))


@refuses(Forbidden, IdempotencyKeyReused, IdempotencyKeyInProgress, TestClockBusy)
async def command(
    request: Request,
    asking: Annotated[Caller, Depends(caller)],
    act_for: AccountHeader = None,
    key: KeyHeader = None,
) -> Edge[Any]:
    """For what changes something; an `Idempotency-Key` is welcome."""
    return Edge(request, asking, _acting(asking, act_for), key, await request.body())


@refuses(IdempotencyKeyMissing)
async def keyed_command(edge: Annotated[Edge[Any], Depends(command)]) -> Edge[Any]:
    """For what moves money: the `Idempotency-Key` is required."""
    if not edge.key:
        raise IdempotencyKeyMissing("Send an Idempotency-Key header with this request.")
    return edge


@refuses(IdempotencyKeyReused, IdempotencyKeyInProgress, TestClockBusy)
async def public_command(request: Request, key: KeyHeader = None) -> Edge[Any]:
    """For what anybody may ask: no token is looked at."""
    return Edge(request, ANONYMOUS, None, key, await request.body())


def _acting(asking: Caller, act_for: UUID | None) -> UUID | None:
    if act_for is not None and not asking.is_operator and act_for != asking.account_id:
        raise Forbidden("Only staff and keys of the operator may act for another account.")
    return act_for
