"""Redis: emptied, killed, hanging, full."""

import asyncio
import random

from tests.chaos.faults.base import fault, run
from tests.chaos.topology import Topology

PAUSE_MS = (500, 5000)


def _redis(topology: Topology, *commands: str) -> bool:
    async def send() -> bool:
        reader, writer = await asyncio.open_connection("127.0.0.1", topology.plan.redis.port)
        try:
            words = "\r\n".join([f"AUTH {topology.plan.redis.password}", *commands, ""])
            writer.write(words.encode())
            async with asyncio.timeout(2):
                answers = [await reader.readline() for _ in range(1 + len(commands))]
                return all(answer.startswith(b"+OK") for answer in answers)
        finally:
            writer.close()

    return run(send())


@fault(5)
def cache_emptied(topology: Topology, _rng: random.Random) -> bool:
    return topology.is_ready("redis") and _redis(topology, "FLUSHALL")


@fault(3)
def cache_killed(topology: Topology, _rng: random.Random) -> bool:
    return topology.kill("redis")


@fault(2)
def cache_frozen(topology: Topology, rng: random.Random) -> bool:
    return topology.freeze("redis", rng.uniform(1, 4))


@fault(2)
def cache_paused(topology: Topology, rng: random.Random) -> bool:
    """It takes connections and commands, and answers none."""
    return topology.is_ready("redis") and _redis(
        topology, f"CLIENT PAUSE {rng.randint(*PAUSE_MS)} ALL"
    )


@fault(2)
def cache_full(topology: Topology, rng: random.Random) -> bool:
    """Every write is refused."""
    if topology.goes_on("cache full") or not _redis(
        topology, "CONFIG SET maxmemory-policy noeviction", "CONFIG SET maxmemory 1"
    ):
        return False

    def undo() -> bool:
        return _redis(
            topology, "CONFIG SET maxmemory 256mb", "CONFIG SET maxmemory-policy volatile-lru"
        )

    topology.later("cache full", rng.uniform(1, 6), undo)
    return True
