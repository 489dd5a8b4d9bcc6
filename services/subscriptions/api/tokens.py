"""Token balances: buy, spend, look."""

from datetime import datetime
from typing import Annotated
from uuid import UUID

from fastapi import Response
from pydantic import BaseModel, Field

from services.subscriptions import queries
from services.subscriptions.api.edge import (
    PAYER,
    USER,
    Command,
    KeyedCommand,
    Listing,
    Paging,
    Query,
)
from services.subscriptions.domain.account import (
    AccountIsClosed,
    AccountNotFound,
    AccountNotReady,
    PaymentMethodUnknown,
)
from services.subscriptions.domain.catalog import BundleNotFound, NotOnSale
from services.subscriptions.domain.tokens import (
    OrderStatus,
    TokenOrder,
    TokenOrderNotFound,
    TokensShort,
    TokensUsed,
)
from services.subscriptions.use_cases.spend_tokens import (
    debit_tokens,
    order_tokens,
    refund_order,
)
from shared.errors import BadRequest
from shared.money import Money
from shared.web import Page, RequestModel, Router, for_staff, problems

router = Router(prefix="/v1/token-balance", tags=["tokens"])


class PurchaseRequest(RequestModel):
    bundle_id: UUID
    payment_method_id: UUID | None = None


class DebitRequest(RequestModel):
    amount: Annotated[int, Field(ge=1, le=2**53)]
    reason: str = Field(min_length=1, max_length=500)


class GrantView(BaseModel):
    id: UUID
    granted: int
    remaining: int
    expires_at: datetime | None


class BalanceView(BaseModel):
    """`grants` in the order in which they are spent."""

    balance: int
    grants: list[GrantView]


class PurchaseView(BaseModel):
    id: UUID
    bundle_id: UUID
    tokens: int
    price: Money
    status: OrderStatus
    created_at: datetime

    @classmethod
    def of(cls, order: TokenOrder) -> "PurchaseView":
        return cls(
            id=order.id,
            bundle_id=order.bundle_id,
            tokens=order.tokens,
            price=Money(order.amount, order.currency),
            status=order.status,
            created_at=order.created_at,
        )


class DebitView(BaseModel):
    id: UUID
    amount: int
    balance: int


class EntryView(BaseModel):
    """One line of the ledger; debits, expiry and refunds are negative."""

    id: UUID
    grant_id: UUID
    kind: str
    amount: int
    reason: str | None
    debit_id: UUID | None
    created_at: datetime


@router.get("", responses=problems(BadRequest))
async def read_balance(query: Query) -> BalanceView:
    """What the account can spend, soonest to expire first."""
    async with query.begin() as uow:
        left = await queries.token_grants(uow, query.account_id, now=query.now)
        return BalanceView(
            balance=sum(grant.remaining for grant in left),
            grants=[
                GrantView(
                    id=grant.id,
                    granted=grant.granted,
                    remaining=grant.remaining,
                    expires_at=grant.expires_at,
                )
                for grant in sorted(left, key=lambda grant: grant.order)
            ],
        )


@router.get("/entries", responses=problems(BadRequest))
async def list_entries(query: Listing, page: Paging) -> Page[EntryView]:
    """The ledger behind the balance, newest first."""
    async with query.begin() as uow:
        found = await queries.token_entries(uow, page, query.account_id)
        return page.page(
            found,
            lambda row: EntryView(**row._asdict()),
            lambda row: row.id,
        )


@router.post(
    "/purchase",
    status_code=201,
    response_model=PurchaseView,
    responses=problems(
        BundleNotFound,
        NotOnSale,
        AccountNotFound,
        AccountNotReady,
        AccountIsClosed,
        PaymentMethodUnknown,
        BadRequest,
    ),
    dependencies=[PAYER],
)
async def purchase(body: PurchaseRequest, command: KeyedCommand) -> Response:
    """Buy a bundle; its tokens are there once it is paid."""
    async with command.begin() as uow:
        order = await order_tokens(
            uow,
            command.account_id,
            body.bundle_id,
            payment_method_id=body.payment_method_id,
            now=command.now,
        )
        return await command.answer(uow, PurchaseView.of(order), status=201)


@router.get("/purchases")
async def list_purchases(query: Listing, page: Paging) -> Page[PurchaseView]:
    """What the account bought, newest first."""
    async with query.begin() as uow:
        found = await queries.token_orders(uow, page)
        return page.page(found, PurchaseView.of, lambda order: order.id)


@router.post(
    "/purchases/{order_id}/refund",
    response_model=PurchaseView,
    responses=problems(TokenOrderNotFound, TokensUsed),
    dependencies=[for_staff("finance")],
)
async def refund(order_id: UUID, command: Command) -> Response:
    """Take back a purchase of which nothing was spent (staff)."""
    async with command.begin() as uow:
        order = await uow.tokens.order(order_id)
        await refund_order(uow, order_id, now=await uow.now(order.account_id))
        return await command.answer(uow, PurchaseView.of(order))


@router.post(
    "/debit",
    response_model=DebitView,
    responses=problems(TokensShort, BadRequest),
    dependencies=[USER],
)
async def debit(body: DebitRequest, command: KeyedCommand) -> Response:
    """Spend tokens: all that were asked for, or none; once per Idempotency-Key."""
    async with command.begin() as uow:
        spent = await debit_tokens(
            uow, command.account_id, body.amount, reason=body.reason, now=command.now
        )
        return await command.answer(
            uow, DebitView(id=spent.id, amount=spent.amount, balance=spent.balance)
        )
