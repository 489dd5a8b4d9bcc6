"""What only the next release reports: events of types that this one does not know."""

import json
import random
from datetime import UTC, datetime
from typing import Any

from shared.ids import new_id
from shared.messaging.envelope import part_of

SUFFIX = "of_the_next_release"
#: Aggregates whose events somebody takes in order, and where they are kept.
AGGREGATES = {
    "subscription": ("subscriptions", "subscriptions", ", kept_version = version + 1"),
    "invoice": ("invoicing", "invoices", ""),
}

#: Any one of them: whoever changes it at this moment has it locked.
TAKE = """
UPDATE {service}.{table} SET version = version + 1{more}
 WHERE id = (SELECT id FROM {service}.{table} WHERE version >= 1
              ORDER BY random() LIMIT 1 FOR UPDATE SKIP LOCKED)
RETURNING id, account_id, version
"""
TELL = """
INSERT INTO {service}.outbox
       (id, part, exchange, routing_key, aggregate_id, account_id, sequence, body)
VALUES ($1, $2, 'billing.events', $3, $4, $5, $6, $7)
"""
#: As every event is counted, for the test clock that waits until it has been handled.
COUNT = """
INSERT INTO {service}.clock_activity AS a (account_id, direction, name, count)
VALUES ($1, 'emitted', $2, 1)
    ON CONFLICT (account_id, direction, name) DO UPDATE SET count = a.count + 1
"""
#: What is not in the timeline, which keeps all that ever happened.
FORGOTTEN = f"""
SELECT routing_key, aggregate_id FROM {{s}}.outbox o
 WHERE routing_key LIKE '%.{SUFFIX}'
   AND NOT EXISTS (SELECT FROM subscriptions.timeline t WHERE t.event_id = o.id)
"""  # noqa: S608  (names are ours)


async def report(connection: Any, rng: random.Random) -> bool:
    """Something becomes of a subscription or an invoice, in its sequence; False without any."""
    kind = rng.choice(sorted(AGGREGATES))
    service, table, more = AGGREGATES[kind]
    event_id, name = new_id(), f"{kind}.{SUFFIX}"
    async with connection.transaction():
        found = await connection.fetchrow(TAKE.format(service=service, table=table, more=more))
        if found is None:
            return False
        body = {
            "specversion": "1.0",
            "id": str(event_id),
            "source": f"perennial/{service}",
            "type": name,
            "subject": str(found["id"]),
            "time": datetime.now(UTC).isoformat(),
            "accountid": str(found["account_id"]),
            "sequence": found["version"],
            "data": {f"{kind}_id": str(found["id"]), "next_release": ["what", "nobody", "knows"]},
        }
        await connection.execute(
            TELL.format(service=service),
            event_id,
            part_of(found["id"]),
            name,
            found["id"],
            found["account_id"],
            found["version"],
            json.dumps(body).encode(),
        )
        await connection.execute(COUNT.format(service=service), found["account_id"], name)
    return True
