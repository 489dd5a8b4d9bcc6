"""What a fault is, and what several of them need."""

import asyncio
import random
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

import asyncpg

from tests.chaos.topology import Topology

SERVERS_GONE = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError)

#: Does it, and answers whether it struck.
Strike = Callable[[Topology, random.Random], bool]
#: Why it cannot be had in this system, or nothing.
Lack = Callable[[Topology], str]


@dataclass(frozen=True)
class Fault:
    """One kind; of all that can be had, it is drawn as often as its weight says."""

    name: str
    weight: int
    strike: Strike
    lacks: Lack


FAULTS: dict[str, Fault] = {}


def nothing(_topology: Topology) -> str:
    return ""


def fault(weight: int, lacks: Lack = nothing) -> Callable[[Strike], Strike]:
    """Add it to the list, by the name of the function."""

    def add(strike: Strike) -> Strike:
        name = strike.__name__.replace("_", " ")
        FAULTS[name] = Fault(name, weight, strike, lacks)
        return strike

    return add


def only_one_broker(topology: Topology) -> str:
    return "" if topology.shape.brokers == 1 else "of a cluster, one node fails at a time"


async def connect(topology: Topology) -> Any:
    """To the database, as its superuser."""
    return await asyncpg.connect(topology.plan.database_url, timeout=3, command_timeout=5)


def run(strike: Coroutine[Any, Any, Any]) -> bool:
    """False where the server was gone anyway."""
    try:
        return bool(asyncio.run(strike))
    except SERVERS_GONE:
        return False
