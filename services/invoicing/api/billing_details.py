"""Whom to bill: the account's name, address and tax number, and what it has in credit."""

from datetime import datetime
from typing import Annotated, Any, Self
from uuid import UUID

from fastapi import Response
from pydantic import BaseModel, EmailStr, Field, StringConstraints

from services.invoicing import queries
from services.invoicing.api.edge import Command, Listing, Paging, Query
from services.invoicing.domain.account import (
    Account,
    AccountNotFound,
    CreditEntry,
    CreditKind,
    NotEnoughCredit,
)
from services.invoicing.domain.legal_entity import LegalEntityNotFound
from services.invoicing.domain.vat import VatNumberInvalid
from services.invoicing.use_cases.change_billing_details import (
    BillingDetails,
    change_billing_details,
)
from shared.errors import BadRequest, Invalid
from shared.money import AmountTooLarge, Money, require_billable
from shared.web import Page, RequestModel, Router, for_role, for_staff, problems

router = Router(prefix="/v1", tags=["billing details"])

Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200)]
Country = Annotated[str, StringConstraints(pattern=r"^[A-Z]{2}$")]


class Address(RequestModel):
    """`country` is ISO 3166-1 alpha-2; it decides the tax."""

    line1: Text | None = None
    line2: Text | None = None
    postal_code: Text | None = None
    city: Text | None = None
    region: Text | None = None
    country: Country | None = None


class BillingDetailsRequest(RequestModel):
    """All of it: what is left out is cleared."""

    name: Text | None = None
    address: Address = Field(default_factory=Address)
    email: EmailStr | None = None
    vat_id: Text | None = None
    language: Annotated[str, StringConstraints(pattern=r"^[a-z]{2}$")] = "en"
    purchase_order: Text | None = None
    exemption_reason: Text | None = Field(None, description="Why no tax is charged; finance only.")
    legal_entity_id: UUID | None = Field(None, description="Who bills the account; finance only.")
    consolidated_billing: bool = Field(
        False, description="One invoice a day for all subscriptions that renew; finance only."
    )


class BillingDetailsView(BaseModel):
    account_id: UUID
    name: str | None
    address: Address
    email: str | None
    vat_id: str | None
    language: str
    purchase_order: str | None
    exemption_reason: str | None
    legal_entity_id: UUID | None
    consolidated_billing: bool
    version: int

    @classmethod
    def of(cls, account: Account) -> Self:
        address: dict[str, Any] = {**account.address, "country": account.billing_country}
        return cls(
            account_id=account.account_id,
            name=account.name,
            address=Address.model_validate(address),
            email=account.email,
            vat_id=account.vat_id,
            language=account.language,
            purchase_order=account.purchase_order,
            exemption_reason=account.exemption_reason,
            legal_entity_id=account.legal_entity_id,
            consolidated_billing=account.consolidated_billing,
            version=account.version,
        )


class CreditEntryView(BaseModel):
    id: UUID
    kind: CreditKind
    amount: Money
    balance_after: Money
    invoice_id: UUID | None
    at: datetime
    note: str | None

    @classmethod
    def of(cls, entry: CreditEntry) -> Self:
        return cls(
            id=entry.id,
            kind=entry.kind,
            amount=Money(entry.amount, entry.currency),
            balance_after=Money(entry.balance_after, entry.currency),
            invoice_id=entry.invoice_id,
            at=entry.at,
            note=entry.note,
        )


class CreditView(BaseModel):
    """What the operator owes the account, per currency; the next invoices take it."""

    balances: list[Money]


class GrantRequest(RequestModel):
    amount: Money
    note: Text


@router.get(
    "/billing-details",
    response_model=BillingDetailsView,
    responses=problems(AccountNotFound, BadRequest),
)
async def read_billing_details(query: Query) -> Response:
    """Whom the account's invoices are made out to."""
    async with query.begin() as uow:
        account = await queries.read_account(uow, query.account_id)
        return query.reply(BillingDetailsView.of(account))


@router.put(
    "/billing-details",
    response_model=BillingDetailsView,
    responses=problems(AccountNotFound, LegalEntityNotFound, VatNumberInvalid, BadRequest),
    dependencies=[
        for_role(
            "admin",
            "billing",
            but="of the staff only finance and admin set what the fields say is theirs",
        )
    ],
)
async def put_billing_details(request: BillingDetailsRequest, command: Command) -> Response:
    """Say whom to bill from the next invoice on. Finalized invoices keep what they have."""
    asking = command.caller
    if request.exemption_reason or request.legal_entity_id or request.consolidated_billing:
        asking.require_staff("finance")
    async with command.begin() as uow:
        details = BillingDetails(
            **request.model_dump(exclude={"address"}),
            address=request.address.model_dump(exclude_none=True),
            # Support leaves as it is what it may not set.
            by_staff=asking.operator_key or asking.staff in {"finance", "admin"},
        )
        account = await change_billing_details(
            uow, command.account_id, details, require_version=command.require_version
        )
        uow.audit("billing_details.change", account.account_id, account_id=account.account_id)
        return await command.answer(uow, BillingDetailsView.of(account))


@router.get("/account-credit", responses=problems(BadRequest))
async def read_account_credit(query: Query) -> CreditView:
    """What the account has in credit."""
    async with query.begin() as uow:
        credits_ = await queries.list_credits(uow, query.account_id)
        return CreditView(balances=[Money(c.balance, c.currency) for c in credits_])


@router.get("/account-credit/entries", responses=problems(BadRequest))
async def list_account_credit_entries(query: Listing, page: Paging) -> Page[CreditEntryView]:
    """How the credit came and went, newest first."""
    async with query.begin() as uow:
        entries = await queries.list_credit_entries(uow, page, query.account_id)
        return page.page(entries, CreditEntryView.of, lambda entry: entry.id)


@router.post(
    "/account-credit",
    responses=problems(AccountNotFound, AmountTooLarge, NotEnoughCredit, Invalid, BadRequest),
    dependencies=[for_staff("finance")],
)
async def grant_account_credit(request: GrantRequest, command: Command) -> CreditView:
    """Give the account credit (staff, acting for it), or take credit back."""
    require_billable(request.amount.amount, field="amount")
    if request.amount.amount == 0:
        raise Invalid("Say how much to give, or below zero to take back.", field="amount")
    async with command.begin() as uow:
        account_id = command.account_id
        await queries.read_account(uow, account_id)
        await uow.credits.add(
            account_id,
            request.amount.currency,
            request.amount.amount,
            CreditKind.GRANTED,
            at=command.now,
            note=request.note,
        )
        await uow.session.flush()
        uow.audit("account_credit.grant", account_id, after=request.amount.model_dump(mode="json"))
        credits_ = await queries.list_credits(uow, account_id)
        view = CreditView(balances=[Money(c.balance, c.currency) for c in credits_])
        return await command.answer(uow, view)  # type: ignore[return-value]  # a Response passes
