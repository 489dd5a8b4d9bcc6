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
from services.subscriptions.domain.subscription import (
    NO_USAGE,
    PRICE_MOVE,
    SERVED,
    ChangeOrder,
    Proration,
    Subscription,
    cost_of,
)
from services.subscriptions.repository import SubscriptionsUnitOfWork
from services.subscriptions.use_cases.bill import bill
from services.subscriptions.use_cases.change_subscription import apply_order, change_for_all
from services.subscriptions.use_cases.choose_items import check_amounts
from services.subscriptions.use_cases.gather_usage import mark_billed
from shared.errors import DomainError
from shared.events.subscriptions import SubscriptionEvent
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
    found = await uow.subscriptions.claim_holders(move.from_price_id, after=move.last_id, most=most)
    for subscription in found:
        now = await uow.now(subscription.account_id)
        try:
            await _move_one(uow, subscription, move, now=now)
            move.moved += 1
        except DomainError as refusal:
            move.failed += 1
            log.warning("Not moved", subscription_id=str(subscription.id), reason=refusal.detail)
        move.last_id = subscription.id
    if len(found) < most:
        move.status = MoveStatus.DONE
    await uow.session.flush()
    return max(len(found), 1)


async def _move_one(
    uow: SubscriptionsUnitOfWork, subscription: Subscription, move: PriceMove, *, now: datetime
) -> None:
    """Over nothing that the subscription waits for by itself."""
    change = await change_for_all(uow, move.to_price_id, subscription)
    usage = NO_USAGE
    terms = await uow.catalog.terms_of(subscription, besides=change.price_ids)
    events: list[SubscriptionEvent]
    await check_amounts(uow, change.apply(subscription.items), subscription.items)
    if move.proration is Proration.AT_PERIOD_END:
        events = [subscription.move_price(move.from_price_id, change, terms, at=now)]
    else:
        order = ChangeOrder(change, PRICE_MOVE, move.proration)
        events, usage = await apply_order(uow, subscription, order, now=now)
    await mark_billed(uow, subscription, usage)
    await bill(uow, events)
    uow.audit(
        "subscription.move_price",
        subscription.id,
        before={"price_id": str(move.from_price_id)},
        after={"price_id": str(move.to_price_id)},
    )


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
    if old.component or new.component:
        raise MoveMakesNoSense(
            "A component is not moved: whoever holds it keeps its price, until they leave the plan."
        )
    return old, new
