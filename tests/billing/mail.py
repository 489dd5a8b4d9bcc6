"""Carries events from one service's outbox to the others' handlers, without a broker between.

The handlers run behind the same inbox and sequence gate as in a worker, so that order, repeats
and gaps mean what they mean there. What a handler refuses or fails at is no dead letter here: it
ends the test.
"""

from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, cast
from uuid import UUID

import asyncpg

from shared.context import current_cause
from shared.events import Event
from shared.messaging import envelope
from shared.messaging.processor import Delivery, Processor
from shared.messaging.publishing import Publisher
from tests.harness import Running

#: Handlers that do nothing to the books: the timeline of everything, and the driver of clocks.
ELSEWHERE = {"write_timeline", "drive_test_clock", "follow_test_clock"}
#: Of deliveries in another order, so many come twice.
REPEATED = 0.2

TAKE = """
DELETE FROM {schema}.outbox WHERE sent_at IS NULL AND account_id = $1
RETURNING position, body
"""


class StrictProcessor(Processor):
    """One that puts off and parks nothing: whatever goes wrong is raised."""

    async def park(self, *told: Any, **_more: Any) -> None:
        _, _, error, *_ = told
        raise cast("BaseException", error)

    async def _put_off(self, _delivery: Delivery, error: Exception) -> None:
        raise error


@dataclass(frozen=True)
class Letter:
    """An event on its way: as it travels, and as it is."""

    body: bytes
    event: Event


class Mail:
    """All that the services, and whoever stands in for payments, report of one account."""

    def __init__(
        self,
        account_id: UUID,
        services: Mapping[asyncpg.Connection, Running],
        cashier: Callable[[Event], None],
        listeners: Sequence[Callable[[Event], None]],
        *,
        foresee: Callable[[Sequence[Event]], None] | None = None,
        shuffle: Random | None = None,
    ) -> None:
        self._account_id = account_id
        self._services = services
        self._cashier = cashier
        self._listeners = listeners
        self._foresee = foresee
        self._shuffle = shuffle
        self._posted: deque[Letter] = deque()
        #: Services at which something was done, for whoever wants to know what follows, and those
        #: of which something may have left since it was asked for last.
        self.touched: set[str] = set()
        self._unasked = {running.service.name for running in services.values()}
        self._handlers = [
            StrictProcessor(handler, running.runtime, cast("Publisher", None), ())
            for running in services.values()
            for queue, handler in running.service.consumers.handlers.items()
            if queue.split(".")[1] not in ELSEWHERE
        ]
        #: Where letters come in another order: what waits for its turn, and how far each has come.
        self._early: dict[tuple[str, UUID], dict[int, Letter]] = defaultdict(dict)
        self._reached: dict[tuple[str, UUID], int] = defaultdict(int)
        self._told: set[UUID] = set()
        #: Everything that was carried, in the order in which it was published.
        self.carried: list[Event] = []

    def post(self, event: Event) -> None:
        """Have an event carried that no service of these reports."""
        self._posted.append(Letter(envelope.write(event, current_cause()), event))

    def ask(self, *names: str) -> None:
        """Something was done at these services: look into their outboxes."""
        self._unasked.update(names)
        self.touched.update(names)

    async def carry(self) -> bool:
        """Deliver what is on its way, and not what that leads to; whether there was anything."""
        letters = list(self._posted)
        self._posted.clear()
        for connection, running in self._services.items():
            if running.service.name in self._unasked:
                letters += await self._take(connection, running.service.name)
        self._unasked.clear()
        if not letters:
            return False
        self.carried += [letter.event for letter in letters]
        if self._foresee is not None:
            self._foresee([letter.event for letter in letters])
        if self._shuffle is None:
            await self._in_order(letters)
        else:
            await self._in_any_order(letters, self._shuffle)
        return True

    async def _take(self, connection: asyncpg.Connection, schema: str) -> list[Letter]:
        rows = await connection.fetch(TAKE.format(schema=schema), self._account_id)
        bodies = [bytes(body) for _, body in sorted(rows)]
        return [Letter(body, envelope.parse(body)) for body in bodies]

    async def _in_order(self, letters: Sequence[Letter]) -> None:
        """One letter after the other, so that everybody hears of the same things so far."""
        for letter in letters:
            for processor in self._addressed(letter):
                await processor.see_through([processor.read(letter.body)])
            self._cashier(letter.event)
            for listen in self._listeners:
                listen(letter.event)

    async def _in_any_order(self, letters: Sequence[Letter], rng: Random) -> None:
        """Each handler hears of each by itself, some twice; and all in another order.

        Listeners hear of a letter when it takes effect: one that came early has to wait for those
        before it.
        """
        one_by_one: list[tuple[Processor | None, Letter]] = [
            (processor, letter)
            for letter in letters
            for processor in self._addressed(letter)
            for _ in range(1 + (rng.random() < REPEATED))
        ]
        one_by_one += [(None, letter) for letter in letters]
        rng.shuffle(one_by_one)
        for processor, letter in one_by_one:
            if processor is None:
                self._cashier(letter.event)
                if not any(self._addressed(letter)):
                    self._tell(letter)
                continue
            await processor.see_through([processor.read(letter.body)])
            for effective in self._effective(processor, letter):
                self._tell(effective)

    def _effective(self, processor: Processor, letter: Letter) -> list[Letter]:
        """What took effect when this was delivered: behind a gate, also what waited for it."""
        if not processor.handler.ordered:
            return [letter]
        queue, subject = processor.handler.queue, letter.event.subject
        waiting = self._early[queue, subject]
        waiting[letter.event.sequence] = letter
        found = []
        while (following := waiting.get(self._reached[queue, subject] + 1)) is not None:
            self._reached[queue, subject] += 1
            found.append(following)
        return found

    def _tell(self, letter: Letter) -> None:
        if letter.event.id not in self._told:
            self._told.add(letter.event.id)
            for listen in self._listeners:
                listen(letter.event)

    def _addressed(self, letter: Letter) -> Iterator[Processor]:
        for processor in self._handlers:
            if _is_for(processor.handler.patterns, letter.event.name):
                self.ask(processor.handler.queue.split(".")[0])
                yield processor


def _is_for(patterns: Sequence[str], name: str) -> bool:
    kind = name.split(".", maxsplit=1)[0]
    return any(pattern in {"#", name, f"{kind}.*"} for pattern in patterns)
