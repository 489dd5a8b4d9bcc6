"""Token balances: bought in bundles, granted when paid, spent once per key, never below zero."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from services.subscriptions.domain.catalog import Bundle, BundleNotFound, NotOnSale
from services.subscriptions.domain.period import days_after
from services.subscriptions.domain.tokens import (
    OrderStatus,
    TokenGrant,
    TokenOrder,
    TokensUsed,
    spend,
)
from services.subscriptions.repository import SubscriptionsUnitOfWork
from services.subscriptions.tables import token_grants
from shared.events.subscriptions import TokensRefunded
from shared.ids import new_id
from shared.schedule import Due


@dataclass(frozen=True)
class Debit:
    """What was taken, and what is left."""

    id: UUID
    amount: int
    balance: int


async def order_tokens(
    uow: SubscriptionsUnitOfWork,
    account_id: UUID,
    bundle_id: UUID,
    *,
    payment_method_id: UUID | None,
    now: datetime,
) -> TokenOrder:
    """Buy a bundle. Its tokens come when it is paid."""
    await uow.accounts.get(account_id)
    if payment_method_id is not None:
        await uow.accounts.require_payment_method(account_id, payment_method_id)
    bundle = await uow.catalog.get(Bundle, bundle_id, BundleNotFound)
    if not bundle.active:
        raise NotOnSale(f"The bundle {bundle.code} is not sold any more.")
    order = TokenOrder(
        id=new_id(),
        account_id=account_id,
        bundle_id=bundle.id,
        tokens=bundle.tokens,
        amount=bundle.amount,
        currency=bundle.currency,
        expires_after_days=bundle.expires_after_days,
        created_at=now,
    )
    uow.tokens.add(order)
    uow.emit(
        order.place(
            name=bundle.name,
            tax_category=bundle.tax_category,
            payment_method_id=payment_method_id,
            at=now,
        )
    )
    uow.audit("token_order.place", order.id, after={"tokens": order.tokens})
    return order


async def grant_tokens(uow: SubscriptionsUnitOfWork, order_id: UUID, *, now: datetime) -> None:
    """The order is paid: its tokens are there, once."""
    order = await uow.tokens.find_order(order_id)
    if order is None or order.status is not OrderStatus.PENDING:
        return
    order.status = OrderStatus.GRANTED
    account = await uow.accounts.find(order.account_id)
    time_zone = account.time_zone if account else "UTC"
    expires_at = None
    if order.expires_after_days is not None:
        expires_at = days_after(now, order.expires_after_days, time_zone)
    grant = TokenGrant(
        id=new_id(),
        account_id=order.account_id,
        order_id=order.id,
        granted=order.tokens,
        remaining=order.tokens,
        expires_at=expires_at,
        created_at=now,
    )
    uow.tokens.add(grant)
    await uow.tokens.write([_entry(grant, "grant", order.tokens, now=now)])


async def drop_order(uow: SubscriptionsUnitOfWork, order_id: UUID) -> None:
    """The invoice for it was voided: nothing will come."""
    order = await uow.tokens.find_order(order_id)
    if order is not None and order.status is OrderStatus.PENDING:
        order.status = OrderStatus.CANCELED


async def debit_tokens(
    uow: SubscriptionsUnitOfWork, account_id: UUID, amount: int, *, reason: str, now: datetime
) -> Debit:
    """Take tokens, soonest to expire first; all of them or none."""
    await uow.tokens.lock(account_id)
    grants = await uow.tokens.left(account_id, now=now)
    taken = spend(grants, amount, now=now)
    debit_id = new_id()
    by_id = {grant.id: grant for grant in grants}
    await uow.tokens.write(
        [
            _entry(by_id[grant_id], "debit", -part, now=now, reason=reason, debit_id=debit_id)
            for grant_id, part in taken
        ]
    )
    return Debit(debit_id, amount, sum(grant.remaining for grant in grants))


async def refund_order(
    uow: SubscriptionsUnitOfWork, order_id: UUID, *, now: datetime
) -> TokenOrder:
    """Take an unused purchase back."""
    order = await uow.tokens.order(order_id)
    await uow.tokens.lock(order.account_id)
    grant = await uow.tokens.of_order(order_id)
    if order.status is not OrderStatus.GRANTED or grant is None or grant.remaining < grant.granted:
        raise TokensUsed("Only a purchase that was paid and not touched can be taken back.")
    entry = _entry(grant, "refund", -grant.remaining, now=now)
    grant.remaining = 0
    order.status = OrderStatus.REFUNDED
    order.version += 1
    await uow.tokens.write([entry])
    uow.emit(
        TokensRefunded(
            occurred_at=now,
            account_id=order.account_id,
            sequence=order.version,
            order_id=order.id,
            tokens=order.tokens,
        )
    )
    uow.audit("token_order.refund", order.id, account_id=order.account_id)
    return order


async def expire_tokens(uow: SubscriptionsUnitOfWork, due: Due, *, most: int) -> int:
    """Write off what was not spent in time."""
    columns = token_grants.c
    grants = await uow.tokens.expired(
        due.matches(columns.expires_at, columns.account_id), most=most
    )
    entries = []
    for grant in grants:
        now = await due.now_for(uow, grant.account_id)
        entries.append(_entry(grant, "expiry", -grant.remaining, now=now))
        grant.remaining = 0
    if entries:
        await uow.tokens.write(entries)
    return len(grants)


def _entry(
    grant: TokenGrant, kind: str, amount: int, *, now: datetime, **more: Any
) -> dict[str, Any]:
    return {
        "account_id": grant.account_id,
        "grant_id": grant.id,
        "kind": kind,
        "amount": amount,
        "created_at": now,
        **more,
    }
