"""The payment provider: away, failing, slow, strict, and careless with its webhooks."""

import json
import random
import sqlite3
import time

import httpx

from tests.chaos.child import MOODS
from tests.chaos.faults.base import fault
from tests.chaos.topology import Topology


@fault(5)
def provider_killed(topology: Topology, _rng: random.Random) -> bool:
    return topology.kill("sandbox")


@fault(8)
def provider_in_a_mood(topology: Topology, rng: random.Random) -> bool:
    """For some of the requests: errors before and after the charge, 429, late, unreadable."""
    if topology.goes_on("mood"):
        return False
    told = {"mood": rng.choice(MOODS), "share": rng.uniform(0.3, 1)}
    topology.mood_file.write_text(json.dumps(told))

    def undo() -> bool:
        topology.mood_file.unlink(missing_ok=True)
        return True

    topology.later("mood", rng.uniform(2, 10), undo)
    return True


def _book(topology: Topology, statement: str, *values: float) -> bool:
    """Change its book; whether something in it changed."""
    book = sqlite3.connect(topology.sandbox_file, timeout=2)
    try:
        with book:
            return book.execute(statement, values).rowcount > 0
    except sqlite3.OperationalError:
        return False
    finally:
        book.close()


@fault(4)
def webhooks_sent_again(topology: Topology, rng: random.Random) -> bool:
    """Late, twice and out of order."""
    return _book(
        topology,
        "UPDATE webhooks SET sent = NULL, due = ? WHERE sent IS NOT NULL AND position % ? = 0"
        " AND position > (SELECT max(position) FROM webhooks) - 200",
        time.time() + rng.uniform(0, 3),
        rng.randint(1, 4),
    )


@fault(4)
def webhooks_lost(topology: Topology, rng: random.Random) -> bool:
    """For a while it believes that it has told of charges and refunds, and nothing comes.

    Of what we did not ask for (a payout, a dispute) nothing but a webhook tells us.
    """
    if topology.goes_on("webhooks"):
        return False
    lose = (
        "CREATE TRIGGER lost AFTER INSERT ON webhooks"
        " WHEN json_extract(NEW.body, '$.type') LIKE 'charge.%'"
        " OR json_extract(NEW.body, '$.type') LIKE 'refund.%'"
        " BEGIN UPDATE webhooks SET sent = 0 WHERE position = NEW.position; END"
    )
    if not _told(topology, lose):
        return False
    topology.later(
        "webhooks", rng.uniform(2, 10), lambda: _told(topology, "DROP TRIGGER IF EXISTS lost")
    )
    return True


def _told(topology: Topology, statement: str) -> bool:
    """Change how its book is kept; whether that could be done."""
    book = sqlite3.connect(topology.sandbox_file, timeout=2)
    try:
        with book:
            book.execute(statement)
    except sqlite3.OperationalError:
        return False
    finally:
        book.close()
    return True


@fault(2)
def webhooks_forged(topology: Topology, rng: random.Random) -> bool:
    """Somebody else says that a charge succeeded: refused, whatever it says."""
    book = sqlite3.connect(topology.sandbox_file, timeout=2)
    try:
        row = book.execute("SELECT body FROM webhooks ORDER BY random() LIMIT 1").fetchone()
    except sqlite3.OperationalError:
        return False
    finally:
        book.close()
    if row is None:
        return False
    told = json.loads(row[0])
    told["id"] = f"evt_forged_{rng.getrandbits(64):x}"
    if isinstance(told["data"], dict) and "amount" in told["data"]:
        told["data"] |= {"status": "succeeded", "captured": 1, "amount": 1}
    signature = f"t={int(time.time())},v1={rng.getrandbits(256):064x}"
    try:
        answer = httpx.post(
            f"http://127.0.0.1:{topology.plan.gateway_port}/v1/webhooks/sandbox",
            content=json.dumps(told),
            headers={"Sandbox-Signature": signature, "Content-Type": "application/json"},
            timeout=3,
        )
    except httpx.HTTPError:
        return False
    if answer.is_success:
        topology.surprises.append(f"a forged webhook was taken: {answer.status_code}")
    return answer.status_code < 500
