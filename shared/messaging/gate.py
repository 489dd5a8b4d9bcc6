"""The sequence gate: an aggregate's events take effect in order, whatever the broker does."""

from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from uuid import UUID

from shared.db import UnitOfWork

if TYPE_CHECKING:
    from shared.messaging.processor import Delivery

#: Makes, reads and locks the cursors in one statement.
LOCK = """
INSERT INTO {schema}.cursors AS c (consumer, aggregate_id, last_sequence)
SELECT $1::text, id, 0 FROM unnest($2::uuid[]) AS id
    ON CONFLICT (consumer, aggregate_id) DO UPDATE SET last_sequence = c.last_sequence
RETURNING aggregate_id, last_sequence
"""
MOVE = """
UPDATE {schema}.cursors AS c SET last_sequence = new.sequence
  FROM unnest($2::uuid[], $3::int[]) AS new(id, sequence)
 WHERE c.consumer = $1 AND c.aggregate_id = new.id
"""
#: A discarded event is kept without its body, and takes the place of one that has it.
KEEP = """
INSERT INTO {schema}.early_events AS e (consumer, aggregate_id, sequence, body)
SELECT $1::text, * FROM unnest($2::uuid[], $3::int[], $4::bytea[])
    ON CONFLICT (consumer, aggregate_id, sequence)
    DO UPDATE SET body = NULL WHERE excluded.body IS NULL
"""
WAITING = """
SELECT aggregate_id, sequence, body FROM {schema}.early_events
 WHERE consumer = $1 AND aggregate_id = ANY($2::uuid[])
"""
DROP = """
DELETE FROM {schema}.early_events AS e
 USING unnest($2::uuid[], $3::int[]) AS done(id, sequence)
 WHERE e.consumer = $1 AND e.aggregate_id = done.id AND e.sequence <= done.sequence
"""
DROP_ONE = """
DELETE FROM {schema}.early_events WHERE consumer = $1 AND aggregate_id = $2 AND sequence = $3
"""
NEXT = """
SELECT e.body FROM {schema}.early_events e
  JOIN {schema}.cursors c USING (consumer, aggregate_id)
 WHERE e.consumer = $1 AND e.aggregate_id = $2 AND e.sequence = c.last_sequence + 1
   AND e.body IS NOT NULL
"""
#: Moves the cursor over discarded events that are next.
SKIP = """
WITH RECURSIVE skipped(sequence) AS (
    SELECT last_sequence FROM {schema}.cursors WHERE consumer = $1 AND aggregate_id = $2
    UNION ALL
    SELECT e.sequence FROM skipped s JOIN {schema}.early_events e
        ON e.consumer = $1 AND e.aggregate_id = $2 AND e.sequence = s.sequence + 1
       AND e.body IS NULL
)
UPDATE {schema}.cursors SET last_sequence = (SELECT max(sequence) FROM skipped)
 WHERE consumer = $1 AND aggregate_id = $2
   AND last_sequence < (SELECT max(sequence) FROM skipped)
"""


@dataclass
class Turn:
    """What a transaction does with the events before it: each aggregate's due ones in order."""

    #: To be applied, and (without a delivery) discarded ones to be passed over.
    due: list["Delivery"] = field(default_factory=list)
    #: Before their turn: kept.
    early: list["Delivery"] = field(default_factory=list)
    #: Behind the cursor: dropped.
    stale: list["Delivery"] = field(default_factory=list)
    cursors: dict[UUID, int] = field(default_factory=dict)
    moved: dict[UUID, int] = field(default_factory=dict)
    with_early: set[UUID] = field(default_factory=set)

    def hold_back(self, claimed: Collection[UUID]) -> list["Delivery"]:
        """Stop each aggregate before an event that may not be taken, for it is parked.

        Returns what does not take effect after all; of these, what came by message is early now.
        """
        blocked: dict[UUID, int] = {}
        for one in self.due:
            if not one.is_discarded and one.id not in claimed:
                blocked.setdefault(one.found.subject, one.found.sequence)
        if not blocked:
            return []

        def is_held(one: "Delivery") -> bool:
            limit = blocked.get(one.found.subject)
            return limit is not None and one.found.sequence >= limit

        held = [one for one in self.due if is_held(one)]
        self.due = [one for one in self.due if not is_held(one)]
        for aggregate_id, limit in blocked.items():
            if limit - 1 > self.cursors[aggregate_id]:
                self.moved[aggregate_id] = limit - 1
            else:
                del self.moved[aggregate_id]
        self.early += [
            one for one in held if not one.is_early and (one.id in claimed or one.is_discarded)
        ]
        return held


