"""Effects happen once, in order where that was asked for, whatever the broker and Redis do."""

import asyncio
import random
from collections.abc import Sequence
from typing import Any
from uuid import UUID

import orjson
import pytest
from redis.asyncio import Redis
from sqlalchemy import text

from shared.db import UnitOfWork
from shared.errors import Conflict
from shared.ids import new_id
from shared.locks import connect
from shared.messaging.envelope import Envelope
from shared.runtime import Runtime
from tests.messaging.events import (
    ThingChanged,
    ThingEvent,
    ThingNoticed,
    a_change,
    a_making,
    a_notice,
)
from tests.messaging.probe import Probe, body_of, eventually, take_effect, unheard_of


def add_plain(probe: Probe) -> str:
    """A handler that is commutative."""

    @probe.consumers.handler(on=[ThingChanged])
    async def note(uow: UnitOfWork, event: ThingChanged) -> None:
        await take_effect(uow, event)
        uow.emit(a_notice(event))

    return f"{probe.name}.note"


def add_ordered(probe: Probe, troubles: dict[int, Exception] | None = None) -> str:
    """A handler of changes that needs order; events with a number in `troubles` fail."""

    @probe.consumers.handler(on=[ThingChanged], ordered="thing")
    async def follow(uow: UnitOfWork, event: ThingChanged) -> None:
        if trouble := (troubles or {}).get(event.number):
            raise trouble
        await take_effect(uow, event)

    return f"{probe.name}.follow"


async def test_repeats_have_no_second_effect(probe: Probe) -> None:
    queue = add_plain(probe)
    await probe.deploy()
    events = [a_change() for _ in range(30)]

    async with probe.worker():
        await probe.deliver(*events, *events)
        await eventually(probe.is_quiet_but_outbox)
        await probe.runtime.redis.flushdb()
        await probe.deliver(*events)
        await eventually(probe.is_quiet_but_outbox)

    assert sorted(row.event_id for row in await probe.effects()) == [one.id for one in events]
    assert await probe.scalar("SELECT count(*) FROM {s}.outbox") == 30
    assert await probe.handled() == {queue: 30}


async def test_without_redis_everything_works(probe: Probe) -> None:
    add_plain(probe)
    await probe.deploy()
    gone = Runtime(
        probe.runtime.settings,
        probe.runtime.database,
        connect("redis://127.0.0.1:1/0"),
        probe.runtime.verifier,
    )
    events = [a_change() for _ in range(20)]

    async with probe.worker(runtime=gone):
        await probe.deliver(*events, *events)
        await eventually(probe.is_quiet_but_outbox)

    await gone.redis.aclose()
    assert len(await probe.effects()) == 20


async def test_what_redis_remembers_saves_the_work(probe: Probe) -> None:
    queue = add_plain(probe)
    await probe.deploy()
    event = a_change()
    await probe.runtime.redis.set(f"inbox:{queue}:{event.id.hex}", "done", ex=60)

    async with probe.worker():
        await probe.deliver(event)
        await eventually(probe.is_quiet_but_outbox)

    assert await probe.effects() == []


async def test_a_claim_in_redis_does_not_make_a_redelivery_look_done(probe: Probe) -> None:
    queue = add_plain(probe)
    await probe.deploy()
    event = a_change()
    await probe.runtime.redis.set(f"inbox:{queue}:{event.id.hex}", "in progress", ex=60)

    async with probe.worker():
        await probe.deliver(event)
        await eventually(probe.is_quiet_but_outbox)

    assert [row.event_id for row in await probe.effects()] == [event.id]


async def test_events_out_of_order_take_effect_in_order(probe: Probe) -> None:
    queue = add_ordered(probe)
    await probe.deploy()
    things = [new_id() for _ in range(10)]
    events: list[ThingEvent] = [
        a_making(thing) if sequence == 1 else a_change(thing, sequence)
        for thing in things
        for sequence in range(1, 11)
    ]
    shuffled = events * 2
    random.Random(4).shuffle(shuffled)  # noqa: S311

    async with probe.worker(), probe.worker():
        await probe.deliver(*shuffled)
        await eventually(probe.is_quiet_but_outbox)

    for thing in things:
        seen = [row.sequence for row in await probe.effects() if row.thing_id == thing]
        assert seen == list(range(2, 11))  # the first is of a kind that the handler ignores
    assert await probe.scalar("SELECT count(*) FROM {s}.early_events") == 0
    assert await probe.handled() == {queue: 100}


