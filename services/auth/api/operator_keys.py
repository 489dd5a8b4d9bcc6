"""Secret keys of the operator, made and ended by staff of the role admin."""

from datetime import datetime, timedelta
from ipaddress import IPv4Network, IPv6Network
from typing import Annotated
from uuid import UUID

from fastapi import Depends, Response
from pydantic import AwareDatetime, BaseModel, Field

from services.auth import queries
from services.auth.api.edges import MyCommand, MyReading
from services.auth.api.views import Name
from services.auth.domain.api_keys import ExpiryPassed
from services.auth.domain.operator_keys import (
    OperatorKey,
    OperatorKeyNotFound,
    OperatorKeyOver,
    OperatorSecret,
)
from services.auth.domain.roles import StaffRole
from services.auth.use_cases.create_operator_key import create_operator_key
from services.auth.use_cases.revoke_operator_key import revoke_operator_key
from services.auth.use_cases.rotate_operator_key import rotate_operator_key
from shared.clock import utc_now
from shared.errors import PreconditionFailed
from shared.security import KeyScope
from shared.web import Page, PageRequest, RequestModel, Router, for_staff, page_request, problems

router = Router(
    prefix="/v1/ops/auth/keys",
    tags=["operator keys"],
    dependencies=[for_staff(StaffRole.ADMIN)],
)

LONGEST_OVERLAP_HOURS = 168


class SecretView(BaseModel):
    """One secret of a key, by how it begins. The newest has no `ends_at`."""

    prefix: str
    created_at: datetime
    ends_at: datetime | None
    last_used_at: datetime | None


class OperatorKeyView(BaseModel):
    """A key of the operator, without its secrets. `last_used_at` is to the minute."""

    id: UUID
    name: str
    scopes: list[str]
    networks: list[str]
    created_by: str
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None
    secrets: list[SecretView]
    version: int


class NewOperatorKeyView(OperatorKeyView):
    """The only answer that holds the secret. A repeat of the request has null in its place."""

    key: str | None


def _view(key: OperatorKey, secrets: list[OperatorSecret]) -> OperatorKeyView:
    return OperatorKeyView(
        id=key.id,
        name=key.name,
        scopes=key.scopes,
        networks=key.networks,
        created_by=key.created_by,
        created_at=key.created_at,
        expires_at=key.expires_at,
        revoked_at=key.revoked_at,
        last_used_at=max((one.last_used_at for one in secrets if one.last_used_at), default=None),
        secrets=[
            SecretView(
                prefix=one.prefix,
                created_at=one.created_at,
                ends_at=one.ends_at,
                last_used_at=one.last_used_at,
            )
            for one in sorted(secrets, key=lambda one: one.created_at, reverse=True)
        ],
        version=key.version,
    )


def _shown(view: OperatorKeyView, plain: str | None) -> NewOperatorKeyView:
    return NewOperatorKeyView(**view.model_dump(), key=plain)


@router.get("")
async def list_operator_keys(
    query: MyReading, page: Annotated[PageRequest, Depends(page_request)]
) -> Page[OperatorKeyView]:
    """The operator's keys, newest first, those that are over too (staff of the role admin)."""
    async with query.begin() as uow:
        keys, secrets = await queries.operator_keys(uow, page)
        return page.page(keys, lambda key: _view(key, secrets[key.id]), lambda key: key.id)


@router.get("/{key_id}", response_model=OperatorKeyView, responses=problems(OperatorKeyNotFound))
async def read_operator_key(key_id: UUID, query: MyReading) -> Response:
    """One key, and when each of its secrets was last used (staff of the role admin)."""
    async with query.begin() as uow:
        key, secrets = await queries.operator_key(uow, key_id)
        return query.reply(_view(key, secrets))


class CreateOperatorKeyRequest(RequestModel):
    name: Name
    scopes: list[KeyScope] = Field(min_length=1, max_length=len(KeyScope))
    networks: list[IPv4Network | IPv6Network] = Field(
        default_factory=list,
        max_length=20,
        description="From where it may be used, in CIDR notation; an empty list is everywhere.",
    )
    expires_at: AwareDatetime | None = None


@router.post(
    "", status_code=201, response_model=NewOperatorKeyView, responses=problems(ExpiryPassed)
)
async def create(body: CreateOperatorKeyRequest, command: MyCommand) -> Response:
    """A new key, whose secret is in this answer alone (staff of the role admin)."""
    async with command.begin() as uow:
        key, secret, plain = await create_operator_key(
            uow,
            name=body.name,
            scopes=body.scopes,
            networks=body.networks,
            expires_at=body.expires_at,
            now=utc_now(),
        )
        view = _view(key, [secret])
        return await command.answer(uow, _shown(view, plain), status=201, repeat=_shown(view, None))


class RotateRequest(RequestModel):
    """The secrets there are go on for `overlap_hours`; with 0 they stop at once."""

    overlap_hours: int = Field(24, ge=0, le=LONGEST_OVERLAP_HOURS)
    expires_at: AwareDatetime | None = Field(None, description="Until when the key is good now.")


@router.post(
    "/{key_id}/rotate",
    response_model=NewOperatorKeyView,
    responses=problems(OperatorKeyNotFound, OperatorKeyOver, ExpiryPassed, PreconditionFailed),
)
async def rotate(key_id: UUID, body: RotateRequest, command: MyCommand) -> Response:
    """A new secret of the same key, in this answer alone (staff of the role admin)."""
    async with command.begin() as uow:
        key = await uow.operator_keys.get(key_id)
        command.require_version(key.version)
        secret, plain = await rotate_operator_key(
            uow,
            key,
            overlap=timedelta(hours=body.overlap_hours),
            expires_at=body.expires_at,
            now=utc_now(),
        )
        view = _view(key, [*await uow.operator_keys.secrets_of(key.id), secret])
        return await command.answer(uow, _shown(view, plain), repeat=_shown(view, None))


@router.delete(
    "/{key_id}",
    status_code=204,
    responses=problems(OperatorKeyNotFound, PreconditionFailed),
)
async def revoke(key_id: UUID, command: MyCommand) -> Response:
    """End a key, with all its secrets (staff of the role admin)."""
    async with command.begin() as uow:
        key = await uow.operator_keys.get(key_id)
        command.require_version(key.version)
        await revoke_operator_key(uow, key, now=utc_now())
        return await command.answer(uow)
