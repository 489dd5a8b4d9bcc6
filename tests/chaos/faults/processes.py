"""Our own processes: killed, frozen, stopped, in the middle of things, at named places."""

import asyncio
import random
import re
from functools import cache

from infra.environment import SERVICES
from infra.native.plan import ROOT
from tests.chaos.faults.base import connect, fault, run
from tests.chaos.topology import Topology

#: Of the kills that would meet a process that is only just starting, these few strike.
AT_START = 0.25


def _one_of(topology: Topology, verb: str, rng: random.Random) -> str | None:
    """A process to strike: mostly one that works, or on a slow machine none ever would."""
    name = rng.choice(topology.named(verb))
    return name if rng.random() < AT_START or topology.is_ready(name) else None


@fault(20)
def worker_killed(topology: Topology, rng: random.Random) -> bool:
    name = _one_of(topology, "worker", rng)
    return name is not None and topology.kill(name)


@fault(10)
def api_killed(topology: Topology, rng: random.Random) -> bool:
    name = _one_of(topology, "api", rng)
    return name is not None and topology.kill(name)


@fault(4)
def worker_stopped_orderly(topology: Topology, rng: random.Random) -> bool:
    return topology.terminate(rng.choice(topology.named("worker")))


@fault(8)
def process_frozen(topology: Topology, rng: random.Random) -> bool:
    return topology.freeze(rng.choice(topology.services), rng.uniform(0.5, 5))


@fault(1)
def process_frozen_for_long(topology: Topology, rng: random.Random) -> bool:
    """Past every lease and heartbeat: others have taken its work over when it wakes."""
    return topology.freeze(rng.choice(topology.services), rng.uniform(15, 60))


@fault(3)
def gateway_killed(topology: Topology, _rng: random.Random) -> bool:
    return topology.kill("gateway")


@fault(10)
def worker_killed_in_its_transaction(topology: Topology, rng: random.Random) -> bool:
    """Its handlers are made to wait inside their transactions; then it dies."""
    name = rng.choice(topology.named("worker"))
    service = name.partition("-")[0]
    if not topology.is_ready(name):
        return False

    async def strike() -> bool:
        connection = await connect(topology)
        try:
            async with connection.transaction():
                await connection.execute(f"LOCK TABLE {service}.inbox IN ACCESS EXCLUSIVE MODE")
                await asyncio.sleep(rng.uniform(0.2, 0.8))
                return topology.kill(name)
        finally:
            await connection.close(timeout=2)

    return run(strike())


@cache
def places() -> dict[str, tuple[str, ...]]:
    """Every crash point that the code names, and the services whose processes may meet it."""
    found: dict[str, tuple[str, ...]] = {}
    for folder, services in [("shared", SERVICES), *((f"services/{s}", (s,)) for s in SERVICES)]:
        for path in (ROOT / folder).rglob("*.py"):
            for place in re.findall(r'crashpoint\(\s*"([a-z_.]+)"\s*\)', path.read_text()):
                found[place] = services
    return found


@fault(8)
def crash_at_a_named_place(topology: Topology, rng: random.Random) -> bool:
    """The process ends by its own hand at the instant when it comes there."""
    place = min(sorted(places()), key=lambda one: (topology.crashed_at[one], rng.random()))
    verb = "api" if place.startswith("web.") else "worker"
    names = [n for n in topology.named(verb) if n.partition("-")[0] in places()[place]]
    name = rng.choice(names)
    if not topology.is_ready(name):
        return False
    topology.tell(name, CRASHPOINT=place)
    return topology.terminate(name)


@fault(4)
def clock_wrong(topology: Topology, rng: random.Random) -> bool:
    """A worker lives minutes in the past or the future; an API, whose tokens others check, less."""
    name = rng.choice(topology.named("worker") + topology.named("api"))
    if not topology.is_ready(name):
        return False
    most = 300 if "worker" in name else 4
    topology.tell(name, CLOCK=f"{rng.uniform(-most, most):.1f}")
    return topology.terminate(name)
