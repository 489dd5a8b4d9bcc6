"""Messages of one handler: taken in batches, seen through, then acknowledged."""

import asyncio
from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from aiormq.abc import DeliveredMessage

from shared.crashpoint import crashpoint
from shared.messaging.consumers import Handler
from shared.messaging.dead_letters import ACTION, ONLY
from shared.messaging.envelope import Malformed
from shared.messaging.marks import Marks
from shared.messaging.processor import Delivery, Processor
from shared.messaging.publishing import Publisher
from shared.runtime import Runtime

#: Messages that are looked at together, and share a transaction unless told otherwise. Whatever
#: waits is taken; nothing is waited for.
BATCH = 100


@dataclass(frozen=True, slots=True)
class _Taken:
    """Messages in hand, and what is to be done of them."""

    messages: Sequence[DeliveredMessage]
    fresh: Sequence[Delivery]


@dataclass(eq=False)
class Deliveries:
    """The consumer path of one handler in one process.

    A message is acknowledged after its effect is committed, or it was put off or parked.
    """

    handler: Handler
    runtime: Runtime[Any, Any]
    publisher: Publisher
    delays_ms: Sequence[int]
    marks: Marks
    batch: int = BATCH
    _waiting: deque[DeliveredMessage] = field(default_factory=deque)
    _arrived: asyncio.Event = field(default_factory=asyncio.Event)
    _is_stopping: bool = False
    _in_hand: int = 0
    _marking: asyncio.Task[None] | None = None

    def __post_init__(self) -> None:
        self._processor = Processor(self.handler, self.runtime, self.publisher, self.delays_ms)

    async def receive(self, message: DeliveredMessage) -> None:
        """Take a message in hand; the channel's prefetch bounds how many."""
        self._waiting.append(message)
        self._arrived.set()

    @property
    def is_idle(self) -> bool:
        """Whether no message is in hand."""
        return not self._waiting and not self._in_hand

    def stop(self) -> None:
        """Finish the batch in hand, and begin no other."""
        self._is_stopping = True
        self._arrived.set()

    async def run(self) -> None:
        """Work until stopped. What is then in hand and not done goes back to the broker."""
        ahead: asyncio.Task[list[_Taken]] | None = None
        try:
            while not self._is_stopping:
                if ahead is None and not self._waiting:
                    self._arrived.clear()
                    await self._arrived.wait()
                    continue
                batches = await (ahead or self._take())
                # What waits is read and looked up while these are in the database.
                ahead = asyncio.create_task(self._take()) if self._waiting else None
                for taken in batches:
                    if not self._is_stopping:
                        await self._settle(taken)
                self._have_them_remembered()
            if self._marking is not None:
                await self._marking
        finally:
            for task in (ahead, self._marking):
                if task is not None:
                    task.cancel()

    async def _take(self) -> "list[_Taken]":
        """Some of what waits, in batches, with what is to be done. It is not waited for more."""
        size = min(BATCH, len(self._waiting))
        self._in_hand += size
        messages = [self._waiting.popleft() for _ in range(size)]
        deliveries = [await self._read(message) for message in messages]
        done = await self.marks.done(
            self.handler.queue,
            [one.id for one in deliveries if one is not None and one.action is None],
        )
        return [
            _Taken(
                messages[at : at + self.batch], self._fresh(deliveries[at : at + self.batch], done)
            )
            for at in range(0, size, self.batch)
        ]

    def _fresh(
        self, deliveries: Sequence[Delivery | None], done: Collection[UUID]
    ) -> list[Delivery]:
        """Each event once, without those that Redis remembers as done.

        That only saves work: the inbox decides. What was sent again goes round it.
        """
        fresh: dict[UUID, Delivery] = {}
        for one in deliveries:
            if one is None:
                continue
            is_repeat = one.id in fresh or (one.action is None and one.id in done)
            if is_repeat:
                self._processor.count("duplicate")
            if not is_repeat or (one.action is not None and one.id in fresh):
                fresh[one.id] = one
        return list(fresh.values())

    async def _settle(self, taken: "_Taken") -> None:
        """See every message through (committed, put off or parked), then acknowledge them."""
        if taken.fresh:
            await self._processor.see_through(taken.fresh)
            crashpoint("delivery.done_not_acknowledged")
        # They came in this order on this channel, and whatever came before them is settled.
        last = taken.messages[-1]
        await last.channel.basic_ack(last.delivery_tag or 0, multiple=True, wait=False)
        self._in_hand -= len(taken.messages)
        crashpoint("delivery.acknowledged_not_marked")

    async def _read(self, message: DeliveredMessage) -> Delivery | None:
        """What the message says; what cannot be read is parked."""
        headers = message.header.properties.headers or {}
        if headers.get(ONLY, self.handler.queue) != self.handler.queue:
            return None  # sent again for another handler alone
        action = headers.get(ACTION)
        try:
            return self._processor.read(message.body, str(action) if action else None)
        except Malformed as error:
            await self._processor.park(message.body, "malformed", error, plain(headers))
            return None

    def _have_them_remembered(self) -> None:
        """Beside the next batches: losing it only repeats a look, and nothing waits for it."""
        if self._marking is None or self._marking.done():
            self._marking = asyncio.create_task(self._mark())

    async def _mark(self) -> None:
        while ids := self._processor.committed():
            await self.marks.remember(self.handler.queue, ids)


def plain(headers: Any) -> dict[str, Any]:
    """A message's headers as JSON can hold them."""
    return {str(key): _json(value) for key, value in (headers or {}).items()}


def _json(value: Any) -> Any:
    if isinstance(value, dict):
        return plain(value)
    if isinstance(value, list | tuple):
        return [_json(inner) for inner in value]
    return value if isinstance(value, str | int | float | bool | None) else str(value)
