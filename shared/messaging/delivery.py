"""Messages of one handler: claimed, gated, handled, committed, then acknowledged."""

import asyncio
import traceback
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar
from uuid import UUID

from aiormq.abc import DeliveredMessage
from prometheus_client import Counter, Histogram

from shared.clock import utc_now
from shared.context import caused_by, handling
from shared.crashpoint import crashpoint
from shared.db import UnitOfWork
from shared.errors import DomainError
from shared.events import Event
from shared.messaging import gate, inbox
from shared.messaging.consumers import Handler
from shared.messaging.dead_letters import ACTION, AGAIN, DISCARD, ONLY, DeadLetter, park
from shared.messaging.envelope import Envelope, Malformed, UnknownEvent, catalog_entry, read
from shared.messaging.marks import Marks
from shared.messaging.outages import Patience, is_collision
from shared.messaging.publishing import Publisher
from shared.observability import logger, redact_text
from shared.runtime import Runtime

log = logger(__name__)

EVENTS = Counter("consumer_events_total", "Messages by outcome.", ["consumer", "outcome"])
LAG = Histogram(
    "consumer_lag_seconds",
    "From the event to its committed effect.",
    ["consumer"],
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1, 5, 30, 120),
)

#: Messages that are looked at together, and share a transaction unless told otherwise. Whatever
#: waits is taken; nothing is waited for.
BATCH = 100
#: In place, before a message is put off: two writers met.
QUICK_TRIES = 5

T = TypeVar("T")


@dataclass(eq=False, slots=True)
class Delivery:
    """An event for one handler: from a message in hand, or back from the early table."""

    body: bytes
    found: Envelope
    #: None where the handler only has its cursor moved.
    event: Event | None
    #: As in the header of that name (dead_letters.py); None for an event's first sending.
    action: str | None = None
    is_early: bool = False

    @property
    def id(self) -> UUID:
        return self.found.id

    @property
    def is_discarded(self) -> bool:
        return self.action == DISCARD


@dataclass(frozen=True, slots=True)
class _Taken:
    """Messages in hand, and what is to be done of them."""

    messages: Sequence[DeliveredMessage]
    fresh: Sequence[Delivery]


