"""The broker: killed, hanging, without its connections, alarmed, emptied, and a node of three."""

import asyncio
import random
import time
from datetime import UTC, datetime, timedelta

from infra.environment import SERVICES
from tests.chaos import poison
from tests.chaos.checker import oldest_not_taken
from tests.chaos.faults.base import connect, fault, only_one_broker, run
from tests.chaos.topology import Topology

#: Before the oldest event that somebody lacks: what the books of the broker said is gone.
MARGIN = timedelta(seconds=5)


@fault(5, only_one_broker)
def broker_killed(topology: Topology, _rng: random.Random) -> bool:
    return topology.is_ready("rabbitmq") and topology.kill("rabbitmq")


@fault(4, only_one_broker)
def broker_frozen_and_killed(topology: Topology, rng: random.Random) -> bool:
    """What was sent to it meanwhile is lost with it: only a confirm says otherwise."""
    if not topology.is_ready("rabbitmq") or not topology.freeze("rabbitmq", 60):
        return False
    time.sleep(rng.uniform(0.5, 2))
    return topology.kill("rabbitmq")


@fault(2, only_one_broker)
def broker_frozen(topology: Topology, rng: random.Random) -> bool:
    return topology.is_ready("rabbitmq") and topology.freeze("rabbitmq", rng.uniform(1, 6))


@fault(4)
def broker_connections_closed(topology: Topology, _rng: random.Random) -> bool:
    return topology.is_ready("rabbitmq") and topology.rabbitmqctl("close_all_connections", "chaos")


@fault(2)
def broker_alarmed(topology: Topology, rng: random.Random) -> bool:
    """Out of disk or memory, as it believes: publishing hangs, and nothing says so."""
    if topology.goes_on("alarm") or not topology.is_ready("rabbitmq"):
        return False
    raise_it, end_it = rng.choice(
        [
            (("set_disk_free_limit", "900GB"), ("set_disk_free_limit", "50MB")),
            (("set_vm_memory_high_watermark", "0.0001"), ("set_vm_memory_high_watermark", "0.4")),
        ]
    )
    if not topology.rabbitmqctl(*raise_it):
        return False

    def undo() -> bool:
        # A broker that was killed meanwhile has forgotten it.
        return topology.is_ready("rabbitmq") and topology.rabbitmqctl(*end_it)

    topology.later("alarm", rng.uniform(2, 12), undo)
    return True


@fault(1, only_one_broker)
def broker_wiped_and_replayed(topology: Topology, _rng: random.Random) -> bool:
    """Its data is gone; the outboxes send again what not everybody has taken."""
    if not topology.is_ready("rabbitmq") or not topology.wait_for("postgres", 10):
        return False
    for service in SERVICES:  # so that nobody is frozen in the middle of a deployment
        topology.thaw(f"{service}-worker")

    async def oldest() -> datetime:
        connection = await connect(topology)
        try:
            found = await oldest_not_taken(connection)
            return found or datetime.now(UTC)
        finally:
            await connection.close(timeout=2)

    since = asyncio.run(oldest()) - MARGIN
    topology.wipe_broker(since.isoformat())
    return True


def _no_cluster(topology: Topology) -> str:
    return "" if topology.shape.brokers > 1 else "one broker alone (CHAOS_BROKERS=3)"


def _whole(topology: Topology) -> bool:
    """Whether all nodes are there, so that one may go."""
    return all(topology.is_ready(name) for name in topology.plan.brokers)


@fault(12, _no_cluster)
def broker_node_killed(topology: Topology, rng: random.Random) -> bool:
    return _whole(topology) and topology.kill(rng.choice(list(topology.plan.brokers)))


@fault(5, _no_cluster)
def broker_node_frozen(topology: Topology, rng: random.Random) -> bool:
    name = rng.choice(list(topology.plan.brokers))
    return _whole(topology) and topology.freeze(name, rng.uniform(1, 20))


@fault(3)
def poison_sent(topology: Topology, rng: random.Random) -> bool:
    """What cannot be read, to be parked; or what nobody here knows, to be passed over."""
    service = rng.choice(SERVICES)

    async def strike() -> bool:
        connection = await connect(topology)
        try:
            await poison.send(connection, service, rng)
            return True
        finally:
            await connection.close(timeout=2)

    return run(strike())
