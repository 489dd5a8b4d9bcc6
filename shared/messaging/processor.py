"""What becomes of a handler's events: committed with their inbox rows, put off, or parked."""

import traceback
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar
from uuid import UUID

from prometheus_client import Counter, Histogram

from shared.clock import utc_now
from shared.context import caused_by, handling
from shared.crashpoint import crashpoint
from shared.db import UnitOfWork
from shared.errors import DomainError
from shared.events import Event
from shared.messaging import gate, inbox
from shared.messaging.consumers import Handler
from shared.messaging.dead_letters import ACTION, AGAIN, DISCARD, DeadLetter, park
from shared.messaging.envelope import Envelope, Malformed, read
from shared.messaging.outages import Patience, is_collision
from shared.messaging.publishing import Publisher
from shared.observability import logger, redact_text
from shared.runtime import Runtime

log = logger(__name__)

EVENTS = Counter("consumer_events_total", "Messages by outcome.", ["consumer", "outcome"])
OUTCOMES = ("handled", "duplicate", "stale", "early", "retried", "parked")
LAG = Histogram(
    "consumer_lag_seconds",
    "From the event to its committed effect.",
    ["consumer"],
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1, 5, 30, 120),
)

#: In place, before a message is put off: two writers met.
QUICK_TRIES = 5

T = TypeVar("T")


@dataclass(eq=False, slots=True)
class Delivery:
    """An event for one handler: from a message in hand, or back from the early table."""

    body: bytes
    found: Envelope
    #: What the handler is given; None where the event is only passed over.
    event: Event | Envelope | None
    #: As in the header of that name (dead_letters.py); None for an event's first sending.
    action: str | None = None
    is_early: bool = False

    @property
    def id(self) -> UUID:
        return self.found.id

    @property
    def is_discarded(self) -> bool:
        return self.action == DISCARD


@dataclass(eq=False)
class Processor:
    """Sees the events of one handler through.

    Effects happen once: the inbox row commits with them. A batch that fails is halved until the
    event that spoils it stands alone; that one is put off or parked, and the others are none the
    worse.
    """

    handler: Handler
    runtime: Runtime[Any, Any]
    publisher: Publisher
    delays_ms: Sequence[int]
    _committed: list[UUID] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._service = self.runtime.database.platform.schema
        self._queue = self.handler.queue
        self._inbox = inbox.Inbox(self._service, self._queue)
        self._gate = gate.Gate(self._service, self._queue)
        self._wanted = frozenset(event.name for event in self.handler.events)
        self._drained = 0
        self._counters = {name: EVENTS.labels(self._queue, name) for name in OUTCOMES}
        self._lag = LAG.labels(self._queue)

    def count(self, outcome: str, number: int = 1) -> None:
        """Messages that came to one of `OUTCOMES`."""
        if number:
            self._counters[outcome].inc(number)

    def committed(self) -> list[UUID]:
        """The ids of what took effect since this was asked last."""
        ids, self._committed = self._committed, []
        return ids

    def read(self, body: bytes, action: str | None = None, *, early: bool = False) -> Delivery:
        """What a body is for this handler. Raises `Malformed`.

        Of an event that it did not ask for only the envelope is looked at: a later release, which
        already runs beside this one, may have begun to report it.
        """
        found = read(body)
        event: Event | Envelope | None = None
        if action == DISCARD:
            pass
        elif self.handler.every:
            event = found
        elif found.type in self._wanted:
            event = found.event()
        return Delivery(body, found, event, action, early)

    async def see_through(self, deliveries: Sequence[Delivery]) -> None:
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
                await self.see_through(deliveries[:middle])
                await self.see_through(deliveries[middle:])
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
                    await self.park(delivery.body, reason, error, delivery=delivery)
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
                delivery = self.read(body, early=True)
            except Malformed as error:
                await self.park(body, "malformed", error)
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
                self.count("duplicate", len(deliveries) - len(taken))
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
        self.count("stale", len(stale))
        self.count("early", len(turn.early))
        self.count("duplicate", len(turn.stale) - len(stale))
        return due

    def _early(self, body: bytes) -> Delivery:
        return self.read(body, early=True)

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
            await self.park(
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
        self.count("retried")

    async def park(
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
            self.count("parked")

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
        """Count what took effect, and keep its ids for whoever asks."""
        if not committed:
            return
        now = utc_now().timestamp()
        for delivery in committed:
            made = delivery.id.int >> 80  # milliseconds, by RFC 9562
            self._lag.observe(max(0.0, now - made / 1000))
        self.count("handled", len(committed))
        self._committed += [one.id for one in committed]


def cause_of(error: BaseException) -> str:
    """The kind of error and where it was raised: what many letters have in common."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" in {frames[-1].name}" if frames else ""
    return f"{type(error).__name__}{place}"
