"""What auth's endpoints work with: a person beyond any one account, or the account in the path."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated
from uuid import UUID

from fastapi import Depends, Request

from services.auth.domain.accounts import AccountNotFound
from services.auth.domain.roles import Role, StaffRole
from services.auth.domain.sessions import FRESH, Session
from services.auth.repository import AuthUnitOfWork
from services.auth.resources import Resources, own
from services.auth.use_cases.grants import Device
from shared.clock import utc_now
from shared.db import Scope
from shared.errors import Forbidden
from shared.security import Caller, LogInEnded
from shared.web import Edge, Reading, command, for_role, public_command, reading
from shared.web.refusals import refuses


class LogInAgain(Forbidden):
    """This changes how somebody signs in, so it needs a log-in of the last ten minutes."""

    code = "log-in-again"


PublicCommand = Annotated[Edge[AuthUnitOfWork], Depends(public_command)]


async def require_log_in(uow: AuthUnitOfWork, caller: Caller) -> None:
    """Where people change how they come in, a log-in that has ended is refused at once.

    Everywhere else it is within five seconds (`shared.revocations`).
    """
    if caller.session_id is None:
        return
    session = await uow.session.get(Session, caller.session_id)
    if session is None or not session.is_alive(at=utc_now()):
        raise LogInEnded


class PersonReading(Reading[AuthUnitOfWork]):
    """A person looking at what is theirs, over all accounts."""

    @asynccontextmanager
    async def begin(self) -> AsyncIterator[AuthUnitOfWork]:
        async with super().begin() as uow:
            await require_log_in(uow, self.caller)
            yield uow

    @property
    def scope(self) -> Scope:
        return Scope(account_id=None, actor=self.caller.actor)

    @property
    def user_id(self) -> UUID:
        return person(self.caller)


class PersonEdge(Edge[AuthUnitOfWork]):
    """A person changing what is theirs, over all accounts."""

    @asynccontextmanager
    async def begin(self) -> AsyncIterator[AuthUnitOfWork]:
        async with super().begin() as uow:
            await require_log_in(uow, self.caller)
            yield uow

    @property
    def scope(self) -> Scope:
        return Scope(account_id=None, actor=self.caller.actor)

    @property
    def user_id(self) -> UUID:
        return person(self.caller)

    def require_fresh(self) -> None:
        """How somebody signs in is changed only soon after they gave their password."""
        at = self.caller.authenticated_at
        if at is None or utc_now() - at > FRESH:
            raise LogInAgain("Log in again first: this needs a log-in of the last ten minutes.")


def person(caller: Caller) -> UUID:
    """The user who asks; a key is nobody."""
    if caller.scopes is not None:
        raise Forbidden("This is for people; an API key cannot do it.")
    return UUID(caller.subject)


@refuses(LogInEnded)
async def person_reading(
    edge: Annotated[Reading[AuthUnitOfWork], Depends(reading)],
) -> PersonReading:
    return PersonReading(edge.request, edge.caller, None)


@refuses(LogInEnded)
async def person_command(edge: Annotated[Edge[AuthUnitOfWork], Depends(command)]) -> PersonEdge:
    return PersonEdge(edge.request, edge.caller, None, edge.key, await edge.request.body())


MyReading = Annotated[PersonReading, Depends(person_reading)]
MyCommand = Annotated[PersonEdge, Depends(person_command)]


def _about(caller: Caller, account_id: UUID) -> UUID | None:
    """For whom to act: a token is for one account, and another's is not found."""
    if caller.is_operator:
        return account_id
    if caller.account_id != account_id:
        raise AccountNotFound("There is no such account.")
    return None


@refuses(AccountNotFound, LogInEnded)
async def account_reading(
    account_id: UUID, edge: Annotated[Reading[AuthUnitOfWork], Depends(reading)]
) -> Reading[AuthUnitOfWork]:
    return Reading(edge.request, edge.caller, _about(edge.caller, account_id))


@refuses(AccountNotFound, LogInEnded)
async def account_command(
    account_id: UUID, edge: Annotated[Edge[AuthUnitOfWork], Depends(command)]
) -> Edge[AuthUnitOfWork]:
    act_for = _about(edge.caller, account_id)
    return Edge(edge.request, edge.caller, act_for, edge.key, await edge.request.body())


#: Whoever may change an account's members, invitations and keys, and of the staff who may for it:
#: asked before anything is looked at. The role as it is by now is asked for in the transaction.
MANAGER = for_role(Role.ADMIN, staff=(StaffRole.SUPPORT,))
#: Whoever lets somebody into it, or up: who may do that for a customer could let themselves in.
DOORKEEPER = for_role(Role.ADMIN, staff=(StaffRole.ADMIN,))
#: Whoever is in it, and of the staff who may act as an owner would.
INSIDER = for_role(staff=(StaffRole.SUPPORT,))

AccountReading = Annotated[Reading[AuthUnitOfWork], Depends(account_reading)]
AccountCommand = Annotated[Edge[AuthUnitOfWork], Depends(account_command)]


async def role_of(uow: AuthUnitOfWork, edge: Reading[AuthUnitOfWork]) -> Role:
    """The caller's role in the account as it is now, not as it was when their token was made.

    Staff (`support`, `admin`) act as an owner does, and the audit log says that it was they.
    """
    caller = edge.caller
    await require_log_in(uow, caller)
    if caller.is_operator:
        caller.require_staff(StaffRole.SUPPORT)
        return Role.OWNER
    if caller.scopes is not None:
        return Role(caller.role or Role.MEMBER)
    membership = await uow.memberships.find(edge.account_id, UUID(caller.subject))
    if membership is None:
        raise AccountNotFound("There is no such account.")
    return membership.role


def auth_of(request: Request) -> Resources:
    return own(request.app.state.runtime)


Auth = Annotated[Resources, Depends(auth_of)]


def device_of(request: Request) -> Device:
    return Device(
        ip=request.client.host if request.client else None,
        user_agent=request.headers.get("user-agent"),
    )


From = Annotated[Device, Depends(device_of)]


@asynccontextmanager
async def with_code(auth: Resources, user_id: UUID, code: str | None) -> AsyncIterator[None]:
    """For what takes a code of the second factor: a wrong one is a guess, and counted before."""
    if code is None:
        yield
        return
    async with auth.throttle.code(user_id, device=None) as guess:
        yield
        guess.right = True
