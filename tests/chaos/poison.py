"""Messages that nobody acts on, put into an outbox: unreadable, or of an unknown kind."""

import json
import random
from datetime import UTC, datetime
from typing import Any

from shared.ids import new_id
from shared.messaging.envelope import part_of

#: By which poison is told from what really happened.
ACCOUNT = "00000000-0000-4000-8000-00000000dead"
MALFORMED = '{"specversion":"1.0","id":"half of a mess'
KEYS = ("subscription", "invoice")

INSERT = """
INSERT INTO {s}.outbox (id, part, exchange, routing_key, aggregate_id, account_id, sequence, body)
VALUES ($1, $2, 'billing.events', $3, $4, $5::text::uuid, 1, $6)
"""


async def send(connection: Any, service: str, rng: random.Random) -> None:
    """One of them; the service's relay takes it from there."""
    event_id, aggregate_id = new_id(), new_id()
    kind = rng.choice(KEYS)
    if rng.random() < 0.5:
        key, body = f"{kind}.voided", MALFORMED.encode()
    else:
        key = f"{kind}.of_the_next_release"
        body = json.dumps(
            {
                "specversion": "1.0",
                "id": str(event_id),
                "source": f"perennial/{service}",
                "type": key,
                "subject": str(aggregate_id),
                "time": datetime.now(UTC).isoformat(),
                "accountid": ACCOUNT,
                "sequence": 1,
                "data": {},
            }
        ).encode()
    await connection.execute(
        INSERT.format(s=service), event_id, part_of(aggregate_id), key, aggregate_id, ACCOUNT, body
    )
