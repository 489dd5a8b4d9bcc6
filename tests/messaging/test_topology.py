"""What the broker holds is what the rules ask for, and no process but `migrate` may change it."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import aio_pika
import pytest
from aio_pika.exceptions import AMQPError

from shared.db import UnitOfWork
from shared.messaging.names import RETRY_DELAYS_MS
from tests.conftest import SERVICES, service_named
from tests.harness import Deployment
from tests.messaging.events import ThingChanged, a_change
from tests.messaging.probe import DELAYS_MS, Probe, eventually, take_effect

ROOT = Path(__file__).parents[2]


def add_handlers(probe: Probe) -> None:
    @probe.consumers.handler(on=[ThingChanged])
    async def note(uow: UnitOfWork, event: ThingChanged) -> None:
        await take_effect(uow, event)

    @probe.consumers.handler(on=[ThingChanged], ordered="thing")
    async def follow(uow: UnitOfWork, event: ThingChanged) -> None:
        await take_effect(uow, event)


def expected(
    service: str, handlers: Iterable[str], delays_ms: Iterable[int]
) -> dict[str, dict[str, Any]]:
    """The queues of a service with the arguments that the rules ask for, written out."""
    bounded = {
        "x-queue-type": "quorum",
        "x-overflow": "reject-publish",
        "x-max-length-bytes": 1073741824,
    }
    handler = {
        **bounded,
        "x-delivery-limit": 20,
        "x-dead-letter-exchange": f"{service}.dead",
        "x-dead-letter-routing-key": f"{service}.dead",
        "x-dead-letter-strategy": "at-least-once",
    }
    return {
        **dict.fromkeys(handlers, handler),
        f"{service}.dead": bounded,
        **{
            f"{service}.retry.{delay}": {
                **bounded,
                "x-message-ttl": delay,
                "x-dead-letter-exchange": f"{service}.deliver",
                "x-dead-letter-strategy": "at-least-once",
            }
            for delay in delays_ms
        },
    }


async def compare(
    connection: Any, service: str, handlers: Iterable[str], delays_ms: Sequence[int]
) -> None:
    """Have the broker compare what it holds with what the rules ask for.

    It closes the channel at any difference (AMQP 0-9-1, queue.declare), whatever its version.
    """
    for queue, arguments in expected(service, handlers, delays_ms).items():
        channel = await connection.channel()
        await channel.declare_queue(queue, durable=True, arguments=arguments)
        with pytest.raises(AMQPError):
            await channel.declare_queue(
                queue, durable=True, arguments={**arguments, "x-max-length": 7}
            )
    for exchange, kind in (
        ("billing.events", "topic"),
        (f"{service}.dead", "direct"),
        (f"{service}.deliver", "direct"),
        *((f"{service}.retry.{delay}", "fanout") for delay in delays_ms),
    ):
        channel = await connection.channel()
        await channel.declare_exchange(exchange, aio_pika.ExchangeType(kind), durable=True)
        await channel.close()


@pytest.mark.servers
async def test_the_live_topology_is_what_the_rules_ask_for(probe: Probe) -> None:
    add_handlers(probe)
    await probe.deploy()

    handlers = (f"{probe.name}.note", f"{probe.name}.follow")
    await compare(probe.connection, probe.name, handlers, DELAYS_MS)


@pytest.mark.parametrize("name", SERVICES)
async def test_the_live_topology_of_each_service_is_what_the_rules_ask_for(
    name: str, deployment: Deployment
) -> None:
    handlers = service_named(name).consumers.handlers
    assert handlers

    async with await aio_pika.connect(deployment.broker_url) as connection:
        await compare(connection, name, handlers, RETRY_DELAYS_MS)


@pytest.mark.servers
async def test_declaring_again_changes_nothing(probe: Probe) -> None:
    add_handlers(probe)
    await probe.deploy()
    await probe.deliver(a_change())
    await probe.deploy()

    async with probe.worker():
        await eventually(lambda: _effects(probe, 1))


def test_delays_grow_and_end_within_two_hours() -> None:
    assert list(RETRY_DELAYS_MS) == sorted(set(RETRY_DELAYS_MS))
    assert sum(RETRY_DELAYS_MS) < 2 * 3600 * 1000


def test_nobody_else_speaks_to_the_broker() -> None:
    """Lint forbids the import; this test forbids an exception from the lint."""
    spoken = [
        str(path.relative_to(ROOT))
        for folder in ("services", "shared")
        for path in (ROOT / folder).rglob("*.py")
        if re.search(r"(?m)^\s*(import|from) (aio_pika|aiormq|faststream)", path.read_text())
    ]

    assert spoken
    assert all(path.startswith("shared/messaging/") for path in spoken), spoken


@pytest.mark.parametrize(
    ("call", "home"),
    [
        (r"\.basic_publish\(|Exchange\(.*\)\.publish\(", "publishing.py"),
        (r"\b(RabbitQueue|RabbitExchange)\(", "topology.py"),
        (r"\.(declare_queue|declare_exchange|queue_declare|exchange_declare)\(", "topology.py"),
        (r"\.(queue_delete|exchange_delete)\(", "nowhere"),
        (r"\.basic_(nack|reject)\(", "worker.py"),
    ],
)
def test_each_raw_call_has_one_home(call: str, home: str) -> None:
    found = {
        path.name
        for path in (ROOT / "shared" / "messaging").glob("*.py")
        if re.search(call, path.read_text())
    }

    assert found == ({home} - {"nowhere"})


async def _effects(probe: Probe, number: int) -> bool:
    events = {row.event_id for row in await probe.effects()}
    return len(events) >= number