@dataclass(eq=False)
class Deliveries:
    """The consumer path of one handler in one process.

    Effects happen once: the inbox row commits with them, and messages are acknowledged after.
    A batch that fails is halved until the message that spoils it stands alone; that one is put
    off or parked, and the others are none the worse.
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
    _to_mark: list[UUID] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._service = self.runtime.database.platform.schema
        self._queue = self.handler.queue
        self._inbox = inbox.Inbox(self._service, self._queue)
        self._gate = gate.Gate(self._service, self._queue)
        self._wanted = frozenset(event.name for event in self.handler.events)
        self._drained = 0
        counts = {name: EVENTS.labels(self._queue, name) for name in OUTCOMES}
        self._count = counts
        self._lag = LAG.labels(self._queue)

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
            self._queue, [one.id for one in deliveries if one is not None and one.action is None]
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
                self._count["duplicate"].inc()
            if not is_repeat or (one.action is not None and one.id in fresh):
                fresh[one.id] = one
        return list(fresh.values())

    async def _settle(self, taken: "_Taken") -> None:
        """See every message through (committed, put off or parked), then acknowledge them."""
        if taken.fresh:
            await self._see_through(taken.fresh)
            crashpoint("delivery.done_not_acknowledged")
        # They came in this order on this channel, and whatever came before them is settled.
        last = taken.messages[-1]
        await last.channel.basic_ack(last.delivery_tag or 0, multiple=True, wait=False)
        self._in_hand -= len(taken.messages)
        crashpoint("delivery.acknowledged_not_marked")

    async def _read(self, message: DeliveredMessage) -> Delivery | None:
        """What the message says; what cannot be read is parked."""
        headers = message.header.properties.headers or {}
        if headers.get(ONLY, self._queue) != self._queue:
            return None  # sent again for another handler alone
        action = headers.get(ACTION)
        try:
            return self._delivery(message.body, str(action) if action else None)
        except (Malformed, UnknownEvent) as error:
            reason = "unknown-event" if isinstance(error, UnknownEvent) else "malformed"
            await self._park(message.body, reason, error, plain(headers))
            return None

    def _delivery(self, body: bytes, action: str | None = None, *, early: bool = False) -> Delivery:
        found = read(body)
        if action == DISCARD:
            return Delivery(body, found, None, action)
        if catalog_entry(found.type) is None:
            raise UnknownEvent(f"this release knows no event {found.type}")
        wanted = not self._wanted or found.type in self._wanted
        return Delivery(body, found, found.event() if wanted else None, action, early)

    async def _see_through(self, deliveries: Sequence[Delivery]) -> None:
        """Commit them together, or find out which one spoils it."""
        if len(deliveries) == 1:
            await self._see_one_through(deliveries[0])
            return
        patience = Patience(self.runtime)
        while True:
            try:
                committed = await self._commit(deliveries)
            except Exception as error:  # noqa: BLE001  (whose fault it is shows in the halves)
                if await patience.waits_out(error):
                    continue
                log.info("A batch failed", consumer=self._queue, error=type(error).__name__)
                middle = len(deliveries) // 2
                await self._see_through(deliveries[:middle])
                await self._see_through(deliveries[middle:])
            else:
                self._finish(committed)
            return

    async def _see_one_through(self, delivery: Delivery) -> None:
        try:
            committed = await self._commit([delivery])
        except Exception as error:  # noqa: BLE001  (sorted by _attempt)
            # Early events that would follow it must not be what fails it.
            alone = self._drained > 0
            if not await self._attempt(delivery, None if alone else error):
                return
            committed = []
        self._finish(committed)
        if self.handler.ordered and not committed:
            await self._drain(delivery.found.subject)

    async def _attempt(self, delivery: Delivery, error: Exception | None) -> bool:
        """One event by itself, to its end: whether it was committed; else put off or parked.

        `error` is what the first try ended with, if there was one.
        """
        patience, quick = Patience(self.runtime), 0
        while True:
            if error is not None:
                if isinstance(error, DomainError):
                    reason = f"refused:{error.code}"
                    await self._park(delivery.body, reason, error, delivery=delivery)
                    return False
                if is_collision(error) and quick < QUICK_TRIES:
                    quick += 1
                elif not await patience.waits_out(error):
                    await self._put_off(delivery, error)
                    return False
            try:
                self._finish(await self._commit([delivery], drain=False))
            except Exception as again:  # noqa: BLE001  (sorted above)
                error = again
            else:
                return True

    async def _drain(self, aggregate_id: UUID) -> None:
        """Apply the early events that follow, each in a transaction of its own."""
        while True:
            body = await self._insist(lambda uow: self._gate.next_early(uow, aggregate_id))
            if body is None:
                return
            try:
                delivery = self._delivery(body, early=True)
            except (Malformed, UnknownEvent) as error:
                await self._park(body, "malformed", error)
                return
            if not await self._attempt(delivery, None):
                return

    async def _commit(
        self, deliveries: Sequence[Delivery], *, drain: bool = True
    ) -> list[Delivery]:
        """One transaction for all of them; returns those that took effect here."""
        self._drained = 0
        async with self.runtime.begin() as uow:
            if self.handler.ordered:
                taken = await self._take_in_order(uow, deliveries, drain=drain)
            else:
                claimed = await self._inbox.claim(uow, [one.id for one in deliveries])
                taken = [one for one in deliveries if one.id in claimed]
                self._repeats(len(deliveries) - len(taken))
                await self._handle(uow, taken)
            crashpoint("delivery.before_commit")
        crashpoint("delivery.committed_not_acknowledged")
        return taken

    async def _take_in_order(
        self, uow: UnitOfWork, deliveries: Sequence[Delivery], *, drain: bool
    ) -> list[Delivery]:
        """What is next in its aggregate's sequence; the early is kept, the stale is dropped."""
        turn = await self._gate.open(uow, deliveries, self._early if drain else None)
        self._drained = sum(one.is_early for one in turn.due)
        asked = [one.id for one in (*turn.due, *turn.stale) if not one.is_discarded]
        claimed = await self._inbox.claim(uow, asked)
        if held := turn.hold_back(claimed):
            await self._inbox.give_back(uow, [one.id for one in held if one.id in claimed])
        due = turn.due
        await self._handle(uow, [one for one in due if not one.is_discarded])
        stale = [one for one in turn.stale if one.id in claimed]
        self._note(uow, stale)
        await self._gate.close(uow, turn)
        self._count["stale"].inc(len(stale))
        self._count["early"].inc(len(turn.early))
        self._repeats(len(turn.stale) - len(stale))
        return due

    def _early(self, body: bytes) -> Delivery:
        return self._delivery(body, early=True)

    async def _handle(self, uow: UnitOfWork, deliveries: Sequence[Delivery]) -> None:
        handler = self.handler
        acted_on = [one for one in deliveries if one.event is not None]
        if handler.prepare and acted_on:
            await handler.prepare(uow, [one.event for one in acted_on])
        if handler.batch and acted_on:
            with caused_by(handling(acted_on[0].found.cause, str(acted_on[0].id))):
                await handler.handle(uow, [one.event for one in acted_on])
        elif not handler.batch:
            unflushed: set[UUID] = set()
            for one in acted_on:
                # What this account's events have made so far has to be found, and queries do not
                # flush; nothing reaches over accounts, so that a run over many is stored at once.
                if one.found.account_id in unflushed:
                    await uow.session.flush()
                    unflushed.clear()
                unflushed.add(one.found.account_id)
                with caused_by(handling(one.found.cause, str(one.id))):
                    await handler.handle(uow, one.event)
        self._note(uow, deliveries)

    def _note(self, uow: UnitOfWork, deliveries: Sequence[Delivery]) -> None:
        for one in deliveries:
            if one.action in {None, AGAIN}:  # a replayed one was noted when it was parked
                uow.handled(self._queue, one.found.type, one.found.account_id)

    def _repeats(self, number: int) -> None:
        if number:
            self._count["duplicate"].inc(number)

    async def _put_off(self, delivery: Delivery, error: Exception) -> None:
        """Have it come back later, or park it when it came often enough."""
        counted = await self._insist(lambda uow: self._inbox.count_attempt(uow, delivery.id))
        if counted is None:  # another worker has done it meanwhile
            return
        attempts, first_failed_at = counted
        log.warning(
            "A handler failed",
            consumer=self._queue,
            event_id=str(delivery.id),
            attempts=attempts,
            error=f"{type(error).__name__}: {error}",
        )
        crashpoint("delivery.counted_not_put_off")
        if attempts > len(self.delays_ms):
            await self._park(
                delivery.body,
                f"failed:{type(error).__name__}",
                error,
                delivery=delivery,
                attempts=attempts,
                first_failed_at=first_failed_at,
            )
            return
        await self.publisher.publish(
            f"{self._service}.retry.{self.delays_ms[attempts - 1]}",
            self._queue,
            delivery.body,
            headers={ACTION: delivery.action} if delivery.action else None,
        )
        crashpoint("delivery.put_off_not_acknowledged")
        self._count["retried"].inc()

    async def _park(
        self,
        body: bytes,
        reason: str,
        error: BaseException,
        headers: dict[str, Any] | None = None,
        *,
        delivery: Delivery | None = None,
        attempts: int = 1,
        first_failed_at: Any = None,
    ) -> None:
        """Give it up until a person decides; the inbox then holds it off like one that is done."""
        letter = DeadLetter.of(
            self._queue,
            body,
            headers=headers or ({ACTION: delivery.action} if delivery and delivery.action else {}),
            reason=reason,
            cause=cause_of(error),
            error=redact_text(f"{type(error).__name__}: {error}"),
            traceback=redact_text("".join(traceback.format_exception(error))),
            attempts=attempts,
            first_failed_at=first_failed_at,
        )

        async def store(uow: UnitOfWork) -> bool:
            is_parked = await park(uow, letter)
            if is_parked and delivery is not None:
                self._note(uow, [delivery])
                if self.handler.ordered:
                    await self._gate.drop(uow, delivery.found.subject, delivery.found.sequence)
            return is_parked

        if await self._insist(store):
            crashpoint("delivery.parked_not_acknowledged")
            log.error(
                "A message was parked",
                consumer=self._queue,
                event_id=str(letter.event_id),
                reason=reason,
            )
            self._count["parked"].inc()

    async def _insist(self, work: Callable[[UnitOfWork], Awaitable[T]]) -> T:
        """A transaction of our own, tried until the database takes it."""
        patience = Patience(self.runtime)
        while True:
            try:
                async with self.runtime.begin() as uow:
                    return await work(uow)
            except Exception as error:
                if not await patience.waits_out(error) and not is_collision(error):
                    raise

    def _finish(self, committed: Sequence[Delivery]) -> None:
        """Count what took effect, and have Redis remember it; losing that only repeats a look."""
        if not committed:
            return
        now = utc_now().timestamp()
        for delivery in committed:
            made = delivery.id.int >> 80  # milliseconds, by RFC 9562
            self._lag.observe(max(0.0, now - made / 1000))
        self._count["handled"].inc(len(committed))
        self._to_mark += [one.id for one in committed]

    def _have_them_remembered(self) -> None:
        """Beside the next batches: nothing waits for what Redis remembers."""
        if self._to_mark and (self._marking is None or self._marking.done()):
            self._marking = asyncio.create_task(self._mark())

    async def _mark(self) -> None:
        while self._to_mark:
            ids, self._to_mark = self._to_mark, []
            await self.marks.remember(self._queue, ids)


OUTCOMES = ("handled", "duplicate", "stale", "early", "retried", "parked")


def cause_of(error: BaseException) -> str:
    """The kind of error and where it was raised: what many letters have in common."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" in {frames[-1].name}" if frames else ""
    return f"{type(error).__name__}{place}"


def plain(headers: Any) -> dict[str, Any]:
    """A message's headers as JSON can hold them."""
    return {str(key): _json(value) for key, value in (headers or {}).items()}


def _json(value: Any) -> Any:
    if isinstance(value, dict):
        return plain(value)
    if isinstance(value, list | tuple):
        return [_json(inner) for inner in value]
    return value if isinstance(value, str | int | float | bool | None) else str(value)
