"""A bulk move: everybody who holds one price is moved to another, a batch at a time."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from uuid import UUID

from services.subscriptions.domain.subscription import Proration
from shared.errors import Conflict, NotFound


class MoveStatus(StrEnum):
    RUNNING = "running"
    DONE = "done"


class PriceMoveNotFound(NotFound):
    code = "price-move-not-found"


class MoveMakesNoSense(Conflict):
    code = "price-move-makes-no-sense"


@dataclass(eq=False, kw_only=True)
class PriceMove:
    id: UUID
    from_price_id: UUID
    to_price_id: UUID
    proration: Proration = Proration.AT_PERIOD_END
    status: MoveStatus = MoveStatus.RUNNING
    total: int
    moved: int = 0
    failed: int = 0
    #: The last subscription that was looked at; those after it are still to come.
    last_id: UUID | None = None
    version: int = 0
    created_at: datetime
