"""Move everybody who holds a price to another one: previewed, in batches, with progress."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import func, select

from services.subscriptions import tables
from services.subscriptions.domain.price import Price
from services.subscriptions.domain.price_move import (
    MoveMakesNoSense,
    MoveStatus,
    PriceMove,
    PriceMoveNotFound,
)
from services.subscriptions.domain.subscription import SERVED, Proration, Subscription, cost_of
from services.subscriptions.repository import SubscriptionsUnitOfWork
from services.subscriptions.use_cases.change_subscription import Wish, change_subscription
from shared.errors import DomainError
from shared.ids import new_id
from shared.observability import logger

log = logger(__name__)

subscriptions = tables.subscriptions.c


@dataclass(frozen=True)
class MovePreview:
    """Who would be moved, and what a period costs them all before and after."""

    subscriptions: int
    accounts: int
    units: int
    before: int
    after: int
    currency: str


async def preview_move(
    uow: SubscriptionsUnitOfWork, from_price_id: UUID, to_price_id: UUID
) -> MovePreview:
    """What the move would touch; nothing is changed."""
    old, new = await _both(uow, from_price_id, to_price_id)
    rows = (
        await uow.session.execute(
            select(
                subscriptions.quantity,
                func.count(),
                func.count(subscriptions.account_id.distinct()),
            )
            .where(subscriptions.price_id == from_price_id, subscriptions.status.in_(SERVED))
            .group_by(subscriptions.quantity)
        )
    ).all()
    return MovePreview(
        subscriptions=sum(count for _, count, _ in rows),
        accounts=sum(accounts for _, _, accounts in rows),
        units=sum(quantity * count for quantity, count, _ in rows),
        before=sum(cost_of(old, quantity) * count for quantity, count, _ in rows),
        after=sum(cost_of(new, quantity) * count for quantity, count, _ in rows),
        currency=old.currency,
    )


async def start_move(
    uow: SubscriptionsUnitOfWork,
    from_price_id: UUID,
    to_price_id: UUID,
    *,
    proration: Proration,
    now: datetime,
) -> PriceMove:
    """Begin to move them; a schedule does the work and GET shows how far it is."""
    preview = await preview_move(uow, from_price_id, to_price_id)
    move = PriceMove(
        id=new_id(),
        from_price_id=from_price_id,
        to_price_id=to_price_id,
        proration=proration,
        total=preview.subscriptions,
        created_at=now,
    )
    uow.session.add(move)
    uow.audit("price_move.start", move.id, after={"subscriptions": preview.subscriptions})
    uow.wake("move_subscribers")
    return move


async def move_some(uow: SubscriptionsUnitOfWork, *, most: int) -> int:
    """The next subscribers of a move that is under way; returns how many were looked at."""
    moves = tables.price_moves.c
    statement = (
        select(PriceMove)
        .where(moves.status == MoveStatus.RUNNING)
        .order_by(moves.id)
        .limit(1)
        .with_for_update(skip_locked=True)
    )
    move = (await uow.session.scalars(statement)).one_or_none()
    if move is None:
        return 0
    waiting = (
        select(Subscription)
        .where(subscriptions.price_id == move.from_price_id, subscriptions.status.in_(SERVED))
        .order_by(subscriptions.id)
        .limit(most)
        .with_for_update()
    )
    if move.last_id is not None:
        waiting = waiting.where(subscriptions.id > move.last_id)
    found = (await uow.session.scalars(waiting)).all()
    for subscription in found:
        wish = Wish(price_id=move.to_price_id, proration=move.proration)
        now = await uow.now(subscription.account_id)
        try:
            await change_subscription(uow, subscription, wish, now=now)
            move.moved += 1
        except DomainError as refusal:
            move.failed += 1
            log.warning("Not moved", subscription_id=str(subscription.id), reason=refusal.detail)
        move.last_id = subscription.id
    if len(found) < most:
        move.status = MoveStatus.DONE
    await uow.session.flush()
    return max(len(found), 1)


async def read_move(uow: SubscriptionsUnitOfWork, move_id: UUID) -> PriceMove:
    move = await uow.session.get(PriceMove, move_id)
    if move is None:
        raise PriceMoveNotFound(f"There is no price move {move_id}.")
    return move


async def _both(
    uow: SubscriptionsUnitOfWork, from_price_id: UUID, to_price_id: UUID
) -> tuple[Price, Price]:
    old = await uow.catalog.price(from_price_id)
    new = await uow.catalog.price(to_price_id)
    if old.currency != new.currency or old.id == new.id or new.plan_id is None:
        raise MoveMakesNoSense("Move to another price of a plan, in the same currency.")
    return old, new