class Gate:
    """One handler's cursors and early events."""

    def __init__(self, schema: str, consumer: str) -> None:
        self._consumer = consumer
        self._lock, self._move, self._keep, self._waiting, self._drop, self._drop_one = (
            statement.format(schema=schema)
            for statement in (LOCK, MOVE, KEEP, WAITING, DROP, DROP_ONE)
        )
        self._next, self._skip = NEXT.format(schema=schema), SKIP.format(schema=schema)

    async def open(
        self,
        uow: UnitOfWork,
        deliveries: Sequence["Delivery"],
        read_early: Callable[[bytes], "Delivery"] | None,
    ) -> Turn:
        """Lock the aggregates' cursors and sort the events.

        With `read_early`, those that waited follow the ones they waited for.
        """
        by_aggregate: defaultdict[UUID, dict[int, Delivery | None]] = defaultdict(dict)
        turn = Turn()
        for delivery in deliveries:
            found = by_aggregate[delivery.found.subject]
            rival = found.get(delivery.found.sequence)
            if rival is not None and rival.id != delivery.id and delivery.action is None:
                turn.stale.append(delivery)  # an edited copy has taken its place
                continue
            found[delivery.found.sequence] = delivery
        # In one order for everybody, so that two workers never wait for each other.
        names = (self._consumer, sorted(by_aggregate))
        rows = await uow.fetch(self._lock, *names)
        turn.cursors = {row[0]: row[1] for row in rows}
        waiting = await uow.fetch(self._waiting, *names)
        for aggregate_id, sequence, body in waiting:
            turn.with_early.add(aggregate_id)
            if body is None:
                by_aggregate[aggregate_id][sequence] = None
            elif read_early is not None and sequence not in by_aggregate[aggregate_id]:
                by_aggregate[aggregate_id][sequence] = read_early(bytes(body))
        for aggregate_id, found in by_aggregate.items():
            self._sort(turn, aggregate_id, found)
        return turn

    @staticmethod
    def _sort(turn: Turn, aggregate_id: UUID, found: dict[int, "Delivery | None"]) -> None:
        last = start = turn.cursors[aggregate_id]
        while last + 1 in found:
            last += 1
            one = found[last]
            if one is not None:
                turn.due.append(one)
        if last > start:
            turn.moved[aggregate_id] = last
        for sequence, one in found.items():
            if one is None or one.is_early:
                continue
            if sequence <= start:
                turn.stale.append(one)
            elif sequence > last:
                turn.early.append(one)

    async def close(self, uow: UnitOfWork, turn: Turn) -> None:
        """Write down how far each aggregate has come, and what still waits."""
        if turn.moved:
            await uow.fetch(self._move, self._consumer, list(turn.moved), list(turn.moved.values()))
        passed = turn.with_early & turn.moved.keys()
        if passed:
            await uow.fetch(
                self._drop, self._consumer, list(passed), [turn.moved[one] for one in passed]
            )
        if turn.early:
            await uow.fetch(
                self._keep,
                self._consumer,
                [one.found.subject for one in turn.early],
                [one.found.sequence for one in turn.early],
                [None if one.is_discarded else one.body for one in turn.early],
            )

    async def next_early(self, uow: UnitOfWork, aggregate_id: UUID) -> bytes | None:
        """The early event whose turn has come, if there is one."""
        names = (self._consumer, aggregate_id)
        await uow.fetch(self._skip, *names)
        rows = await uow.fetch(self._next, *names)
        return bytes(rows[0][0]) if rows else None

    async def drop(self, uow: UnitOfWork, aggregate_id: UUID, sequence: int) -> None:
        """Forget an early event that was parked."""
        await uow.fetch(self._drop_one, self._consumer, aggregate_id, sequence)
