"""Deployments in the middle of everything: another release beside this one, tables that grow."""

import random

from infra.environment import SERVICES
from tests.chaos import news
from tests.chaos.faults.base import connect, fault, run
from tests.chaos.topology import Topology

#: Tables that a migration would touch.
TABLES = {
    "auth": ("users", "accounts"),
    "subscriptions": ("subscriptions", "plans"),
    "invoicing": ("invoices", "invoice_lines"),
    "payments": ("payments", "attempts"),
}
COLUMN = "of_the_next_release"


@fault(6)
def release_rolled(topology: Topology, rng: random.Random) -> bool:
    """One process after the other becomes the next release, or this one again.

    The next one reports what this one does not know: more in its events, and events of new types.
    """
    name = rng.choice(topology.named("worker") + topology.named("api"))
    if not topology.is_ready(name):
        return False
    if rng.random() < 0.7:
        topology.tell(name, RELEASE="next")
        run(_news(topology, rng))
    return topology.terminate(name)


async def _news(topology: Topology, rng: random.Random) -> bool:
    connection = await connect(topology)
    try:
        await connection.execute("SET lock_timeout = '2s'")
        return await news.report(connection, rng)
    finally:
        await connection.close(timeout=2)


@fault(3)
def table_grown(topology: Topology, rng: random.Random) -> bool:
    """Expand, and at the next time contract, beneath processes that know nothing of it."""
    service = rng.choice(SERVICES)
    table = f"{service}.{rng.choice(TABLES[service])}"

    async def strike() -> bool:
        connection = await connect(topology)
        try:
            await connection.execute("SET lock_timeout = '2s'")
            has = await connection.fetchval(
                "SELECT 1 FROM pg_attribute WHERE attrelid = $1::text::regclass AND attname = $2"
                " AND NOT attisdropped",
                table,
                COLUMN,
            )
            change = f"DROP COLUMN {COLUMN}" if has else f"ADD COLUMN {COLUMN} text DEFAULT 'x'"
            await connection.execute(f"ALTER TABLE {table} {change}")
            return True
        finally:
            await connection.close(timeout=2)

    return run(strike())


@fault(1)
def everything_sent_again(topology: Topology, rng: random.Random) -> bool:
    """A replay of the last minutes, as an operator would ask for it to be sure: a flood."""
    service = rng.choice(SERVICES)

    async def strike() -> bool:
        connection = await connect(topology)
        try:
            done = await connection.execute(
                f"UPDATE {service}.outbox SET sent_at = NULL WHERE headers IS NULL"  # noqa: S608  (ours)
                f" AND refused_at IS NULL AND created_at > now() - interval '2 minutes'"
            )
            return not done.endswith(" 0")
        finally:
            await connection.close(timeout=2)

    return run(strike())
