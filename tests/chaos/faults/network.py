"""The wires between processes: cut in one direction or both, slow, reset, refused."""

import random
from collections.abc import Sequence
from typing import Any

from infra.environment import SERVICES
from tests.chaos.faults.base import fault
from tests.chaos.topology import WIRES, Topology

#: The standby's wire belongs to its own fault.
OPEN = tuple(wire for wire in WIRES if not wire.startswith("standby"))


def _for_a_while(
    topology: Topology, wires: Sequence[str], seconds: float, *, reset: bool = False, **mood: Any
) -> bool:
    """Only wires with which nothing is wrong yet."""
    wires = [wire for wire in wires if not topology.goes_on(f"wire {wire}")]
    if not wires or not topology.rewire(wires, set=mood):
        return False
    for wire in wires:
        topology.later(
            f"wire {wire}",
            seconds,
            lambda wire=wire: topology.rewire([wire], set={}, reset=reset),  # type: ignore[misc]
        )
    return True


@fault(4)
def link_cut(topology: Topology, rng: random.Random) -> bool:
    """Nothing gets through between one service and one server; then all of it arrives."""
    return _for_a_while(
        topology,
        [rng.choice(OPEN)],
        rng.uniform(0.5, 12),
        hold_to_server=True,
        hold_to_client=True,
    )


@fault(4)
def link_cut_one_way(topology: Topology, rng: random.Random) -> bool:
    """What is asked arrives and the answer does not, or the other way round."""
    way = rng.choice(["hold_to_server", "hold_to_client"])
    return _for_a_while(topology, [rng.choice(OPEN)], rng.uniform(0.5, 12), **{way: True})


@fault(3)
def link_half_open(topology: Topology, rng: random.Random) -> bool:
    """Answers are lost, and the connections are found dead afterwards."""
    return _for_a_while(
        topology, [rng.choice(OPEN)], rng.uniform(0.5, 8), reset=True, hold_to_client=True
    )


@fault(3)
def link_slow(topology: Topology, rng: random.Random) -> bool:
    server = rng.choice(["postgres", "rabbitmq", "redis"])
    wires = [f"{service}-{server}" for service in SERVICES]
    return _for_a_while(topology, wires, rng.uniform(1, 5), latency=rng.uniform(0.005, 0.1))


@fault(4)
def links_reset(topology: Topology, rng: random.Random) -> bool:
    server = rng.choice(["postgres", "rabbitmq", "redis", "sandbox"])
    wires = [wire for wire in OPEN if wire.endswith(f"-{server}")]
    return topology.rewire(rng.sample(wires, rng.randint(1, len(wires))), reset=True)


@fault(3)
def link_refused(topology: Topology, rng: random.Random) -> bool:
    """As a host without the program."""
    wire = rng.choice(OPEN)
    struck = _for_a_while(topology, [wire], rng.uniform(0.5, 6), refuse=True)
    return struck and topology.rewire([wire], reset=True)


@fault(2)
def service_isolated(topology: Topology, rng: random.Random) -> bool:
    """One service reaches nothing at all."""
    service = rng.choice(SERVICES)
    wires = [wire for wire in OPEN if wire.startswith(f"{service}-")]
    return _for_a_while(
        topology, wires, rng.uniform(1, 12), hold_to_server=True, hold_to_client=True
    )
