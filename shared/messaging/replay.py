"""Sending a range of the outbox again: the broker is disposable, and the inbox drops repeats."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, func, select, text, update

from shared.db import UnitOfWork
from shared.errors import Invalid
from shared.messaging.dead_letters import ACTION, AGAIN, ONLY
from shared.messaging.envelope import EVENTS_EXCHANGE
from shared.messaging.partitions import first_id


@dataclass(frozen=True)
class Selection:
    """Which events of the outbox are meant: those made in `[since, until)`, narrowed further.

    `consumer` is a handler's queue, of any service: the others then pass over the repeats.
    """

    since: datetime
    until: datetime
    types: Sequence[str] = ()
    account_id: UUID | None = None
    aggregate_id: UUID | None = None
    consumer: str | None = None

    def __post_init__(self) -> None:
        if self.until <= self.since:
            raise Invalid("The range ends before it begins.", field="until")

    def criteria(self, uow: UnitOfWork) -> list[ColumnElement[bool]]:
        columns = uow.platform.outbox.c
        found = [
            columns.id >= first_id(self.since),
            columns.id < first_id(self.until),
            columns.exchange == EVENTS_EXCHANGE,
            (columns.sent_at.is_not(None)) | (columns.refused_at.is_not(None)),
        ]
        if self.types:
            found.append(columns.routing_key.in_(self.types))
        if self.account_id is not None:
            found.append(columns.account_id == self.account_id)
        if self.aggregate_id is not None:
            found.append(columns.aggregate_id == self.aggregate_id)
        return found


async def count(uow: UnitOfWork, selection: Selection) -> dict[str, int]:
    """How many events a replay would send, by type: the dry run."""
    outbox = uow.platform.outbox
    rows = await uow.session.execute(
        select(outbox.c.routing_key, func.count())
        .where(*selection.criteria(uow))
        .group_by(outbox.c.routing_key)
        .order_by(outbox.c.routing_key)
    )
    return {row[0]: row[1] for row in rows}


async def replay(uow: UnitOfWork, selection: Selection) -> int:
    """Have the relay send them again, in their order; how many those are."""
    headers: dict[str, Any] = {ACTION: AGAIN}
    if selection.consumer:
        headers[ONLY] = selection.consumer
    outbox = uow.platform.outbox
    done = await uow.session.execute(
        update(outbox)
        .where(*selection.criteria(uow))
        .values(sent_at=None, refused_at=None, error=None, headers=headers)
    )
    number = int(getattr(done, "rowcount", 0))
    if number:
        await uow.session.execute(
            text("SELECT pg_notify(:channel, '')"), {"channel": f"outbox_{uow.platform.schema}"}
        )
        uow.audit(
            "outbox.replayed",
            uow.platform.schema,
            account_id=selection.account_id,
            after={
                "count": number,
                **{name: str(value) for name, value in asdict(selection).items() if value},
            },
        )
    return number
