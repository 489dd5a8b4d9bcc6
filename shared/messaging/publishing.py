"""The one way to publish: persistent, mandatory, confirmed in time."""

from typing import Any

from aiormq.abc import AbstractChannel
from pamqp.commands import Basic

from shared.messaging.envelope import CONTENT_TYPE

#: An alarmed broker hangs a publish without an error.
CONFIRM_SECONDS = 10.0


async def publish(
    channel: AbstractChannel,
    exchange: str,
    routing_key: str,
    body: bytes,
    *,
    message_id: str,
    headers: dict[str, Any] | None = None,
    confirm_seconds: float = CONFIRM_SECONDS,
) -> None:
    """Returns when the broker has the message. The channel has confirms, and returns raise there.

    Raises `PublishError` when no queue takes it, `DeliveryError` when a queue refuses it,
    `TimeoutError` when nothing is heard of it in time, and what ends a channel.
    """
    await channel.basic_publish(  # type: ignore[call-arg]  # the abstract one has no `wait`
        body,
        exchange=exchange,
        routing_key=routing_key,
        mandatory=True,
        properties=Basic.Properties(
            content_type=CONTENT_TYPE, delivery_mode=2, message_id=message_id, headers=headers
        ),
        timeout=confirm_seconds,
        # The confirm is waited for; to wait for the socket besides costs a write for each message.
        wait=False,
    )


class Publisher:
    """A channel with confirms, for what goes back to a queue of our own service."""

    def __init__(self, channel: AbstractChannel) -> None:
        self._channel = channel
        self._number = 0

    async def publish(
        self, exchange: str, routing_key: str, body: bytes, headers: dict[str, Any] | None = None
    ) -> None:
        """Returns when the broker has it; raises when it is lost, refuses or has no queue.

        A broker that takes its time (an alarm) is waited for: nothing is wrong with the message.
        """
        while True:
            self._number += 1
            try:
                await publish(
                    self._channel,
                    exchange,
                    routing_key,
                    body,
                    message_id=f"{routing_key}-{self._number}",
                    headers=headers,
                )
            except TimeoutError:
                if self._channel.is_closed:
                    raise
            else:
                return
