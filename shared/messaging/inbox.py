"""The inbox: what each handler has taken, committed with what it did."""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from shared.db import UnitOfWork

#: The time is that of the claim itself: behind the gate's lock, it tells in which order they came.
CLAIM = """
INSERT INTO {schema}.inbox AS i (consumer, event_id, processed_at)
SELECT $1::text, id, statement_timestamp() FROM unnest($2::uuid[]) AS id
    ON CONFLICT (consumer, event_id) DO UPDATE SET processed_at = statement_timestamp()
 WHERE i.processed_at IS NULL
RETURNING event_id
"""
GIVE_BACK = """
UPDATE {schema}.inbox SET processed_at = NULL WHERE consumer = $1 AND event_id = ANY($2::uuid[])
"""
COUNT_ATTEMPT = """
INSERT INTO {schema}.inbox AS i (consumer, event_id, attempts, first_failed_at)
VALUES ($1, $2, 1, now())
    ON CONFLICT (consumer, event_id)
    DO UPDATE SET attempts = i.attempts + 1, first_failed_at = coalesce(i.first_failed_at, now())
 WHERE i.processed_at IS NULL
RETURNING attempts, first_failed_at
"""
REOPEN = """
UPDATE {schema}.inbox SET processed_at = NULL, attempts = 0, first_failed_at = NULL
 WHERE consumer = $1 AND event_id = $2
"""


class Inbox:
    """One handler's rows. A claim waits for a rival's transaction and then knows its outcome."""

    def __init__(self, schema: str, consumer: str) -> None:
        self._consumer = consumer
        self._claim = CLAIM.format(schema=schema)
        self._give_back = GIVE_BACK.format(schema=schema)
        self._count_attempt = COUNT_ATTEMPT.format(schema=schema)
        self._reopen = REOPEN.format(schema=schema)

    async def claim(self, uow: UnitOfWork, event_ids: Sequence[UUID]) -> set[UUID]:
        """Take these events for this transaction; answers with those nobody had taken."""
        if not event_ids:
            return set()
        # In one order for everybody, so that two workers never wait for each other.
        rows = await uow.fetch(self._claim, self._consumer, sorted(event_ids))
        return {row[0] for row in rows}

    async def give_back(self, uow: UnitOfWork, event_ids: Sequence[UUID]) -> None:
        """Undo claims of this transaction whose turn has not come after all."""
        await uow.fetch(self._give_back, self._consumer, list(event_ids))

    async def count_attempt(self, uow: UnitOfWork, event_id: UUID) -> tuple[int, datetime] | None:
        """One more failure; how many that makes, since when. None for what was done meanwhile."""
        rows = await uow.fetch(self._count_attempt, self._consumer, event_id)
        return (rows[0][0], rows[0][1]) if rows else None

    async def reopen(self, uow: UnitOfWork, event_id: UUID) -> None:
        """Let a parked event be taken again, with all its attempts before it."""
        await uow.fetch(self._reopen, self._consumer, event_id)
