"""What exchanges and queues are called, for who uses them; topology.py declares them."""

from collections.abc import Sequence

from aio_pika.abc import AbstractConnection

from shared.messaging.consumers import Handler
from shared.messaging.envelope import EVENTS_EXCHANGE

#: Waits between tries of a message that failed, in milliseconds.
RETRY_DELAYS_MS = (1_000, 5_000, 30_000, 120_000, 600_000, 3_600_000)


def dead(service: str) -> str:
    """Exchange and queue of what the broker gives up."""
    return f"{service}.dead"


def deliver(service: str) -> str:
    """The exchange that reaches one handler's queue by its name."""
    return f"{service}.deliver"


def retry(service: str, delay_ms: int) -> str:
    """Exchange and queue of what waits this long."""
    return f"{service}.retry.{delay_ms}"


async def require(
    connection: AbstractConnection,
    service: str,
    handlers: Sequence[Handler],
    delays_ms: Sequence[int] = RETRY_DELAYS_MS,
) -> None:
    """Look whether all of it is there; declares nothing. Raises `ChannelNotFoundEntity`."""
    channel = await connection.channel()
    try:
        for exchange in (EVENTS_EXCHANGE, dead(service), deliver(service)):
            await channel.get_exchange(exchange)
        for handler in handlers:
            await channel.get_queue(handler.queue)
        await channel.get_queue(dead(service))
        for delay in delays_ms:
            await channel.get_exchange(retry(service, delay))
            await channel.get_queue(retry(service, delay))
    finally:
        await channel.close()
