"""Usage as it would be billed, for a look ahead that writes nothing."""

from collections.abc import Sequence
from datetime import datetime
from types import SimpleNamespace
from typing import Any
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from services.subscriptions.repository.usage import UsageStore


class ForeseenUsage(UsageStore):
    """Keeps to itself what would be billed of each window, so that it is foreseen once."""

    def __init__(self, session: AsyncSession) -> None:
        super().__init__(session)
        self._foreseen: dict[tuple[UUID, UUID, datetime], Any] = {}

    async def billed_windows(self, subscription_id: UUID, *, since: datetime) -> Sequence[Any]:
        rows = {
            (subscription_id, row.item_id, row.window_start): row
            for row in await super().billed_windows(subscription_id, since=since)
        }
        rows |= {
            key: row
            for key, row in self._foreseen.items()
            if key[0] == subscription_id and row.window_end > since
        }
        return sorted(rows.values(), key=lambda row: row.window_start)

    async def mark_billed(self, rows: Sequence[dict[str, Any]]) -> None:
        for row in rows:
            key = row["subscription_id"], row["item_id"], row["window_start"]
            self._foreseen[key] = SimpleNamespace(**row)
