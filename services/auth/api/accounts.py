"""Accounts: mine, and for staff everybody's."""

from typing import Annotated

from fastapi import Depends, Response
from pydantic import Field

from services.auth import queries
from services.auth.api.edges import (
    AccountCommand,
    AccountReading,
    MyCommand,
    MyReading,
    role_of,
)
from services.auth.api.me import my_account
from services.auth.api.views import AccountView, MyAccountView, Name, Strict
from services.auth.domain.accounts import (
    Account,
    AccountIsClosed,
    AccountNotFound,
    RoleTooWeak,
    UnknownCountry,
    UnknownTimeZone,
    require_manager,
)
from services.auth.domain.roles import Role
from services.auth.use_cases.register_user import open_account
from services.auth.use_cases.update_account import close_account, update_account
from shared.web import Page, PageRequest, Router, page_request, problems

router = Router(prefix="/v1/accounts", tags=["accounts"])


@router.get("")
async def list_accounts(
    edge: MyReading, page: Annotated[PageRequest, Depends(page_request)]
) -> Page[MyAccountView]:
    """The accounts I belong to; for staff, all of them. To work in another one, log in to it."""
    async with edge.begin() as uow:
        if edge.caller.is_operator:
            everybody = await queries.all_accounts(uow, page)
            return page.page(everybody, lambda one: my_account(one, None), lambda one: one.id)
        mine = await queries.accounts_of_user(uow, edge.user_id, page)
        return page.page(mine, lambda row: my_account(row[0], row[1]), lambda row: row[0].id)


class OpenAccountRequest(Strict):
    name: Name
    country: str | None = Field(None, max_length=2, description="ISO 3166-1 alpha-2.")
    time_zone: str | None = Field(None, max_length=64, description="An IANA name.")


@router.post(
    "",
    status_code=201,
    response_model=AccountView,
    responses=problems(UnknownCountry, UnknownTimeZone),
)
async def open_another(body: OpenAccountRequest, edge: MyCommand) -> Response:
    """Open another account, of which I am the owner."""
    settings = edge.runtime.settings
    async with edge.begin() as uow:
        account = await open_account(
            uow,
            edge.user_id,
            name=body.name,
            country=body.country or settings.default_country,
            time_zone=body.time_zone or settings.default_time_zone,
            now=edge.now,
        )
        return await edge.answer(uow, AccountView.of(account), status=201)


@router.get("/{account_id}", response_model=AccountView, responses=problems(AccountNotFound))
async def read(edge: AccountReading) -> Response:
    """The account that the token is for."""
    async with edge.begin() as uow:
        if not edge.caller.is_operator:
            await role_of(uow, edge)
        return edge.reply(AccountView.of(await queries.account(uow, edge.account_id)))


class UpdateAccountRequest(Strict):
    name: Name | None = None
    country: str | None = Field(None, max_length=2, description="ISO 3166-1 alpha-2.")
    time_zone: str | None = Field(
        None, max_length=64, description="An IANA name. The next period begins by it."
    )


@router.patch(
    "/{account_id}",
    response_model=AccountView,
    responses=problems(
        AccountNotFound, AccountIsClosed, RoleTooWeak, UnknownCountry, UnknownTimeZone
    ),
)
async def update(body: UpdateAccountRequest, edge: AccountCommand) -> Response:
    """Change name, country or time zone: owners, admins and billing members."""
    async with edge.begin() as uow:
        role = await role_of(uow, edge)
        if role is not Role.BILLING:
            require_manager(role)
        account: Account = await uow.accounts.get(edge.account_id)
        edge.require_version(account.version)
        await update_account(
            uow,
            account,
            name=body.name,
            country=body.country,
            time_zone=body.time_zone,
            now=edge.now,
        )
        return await edge.answer(uow, AccountView.of(account))


@router.delete(
    "/{account_id}",
    status_code=204,
    responses=problems(AccountNotFound, AccountIsClosed, RoleTooWeak),
)
async def close(edge: AccountCommand) -> Response:
    """Close the account: what it subscribed to ends, its keys stop working. Owners only."""
    async with edge.begin() as uow:
        if await role_of(uow, edge) is not Role.OWNER:
            raise RoleTooWeak("Only an owner can close the account.")
        account = await uow.accounts.get(edge.account_id)
        edge.require_version(account.version)
        await close_account(uow, account, now=edge.now)
        return await edge.answer(uow)
