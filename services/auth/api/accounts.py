"""Accounts: mine, and for the operator everybody's."""

from typing import Annotated, Any

from fastapi import Depends, Query, Response
from pydantic import BaseModel, Field, StringConstraints

from services.auth import account_queries, queries
from services.auth.addresses import Address, KnownAddress
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
    AccountChanges,
    AccountIsClosed,
    AccountNotFound,
    AccountStatus,
    ExternalIdTaken,
    RoleTooWeak,
    UnknownCountry,
    UnknownTimeZone,
    require_manager,
)
from services.auth.domain.roles import Role, StaffRole
from services.auth.use_cases.make_account import make_account
from services.auth.use_cases.register_user import open_account
from services.auth.use_cases.update_account import close_account, update_account
from shared.errors import Forbidden, PreconditionFailed
from shared.money import Currency
from shared.security import Caller
from shared.web import (
    FOR_PEOPLE_OR_OPERATOR,
    Page,
    PageRequest,
    Router,
    for_role,
    page_request,
    problems,
)

router = Router(prefix="/v1/accounts", tags=["accounts"])


#: What the operator's own system calls an account.
ExternalId = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200)]
MetadataKey = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.-]{1,40}$")]
Metadata = Annotated[dict[MetadataKey, Annotated[str, Field(max_length=500)]], Field(max_length=50)]
Language = Annotated[str, StringConstraints(pattern=r"^[a-z]{2}$")]
#: What members neither see nor set: mails go there, and the operator's system relies on it.
OF_THE_OPERATOR = frozenset({"email", "external_id", "metadata"})


class FieldOfTheOperator(Forbidden):
    """Only staff and keys of the operator set these: `email`, `external_id`, `metadata`."""

    code = "field-of-the-operator"


class AccountFields(Strict):
    """What may be said of an account, when it is made and later.

    `metadata` is replaced as a whole. Null takes away what can be without a value.
    """

    country: str | None = Field(None, max_length=2, description="ISO 3166-1 alpha-2.")
    time_zone: str | None = Field(
        None, max_length=64, description="An IANA name. The next period begins by it."
    )
    email: Address | None = Field(
        None, description="The operator's to set: mails about money go there without a member."
    )
    external_id: ExternalId | None = Field(
        None, description="The operator's to set: its own name for the account, unique."
    )
    metadata: Metadata = Field(
        default_factory=dict, description="The operator's to set: its own notes."
    )
    language: Language | None = Field(None, description="Of documents: ISO 639-1.")
    currency: Currency | None = Field(None, description="What it usually pays in: ISO 4217.")

    def changes(self, caller: Caller) -> AccountChanges:
        """What was said. Raises `FieldOfTheOperator` where it is not theirs to say."""
        said: dict[str, Any] = {name: getattr(self, name) for name in self.model_fields_set}
        foreign = sorted(OF_THE_OPERATOR.intersection(said))
        if foreign and not caller.is_operator:
            raise FieldOfTheOperator(f"Only the operator sets {foreign[0]}.", field=foreign[0])
        for name in ("name", "country", "time_zone"):
            if said.get(name) is None:
                said.pop(name, None)
        return said  # type: ignore[return-value]  # the fields are the same


class AccountFilter(BaseModel):
    """Which accounts to list, for the operator: those that match all that is given."""

    external_id: ExternalId | None = None
    email: KnownAddress | None = Field(None, description="The account's own, or a member's.")
    search: str | None = Field(
        None, max_length=200, description="How words in name, email and external_id begin."
    )
    metadata: str | None = Field(
        None, pattern=r"^[A-Za-z0-9_.-]{1,40}:.{0,500}$", description="`key:value`."
    )
    country: str | None = Field(None, max_length=2)
    currency: Currency | None = None
    status: AccountStatus | None = None

    def matching(self) -> account_queries.Matching:
        return account_queries.Matching(
            external_id=self.external_id,
            email=self.email,
            words=account_queries.words_of(self.search or ""),
            metadata=dict([self.metadata.split(":", 1)]) if self.metadata else {},
            country=self.country,
            currency=self.currency,
            status=self.status,
        )


