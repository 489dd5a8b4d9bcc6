"""What waits for a person, in one shape over all services."""

from datetime import datetime
from uuid import UUID

from pydantic import BaseModel

from shared.errors import NotFound


class NothingStuck(NotFound):
    code = "nothing-stuck"


class StuckView(BaseModel):
    """One thing that goes on only when somebody has looked: since when, why, and what to do."""

    kind: str
    id: UUID
    account_id: UUID | None = None
    since: datetime
    reason: str
    next_step: str
