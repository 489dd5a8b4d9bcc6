"""Storing events with the change that they report, in one statement that also wakes the relay."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import orjson

if TYPE_CHECKING:
    from shared.db import UnitOfWork

#: The insert takes the rows in their order, so an aggregate's positions rise with its sequence.
STORE = """
WITH stored AS (
    INSERT INTO {schema}.outbox (id, part, exchange, routing_key, aggregate_id, account_id,
                                 sequence, body, headers)
    SELECT * FROM unnest($1::uuid[], $2::smallint[], $3::text[], $4::text[], $5::uuid[],
                         $6::uuid[], $7::int[], $8::bytea[], $9::jsonb[])
)
SELECT pg_notify('outbox_{schema}', '')
"""
COLUMNS = (
    "id",
    "part",
    "exchange",
    "routing_key",
    "aggregate_id",
    "account_id",
    "sequence",
    "body",
)


async def store(uow: "UnitOfWork", rows: Sequence[dict[str, Any]]) -> None:
    """Store outbox rows (envelope.outbox_row) in this transaction."""
    columns = [[row[name] for row in rows] for name in COLUMNS]
    headers = [orjson.dumps(row["headers"]).decode() if row["headers"] else None for row in rows]
    await uow.fetch(STORE.format(schema=uow.platform.schema), *columns, headers)
