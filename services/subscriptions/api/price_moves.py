"""Bulk moves of subscribers from one price to another (staff)."""

from datetime import datetime
from uuid import UUID

from fastapi import Response
from pydantic import BaseModel

from services.subscriptions.api.edge import Command, Query
from services.subscriptions.domain.price import PriceNotFound
from services.subscriptions.domain.price_move import (
    MoveMakesNoSense,
    MoveStatus,
    PriceMove,
    PriceMoveNotFound,
)
from services.subscriptions.domain.subscription import Proration
from services.subscriptions.use_cases.move_prices import preview_move, read_move, start_move
from shared.web import RequestModel, Router, for_staff, problems

router = Router(prefix="/v1/price-moves", tags=["catalog"])


class MoveRequest(RequestModel):
    """By default each subscriber moves when their period ends."""

    from_price_id: UUID
    to_price_id: UUID
    proration: Proration = Proration.AT_PERIOD_END


class MovePreviewView(BaseModel):
    """What one period costs all of them together, before and after, before discount and tax."""

    subscriptions: int
    accounts: int
    units: int
    before: int
    after: int
    currency: str


class MoveView(BaseModel):
    id: UUID
    from_price_id: UUID
    to_price_id: UUID
    proration: Proration
    status: MoveStatus
    total: int
    moved: int
    failed: int
    created_at: datetime

    @classmethod
    def of(cls, move: PriceMove) -> "MoveView":
        return cls(**{name: getattr(move, name) for name in cls.model_fields})


@router.post(
    "/preview",
    responses=problems(PriceNotFound, MoveMakesNoSense),
    dependencies=[for_staff("finance")],
)
async def preview(body: MoveRequest, command: Command) -> MovePreviewView:
    """How many would be moved and what that changes; nothing happens yet."""
    async with command.begin() as uow:
        found = await preview_move(uow, body.from_price_id, body.to_price_id)
        return MovePreviewView(**vars(found))


@router.post(
    "",
    status_code=202,
    response_model=MoveView,
    responses=problems(PriceNotFound, MoveMakesNoSense),
    dependencies=[for_staff("finance")],
)
async def start(body: MoveRequest, command: Command) -> Response:
    """Move all subscribers of a price; ask GET for the progress."""
    async with command.begin() as uow:
        move = await start_move(
            uow,
            body.from_price_id,
            body.to_price_id,
            proration=body.proration,
            now=command.now,
        )
        return await command.answer(uow, MoveView.of(move), status=202)


@router.get(
    "/{move_id}",
    response_model=MoveView,
    responses=problems(PriceMoveNotFound),
    dependencies=[for_staff()],
)
async def read(move_id: UUID, query: Query) -> Response:
    """How far a move is."""
    async with query.begin() as uow:
        return query.reply(MoveView.of(await read_move(uow, move_id)))