@router.get("")
async def list_accounts(
    edge: MyReading,
    page: Annotated[PageRequest, Depends(page_request)],
    which: Annotated[AccountFilter, Query()],
) -> Page[MyAccountView]:
    """The accounts I belong to, for the operator all of them, newest first.

    To work in another one, log in to it. A key of an account has that one.
    """
    matching, caller = which.matching(), edge.caller
    async with edge.begin() as uow:
        if caller.is_operator or caller.scopes is not None:
            only = None if caller.is_operator else caller.account_id
            found = await account_queries.matching(uow, page, matching, only=only)
            return page.page(
                found,
                lambda one: my_account(one, None, for_operator=caller.is_operator),
                lambda one: one.id,
            )
        mine = await account_queries.of_user(uow, edge.user_id, page, matching)
        return page.page(mine, lambda row: my_account(row[0], row[1]), lambda row: row[0].id)


class OpenAccountRequest(AccountFields):
    name: Name


@router.post(
    "",
    status_code=201,
    response_model=AccountView,
    responses=problems(UnknownCountry, UnknownTimeZone, ExternalIdTaken, FieldOfTheOperator),
    dependencies=[FOR_PEOPLE_OR_OPERATOR],
)
async def open_another(body: OpenAccountRequest, edge: MyCommand) -> Response:
    """A new account. A person becomes its owner; what a key of the operator makes has nobody in it.

    People can be invited into it later, and mails about money go to `email` until then.
    """
    settings = edge.runtime.settings
    given = body.changes(edge.caller)
    places = {
        "country": body.country or settings.default_country,
        "time_zone": body.time_zone or settings.default_time_zone,
    }
    async with edge.begin() as uow:
        if edge.caller.operator_key:
            account = await make_account(uow, given, name=body.name, **places, now=edge.now)
        else:
            account = await open_account(uow, edge.user_id, name=body.name, **places, now=edge.now)
            given.update({"name": body.name, **places})  # type: ignore[typeddict-item]
            await update_account(uow, account, given, now=edge.now)
        view = AccountView.of(account, for_operator=edge.caller.is_operator)
        return await edge.answer(uow, view, status=201)


@router.get(
    "/{account_id}",
    response_model=AccountView,
    responses=problems(AccountNotFound),
)
async def read(edge: AccountReading) -> Response:
    """The account that the token is for."""
    async with edge.begin() as uow:
        if not edge.caller.is_operator:
            await role_of(uow, edge)
        account = await queries.account(uow, edge.account_id)
        return edge.reply(AccountView.of(account, for_operator=edge.caller.is_operator))


class UpdateAccountRequest(AccountFields):
    name: Name | None = None


@router.patch(
    "/{account_id}",
    response_model=AccountView,
    responses=problems(
        AccountNotFound,
        AccountIsClosed,
        RoleTooWeak,
        FieldOfTheOperator,
        ExternalIdTaken,
        UnknownCountry,
        UnknownTimeZone,
        PreconditionFailed,
    ),
    dependencies=[for_role(Role.ADMIN, Role.BILLING, staff=(StaffRole.SUPPORT,))],
)
async def update(body: UpdateAccountRequest, edge: AccountCommand) -> Response:
    """Change the account: owners, admins and billing members; some of it only the operator."""
    changes = body.changes(edge.caller)
    async with edge.begin() as uow:
        role = await role_of(uow, edge)
        if role is not Role.BILLING:
            require_manager(role)
        account: Account = await uow.accounts.get(edge.account_id)
        edge.require_version(account.version)
        await update_account(uow, account, changes, now=edge.now)
        view = AccountView.of(account, for_operator=edge.caller.is_operator)
        return await edge.answer(uow, view)


@router.delete(
    "/{account_id}",
    status_code=204,
    responses=problems(AccountNotFound, AccountIsClosed, RoleTooWeak, PreconditionFailed),
    dependencies=[for_role(Role.OWNER, staff=(StaffRole.SUPPORT,))],
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