async def test_an_early_event_waits_for_the_one_before_it(probe: Probe) -> None:
    add_ordered(probe)
    await probe.deploy()
    thing = new_id()

    async with probe.worker():
        await probe.deliver(a_change(thing, 3), a_change(thing, 2))
        await eventually(probe.is_quiet_but_outbox)
        assert await probe.effects() == []
        assert await probe.handled() == {}

        await probe.deliver(a_making(thing))
        await eventually(probe.is_quiet_but_outbox)

    assert [row.sequence for row in await probe.effects()] == [2, 3]


async def test_a_poison_message_spoils_none_beside_it(probe: Probe) -> None:
    poison = a_change(number=13)

    @probe.consumers.handler(on=[ThingChanged])
    async def note(uow: UnitOfWork, event: ThingChanged) -> None:
        await take_effect(uow, event)
        if event.number == 13:
            raise ValueError("postgresql://someone:secret@host/db is not the way")

    await probe.deploy()
    events = [a_change() for _ in range(60)]
    await probe.deliver(*events[:30], poison, *events[30:])

    async with probe.worker():
        await eventually(lambda: _has_letters(probe, 1))
        await eventually(probe.is_quiet_but_outbox)

    assert {row.event_id for row in await probe.effects()} == {one.id for one in events}
    (letter,) = await probe.letters()
    assert letter.event_id == poison.id
    assert letter.attempts == 3  # at once, and after each of the two delays
    assert letter.reason == "failed:ValueError"
    assert letter.cause == "ValueError in note"
    assert "secret" not in letter.error + letter.traceback
    assert "in note" in letter.traceback
    assert letter.first_failed_at < letter.last_failed_at


async def test_a_failure_that_passes_is_retried_until_it_has(probe: Probe) -> None:
    tries = []

    @probe.consumers.handler(on=[ThingChanged])
    async def note(uow: UnitOfWork, event: ThingChanged) -> None:
        tries.append(asyncio.get_running_loop().time())
        if len(tries) < 3:
            raise ValueError("not yet")
        await take_effect(uow, event)

    await probe.deploy()
    async with probe.worker():
        await probe.deliver(a_change())
        await eventually(lambda: _has_effects(probe, 1))

    first, second, third = tries
    assert second - first >= 0.02
    assert third - second >= 0.04
    assert await probe.letters() == []


async def test_a_refusal_is_parked_at_once(probe: Probe) -> None:
    @probe.consumers.handler(on=[ThingChanged])
    async def note(_uow: UnitOfWork, _event: ThingChanged) -> None:
        raise Conflict("not this thing")

    await probe.deploy()
    event = a_change()
    async with probe.worker():
        await probe.deliver(event, event)
        await eventually(lambda: _has_letters(probe, 1))
        await probe.deliver(event)
        await eventually(probe.is_quiet_but_outbox)

    (letter,) = await probe.letters()
    assert (letter.reason, letter.attempts, letter.status) == ("refused:conflict", 1, "parked")


async def test_what_cannot_be_read_is_parked(probe: Probe) -> None:
    queue = add_plain(probe)
    await probe.deploy()
    broken = body_of(a_change()).replace(b'"number":0', b'"number":"many"')
    shapeless = orjson.dumps({**orjson.loads(body_of(a_change())), "data": ["no", "names"]})

    async with probe.worker():
        for body in (b"not JSON", broken, shapeless):
            await probe.deliver_raw(body, "thing.changed", queue)
        await eventually(lambda: _has_letters(probe, 3))

    assert [letter.reason for letter in await probe.letters()] == ["malformed"] * 3
    assert await probe.effects() == []


async def test_an_event_of_an_unknown_type_is_passed_over_by_who_did_not_ask_for_it(
    probe: Probe,
) -> None:
    queue = add_plain(probe)
    await probe.deploy()
    body, name = unheard_of(a_change())

    async with probe.worker():
        await probe.deliver_raw(body, name, queue)
        await probe.deliver_raw(body, name, queue)
        await probe.deliver(a_change())
        await eventually(lambda: _has_effects(probe, 1))
        await eventually(probe.is_quiet_but_outbox)

    assert await probe.letters() == []
    assert await probe.scalar("SELECT count(processed_at) FROM {s}.inbox") == 2
    assert await probe.handled() == {queue: 2}  # once, for the test clock that waits for it


