"""The sequence gate: an aggregate's events take effect in order, whatever the broker does."""

from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any
from uuid import UUID

from prometheus_client import Counter
from sqlalchemy import text

from shared.db import UnitOfWork
from shared.messaging import envelope
from shared.messaging.consumers import Handler

if TYPE_CHECKING:
    from shared.messaging.delivery import Delivery

EARLY = Counter("consumer_early_total", "Events that came before an earlier one.", ["consumer"])

#: Reads and locks the cursors, in one order for everybody.
LOCK = """
INSERT INTO {schema}.cursors AS c (consumer, aggregate_id, last_sequence)
SELECT :consumer, id, 0 FROM unnest(CAST(:ids AS uuid[])) AS id ORDER BY id
    ON CONFLICT (consumer, aggregate_id) DO UPDATE SET last_sequence = c.last_sequence
RETURNING aggregate_id, last_sequence
"""
MOVE = """
UPDATE {schema}.cursors AS c SET last_sequence = new.sequence
  FROM unnest(CAST(:ids AS uuid[]), CAST(:sequences AS int[])) AS new(id, sequence)
 WHERE c.consumer = :consumer AND c.aggregate_id = new.id
"""
KEEP = """
INSERT INTO {schema}.early_events (consumer, aggregate_id, sequence, body)
VALUES (:consumer, :aggregate_id, :sequence, :body) ON CONFLICT DO NOTHING
"""
WAITING = """
SELECT aggregate_id, sequence, body FROM {schema}.early_events
 WHERE consumer = :consumer AND aggregate_id = ANY(CAST(:ids AS uuid[]))
"""
DROP = """
DELETE FROM {schema}.early_events
 WHERE consumer = :consumer AND aggregate_id = :aggregate_id AND sequence <= :sequence
"""
#: Early events whose turn has come, because applying them failed or a gap was discarded.
READY = """
SELECT e.aggregate_id FROM {schema}.early_events e
  JOIN {schema}.cursors c USING (consumer, aggregate_id)
 WHERE e.consumer = :consumer AND e.sequence = c.last_sequence + 1
 LIMIT 100
"""

Handle = Callable[[UnitOfWork, Sequence[Any]], Awaitable[None]]


async def apply(
    uow: UnitOfWork, handler: Handler, deliveries: Sequence["Delivery"], handle: Handle
) -> None:
    """Handle what is next in its aggregate's sequence, keep what is early, drop what is old.

    After an event, those that waited for it follow. The events that are applied go to `handle`
    in one call, each aggregate's in order.
    """
    if not deliveries:
        return
    schema = uow.platform.schema
    by_aggregate: defaultdict[UUID, dict[int, Any]] = defaultdict(dict)
    for delivery in deliveries:
        by_aggregate[delivery.event.subject][delivery.event.sequence] = delivery
    names = {"consumer": handler.queue, "ids": list(by_aggregate)}
    cursors: dict[UUID, int] = dict(
        (await uow.session.execute(text(LOCK.format(schema=schema)), names)).tuples().all()
    )
    waiting = (await uow.session.execute(text(WAITING.format(schema=schema)), names)).all()
    for row in waiting:
        by_aggregate[row.aggregate_id].setdefault(row.sequence, row.body)
    due: list[Any] = []
    moved: dict[UUID, int] = {}
    for aggregate_id, found in by_aggregate.items():
        last = cursors[aggregate_id]
        while last + 1 in found:
            last += 1
            due.append(found[last])
        if last > cursors[aggregate_id]:
            moved[aggregate_id] = last
        cursors[aggregate_id] = last
    await handle(uow, [_delivery(one) for one in due if one is not None])
    await _move(uow, handler, moved, {row.aggregate_id for row in waiting})
    await _keep_early(uow, handler, deliveries, cursors)


async def ready(uow: UnitOfWork, handler: Handler) -> list[UUID]:
    """The aggregates with an early event whose turn has come."""
    found = await uow.session.scalars(
        text(READY.format(schema=uow.platform.schema)), {"consumer": handler.queue}
    )
    return list(found)


async def advance(uow: UnitOfWork, handler: Handler, aggregate_id: UUID, handle: Handle) -> None:
    """Apply one aggregate's early events as far as they follow the cursor."""
    schema = uow.platform.schema
    names = {"consumer": handler.queue, "ids": [aggregate_id]}
    last = (await uow.session.execute(text(LOCK.format(schema=schema)), names)).one().last_sequence
    waiting = (await uow.session.execute(text(WAITING.format(schema=schema)), names)).all()
    found = {row.sequence: row.body for row in waiting}
    start = last
    while last + 1 in found:
        last += 1
    due = [found[number] for number in range(start + 1, last + 1)]
    await handle(uow, [_delivery(body) for body in due if body is not None])
    if last > start:
        await _move(uow, handler, {aggregate_id: last}, {aggregate_id})


async def skip(uow: UnitOfWork, consumer: str, aggregate_id: UUID, sequence: int) -> None:
    """Have the gate pass over an event that was given up: an early one without a body."""
    await uow.session.execute(
        text(KEEP.format(schema=uow.platform.schema)),
        {
            "consumer": consumer,
            "aggregate_id": aggregate_id,
            "sequence": sequence,
            "body": None,
        },
    )


async def _move(
    uow: UnitOfWork, handler: Handler, moved: dict[UUID, int], with_early: set[UUID]
) -> None:
    if not moved:
        return
    schema = uow.platform.schema
    await uow.session.execute(
        text(MOVE.format(schema=schema)),
        {"consumer": handler.queue, "ids": list(moved), "sequences": list(moved.values())},
    )
    for aggregate_id in with_early & moved.keys():
        await uow.session.execute(
            text(DROP.format(schema=schema)),
            {
                "consumer": handler.queue,
                "aggregate_id": aggregate_id,
                "sequence": moved[aggregate_id],
            },
        )


async def _keep_early(
    uow: UnitOfWork, handler: Handler, deliveries: Sequence["Delivery"], cursors: dict[UUID, int]
) -> None:
    early = [
        {
            "consumer": handler.queue,
            "aggregate_id": one.event.subject,
            "sequence": one.event.sequence,
            "body": one.message.body,
        }
        for one in deliveries
        if one.event.sequence > cursors[one.event.subject]
    ]
    if early:
        EARLY.labels(handler.queue).inc(len(early))
        await uow.session.execute(text(KEEP.format(schema=uow.platform.schema)), early)


class _Kept:
    """An early event, read back; what `Delivery` is for one in hand."""

    def __init__(self, body: bytes) -> None:
        self.found = envelope.read(body)
        self.event = self.found.event()
        self.id = self.event.id


def _delivery(one: Any) -> Any:
    return _Kept(bytes(one)) if isinstance(one, bytes | memoryview) else one
