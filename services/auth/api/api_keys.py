"""Keys for an account's own programs."""

from datetime import datetime
from typing import Annotated
from uuid import UUID

from fastapi import Depends, Response
from pydantic import AwareDatetime, BaseModel, Field

from services.auth import queries
from services.auth.api.edges import MANAGER, AccountCommand, AccountReading, person, role_of
from services.auth.api.views import Name, Strict
from services.auth.domain.accounts import RoleTooWeak, require_manager
from services.auth.domain.api_keys import (
    ApiKey,
    ApiKeyNotFound,
    ExpiryPassed,
    KeyEnd,
    ScopeOfTheOperator,
)
from services.auth.domain.roles import MAKES_CUSTOMERS_KEYS, Role
from services.auth.use_cases.manage_api_keys import create_api_key, revoke_api_key
from shared.security import KeyScope
from shared.web import Page, PageRequest, Router, for_role, page_request, problems

router = Router(prefix="/v1/accounts/{account_id}/api-keys", tags=["accounts"])


class ApiKeyView(BaseModel):
    id: UUID
    name: str
    prefix: str
    role: Role
    scopes: list[str]
    created_by: UUID
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    revoked_because: KeyEnd | None
    last_used_at: datetime | None


class NewApiKeyView(ApiKeyView):
    """The only answer that holds the key. A repeat of the request has null in its place."""

    key: str | None


def _view(key: ApiKey) -> ApiKeyView:
    return ApiKeyView(
        id=key.id,
        name=key.name,
        prefix=key.prefix,
        role=key.role,
        scopes=key.scopes,
        created_by=key.created_by,
        created_at=key.created_at,
        expires_at=key.expires_at,
        revoked_at=key.revoked_at,
        revoked_because=key.revoked_because,
        last_used_at=key.last_used_at,
    )


@router.get("", dependencies=[MANAGER])
async def list_keys(
    edge: AccountReading, page: Annotated[PageRequest, Depends(page_request)]
) -> Page[ApiKeyView]:
    """The account's keys, without the keys themselves."""
    async with edge.begin() as uow:
        require_manager(await role_of(uow, edge))
        found = await queries.api_keys(uow, edge.account_id, page)
        return page.page(found, _view, lambda one: one.id)


class CreateApiKeyRequest(Strict):
    name: Name
    role: Role = Role.MEMBER
    scopes: list[KeyScope] = Field(
        max_length=50, description="What it may do; an empty list: nothing."
    )
    expires_at: AwareDatetime | None = None


@router.post(
    "",
    status_code=201,
    response_model=NewApiKeyView,
    responses=problems(RoleTooWeak, ExpiryPassed, ScopeOfTheOperator),
    dependencies=[for_role(Role.ADMIN, staff=(MAKES_CUSTOMERS_KEYS,))],
)
async def create(body: CreateApiKeyRequest, edge: AccountCommand) -> Response:
    """A new key, shown in this answer alone. It never does more than who made it could.

    It ends when they leave the account, are suspended or erased. Of the staff only admins make
    keys for a customer, which end with that role.
    """
    user_id = person(edge.caller)
    async with edge.begin() as uow:
        key, secret = await create_api_key(
            uow,
            edge.account_id,
            name=body.name,
            role=body.role,
            scopes=sorted(set(body.scopes)),
            expires_at=body.expires_at,
            created_by=user_id,
            by=await role_of(uow, edge),
        )
        view = _view(key).model_dump()
        return await edge.answer(
            uow,
            NewApiKeyView(**view, key=secret),
            status=201,
            repeat=NewApiKeyView(**view, key=None),
        )


@router.delete(
    "/{key_id}",
    status_code=204,
    responses=problems(ApiKeyNotFound, RoleTooWeak),
    dependencies=[MANAGER],
)
async def revoke(key_id: UUID, edge: AccountCommand) -> Response:
    """End a key and every access token made of it, everywhere within five seconds."""
    async with edge.begin() as uow:
        await revoke_api_key(uow, key_id, by=await role_of(uow, edge))
        return await edge.answer(uow)