@pytest.mark.parametrize("turned", [False, True], ids=["in order", "the other way round"])
async def test_an_event_of_an_unknown_type_holds_up_no_aggregate(
    probe: Probe, turned: bool
) -> None:
    queue = add_ordered(probe)
    await probe.deploy()
    thing = new_id()
    bodies = [
        (body_of(a_change(thing, 1)), "thing.changed"),
        unheard_of(a_change(thing, 2)),
        unheard_of(a_change(thing, 3)),
        (body_of(a_change(thing, 4)), "thing.changed"),
    ]

    async with probe.worker():
        for body, name in reversed(bodies) if turned else bodies:
            await probe.deliver_raw(body, name)
        await eventually(lambda: _has_effects(probe, 2))
        await eventually(probe.is_quiet_but_outbox)

    assert [row.sequence for row in await probe.effects()] == [1, 4]
    assert await probe.letters() == []
    assert await probe.scalar("SELECT last_sequence FROM {s}.cursors") == 4
    assert await probe.scalar("SELECT count(*) FROM {s}.early_events") == 0
    assert await probe.handled() == {queue: 4}


async def test_who_takes_every_event_takes_those_of_unknown_types_too(probe: Probe) -> None:
    taken: list[Envelope] = []

    @probe.consumers.handler(every=True)
    async def keep(_uow: UnitOfWork, event: Envelope) -> None:
        taken.append(event)

    await probe.deploy()
    known, other = a_change(number=5), a_change(number=6)
    body, name = unheard_of(other)

    async with probe.worker():
        await probe.deliver(known)
        await probe.deliver_raw(body, name)
        await eventually(probe.is_quiet_but_outbox)

    of_known, of_other = sorted(taken, key=lambda one: one.id)
    assert of_known.type == "thing.changed"
    assert of_known.event() == known
    assert (of_other.type, of_other.id, of_other.subject) == (name, other.id, other.thing_id)
    assert (of_other.account_id, of_other.sequence) == (other.account_id, other.sequence)
    assert of_other.occurred_at == other.occurred_at
    assert of_other.data["number"] == 6
    assert of_other.data["news"] == {"of": ["the next release"]}
    assert await probe.letters() == []
    assert await probe.handled() == {f"{probe.name}.keep": 2}


async def test_a_batch_is_prepared_for_what_it_is_given(probe: Probe) -> None:
    """What is passed over is in the transaction, and not among its events."""
    prepared: list[UUID] = []

    async def prepare(_uow: UnitOfWork, events: Sequence[ThingChanged]) -> None:
        prepared.extend(event.id for event in events)

    @probe.consumers.handler(on=[ThingChanged], batch=True, prepare=prepare)
    async def note(uow: UnitOfWork, events: list[ThingChanged]) -> None:
        for event in events:
            await take_effect(uow, event)

    await probe.deploy()
    events = [a_change() for _ in range(10)]
    for event in events:
        body, name = unheard_of(a_change())
        await probe.deliver_raw(body, name, f"{probe.name}.note")
        await probe.deliver(event)
    async with probe.worker():
        await eventually(lambda: _has_effects(probe, 10))
        await eventually(probe.is_quiet_but_outbox)

    assert prepared == [event.id for event in events]
    assert await probe.scalar("SELECT count(processed_at) FROM {s}.inbox") == 20


async def test_unknown_fields_are_passed_over(probe: Probe) -> None:
    queue = add_plain(probe)
    await probe.deploy()
    body = body_of(a_change()).replace(b'"number":0', b'"number":0,"later":{"a":1}')
    body = body.replace(b'"specversion"', b'"extension":"x","specversion"')

    async with probe.worker():
        await probe.deliver_raw(body, "thing.changed", queue)
        await eventually(lambda: _has_effects(probe, 1))


async def test_an_event_is_not_blamed_for_the_early_one_behind_it(probe: Probe) -> None:
    add_ordered(probe, {13: ValueError("bad luck")})
    await probe.deploy()
    thing = new_id()

    async with probe.worker():
        await probe.deliver(a_change(thing, 2, number=13), a_change(thing, 3))
        await eventually(probe.is_quiet_but_outbox)
        await probe.deliver(a_change(thing, 1))
        await eventually(lambda: _has_letters(probe, 1))
        await eventually(probe.is_quiet_but_outbox)

    assert [row.sequence for row in await probe.effects()] == [1]
    (letter,) = await probe.letters()
    assert (letter.sequence, letter.attempts) == (2, 3)
    assert await probe.scalar("SELECT sequence FROM {s}.early_events") == 3


async def test_a_batch_handler_gets_what_is_taken_together(probe: Probe) -> None:
    sizes = []

    @probe.consumers.handler(on=[ThingChanged], batch=True)
    async def note(uow: UnitOfWork, events: list[ThingChanged]) -> None:
        sizes.append(len(events))
        for event in events:
            await take_effect(uow, event)

    await probe.deploy()
    await probe.deliver(*(a_change() for _ in range(150)))
    async with probe.worker():
        await eventually(lambda: _has_effects(probe, 150))

    assert max(sizes) > 10
    assert sum(sizes) == 150


