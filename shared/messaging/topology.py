"""Exchanges and queues: declared here and nowhere else, once, when a service is deployed."""

from collections.abc import Sequence

from faststream.rabbit import ExchangeType, RabbitBroker, RabbitExchange, RabbitQueue
from faststream.rabbit.schemas.queue import QueueType, QuorumQueueArgs

from shared.messaging import names
from shared.messaging.consumers import Consumers
from shared.messaging.envelope import EVENTS_EXCHANGE
from shared.messaging.names import RETRY_DELAYS_MS
from shared.settings import Settings

#: The last guard against a message that kills its consumer: our own counter comes first.
DELIVERY_LIMIT = 20

#: Past this a queue refuses, and the outbox keeps the rest.
MOST_BYTES = 1024**3

EVENTS = RabbitExchange(EVENTS_EXCHANGE, type=ExchangeType.TOPIC, durable=True)


def dead_exchange(service: str) -> RabbitExchange:
    """Where the broker puts what it gives up; the collector files it as a dead letter."""
    return RabbitExchange(names.dead(service), type=ExchangeType.DIRECT, durable=True)


def deliver_exchange(service: str) -> RabbitExchange:
    """Reaches one handler's queue by its name: the way back from a wait, and of a replay."""
    return RabbitExchange(names.deliver(service), type=ExchangeType.DIRECT, durable=True)


def retry_exchange(service: str, delay_ms: int) -> RabbitExchange:
    """Has its messages wait, and then sends them back to the queue that their key names."""
    return RabbitExchange(names.retry(service, delay_ms), type=ExchangeType.FANOUT, durable=True)


def _quorum(name: str, arguments: QuorumQueueArgs) -> RabbitQueue:
    """Replicated, persistent, bounded; dead-lettered at least once (hence reject-publish)."""
    return RabbitQueue(
        name,
        durable=True,
        queue_type=QueueType.QUORUM,
        arguments={
            "x-overflow": "reject-publish",
            "x-max-length-bytes": MOST_BYTES,
            **arguments,
        },
    )


def handler_queue(service: str, name: str) -> RabbitQueue:
    """The queue of one handler. Another shape is another name: it is never declared anew."""
    return _quorum(
        name,
        {
            "x-delivery-limit": DELIVERY_LIMIT,
            "x-dead-letter-exchange": names.dead(service),
            "x-dead-letter-routing-key": names.dead(service),
            "x-dead-letter-strategy": "at-least-once",
        },
    )


def retry_queue(service: str, delay_ms: int) -> RabbitQueue:
    """One queue per delay, since a TTL only ends at a queue's head."""
    return _quorum(
        names.retry(service, delay_ms),
        {
            "x-message-ttl": delay_ms,
            "x-dead-letter-exchange": names.deliver(service),
            "x-dead-letter-strategy": "at-least-once",
        },
    )


def dead_queue(service: str) -> RabbitQueue:
    return _quorum(names.dead(service), {})


async def declare(
    service: str,
    consumers: Consumers,
    settings: Settings,
    delays_ms: Sequence[int] = RETRY_DELAYS_MS,
) -> None:
    """Declare all of a service's topology; what is there already stays as it is.

    Queues are never deleted: a queue that is declared anew under its name can stay down for
    ever after a crash (seen with RabbitMQ 3.10).
    """
    url = (settings.broker_admin_url or settings.broker_url).get_secret_value()
    async with RabbitBroker(url) as broker:
        events = await broker.declare_exchange(EVENTS)
        dead = await broker.declare_exchange(dead_exchange(service))
        deliver = await broker.declare_exchange(deliver_exchange(service))
        graveyard = await broker.declare_queue(dead_queue(service))
        await graveyard.bind(dead, f"{service}.dead")
        for name, handler in consumers.handlers.items():
            queue = await broker.declare_queue(handler_queue(service, name))
            await queue.bind(deliver, name)
            for pattern in handler.patterns:
                await queue.bind(events, pattern)
        for delay in delays_ms:
            exchange = await broker.declare_exchange(retry_exchange(service, delay))
            waiting = await broker.declare_queue(retry_queue(service, delay))
            await waiting.bind(exchange)