async def test_a_lost_database_is_nobodys_fault(probe: Probe) -> None:
    tries = []

    @probe.consumers.handler(on=[ThingChanged])
    async def note(uow: UnitOfWork, event: ThingChanged) -> None:
        tries.append(event)
        if len(tries) == 1:
            await uow.session.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))
        await take_effect(uow, event)

    await probe.deploy()
    async with probe.worker():
        await probe.deliver(a_change())
        await eventually(lambda: _has_effects(probe, 1))

    assert await probe.scalar("SELECT sum(attempts) FROM {s}.inbox") == 0
    assert await probe.letters() == []


async def test_a_lost_connection_to_the_broker_is_made_again(probe: Probe) -> None:
    add_plain(probe)
    await probe.deploy()

    async with probe.worker() as worker:
        await probe.deliver(a_change())
        await eventually(lambda: _has_effects(probe, 1))
        session: Any = worker._session
        await session._connection.close()
        await probe.deliver(a_change())
        await eventually(lambda: _has_effects(probe, 2))
        await worker.check()


class Inattentive(Redis):
    """Loses the first cancellation, as `asyncio.wait_for` does that has its result already."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.asked, self.lost = asyncio.Event(), asyncio.Event()

    async def execute_command(self, *command: Any, **options: Any) -> Any:
        if not self.asked.is_set():
            self.asked.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                self.lost.set()
        return await super().execute_command(*command, **options)  # type: ignore[no-untyped-call]


async def test_a_handler_that_does_not_hear_that_it_ends_is_told_again(probe: Probe) -> None:
    add_plain(probe)

    @probe.consumers.handler(on=[ThingNoticed])
    async def other(uow: UnitOfWork, event: ThingNoticed) -> None:
        await take_effect(uow, event)

    await probe.deploy()
    redis = Inattentive.from_url(probe.settings.redis_url.get_secret_value())
    assert isinstance(redis, Inattentive)
    runtime = Runtime(probe.settings, probe.runtime.database, redis, probe.runtime.verifier)
    async with probe.worker(runtime=runtime) as worker:
        await probe.deliver(a_change())
        await redis.asked.wait()
        # All handlers of a process begin anew when one lost its queue.
        await probe.channel.queue_delete(f"{probe.name}.other")
        await redis.lost.wait()
        await probe.deploy()

        async def is_attached() -> bool:
            try:
                await worker.check()
            except ConnectionError:
                return False
            return True

        await eventually(is_attached)
        await probe.deliver(a_change())
        await eventually(lambda: _has_effects(probe, 2))
    await redis.aclose()


async def test_stopping_finishes_what_is_in_hand_and_gives_the_rest_back(probe: Probe) -> None:
    started = asyncio.Event()

    @probe.consumers.handler(on=[ThingChanged])
    async def note(uow: UnitOfWork, event: ThingChanged) -> None:
        started.set()
        await asyncio.sleep(0.1)
        await take_effect(uow, event)

    await probe.deploy()
    await probe.deliver(*(a_change() for _ in range(10)))
    async with probe.worker(batch=2):
        await started.wait()
    assert 0 < len(await probe.effects()) <= 2  # what was in hand, and no batch after it

    async with probe.worker():
        await eventually(lambda: _has_effects(probe, 10))


async def test_effects_carry_their_cause(probe: Probe) -> None:
    add_plain(probe)

    @probe.consumers.handler(on=[ThingNoticed])
    async def hear(uow: UnitOfWork, event: ThingNoticed) -> None:
        await take_effect(uow, event, "heard")

    await probe.deploy()
    event = a_change()
    async with probe.worker(relay=True):
        await probe.emit(event)
        await eventually(lambda: _has_effects(probe, 2))

    bodies = [row[0] for row in await probe.rows("SELECT body FROM {s}.outbox ORDER BY position")]
    first, second = [_envelope(bytes(body)) for body in bodies]
    assert second["causationid"] == first["id"] == str(event.id)
    assert second["correlationid"] == first["correlationid"]
    assert second["traceparent"].split("-")[1] == first["traceparent"].split("-")[1]
    assert second["traceparent"] != first["traceparent"]


async def test_a_worker_without_topology_says_so(probe: Probe) -> None:
    add_plain(probe)

    with pytest.raises(OSError, match="run its migrate first"):
        async with probe.worker():
            pass


def _envelope(body: bytes) -> dict[str, Any]:
    found: dict[str, Any] = orjson.loads(body)
    return found


async def _has_letters(probe: Probe, number: int) -> bool:
    return len(await probe.letters()) == number


async def _has_effects(probe: Probe, number: int) -> bool:
    return len(await probe.effects()) == number
