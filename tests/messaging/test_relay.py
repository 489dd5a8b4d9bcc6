"""The relay loses nothing, keeps each aggregate's order and shares the work among processes."""

import asyncio
import signal
import sys
from asyncio.subprocess import Process
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import httpx
import orjson
import pytest
from prometheus_client import REGISTRY
from sqlalchemy import delete, update
from starlette.applications import Starlette

from shared.clock import utc_now
from shared.db import UnitOfWork
from shared.health import health_routes
from shared.ids import new_id
from shared.messaging import replay as replays
from shared.messaging.commands import COMMANDS
from shared.messaging.relay import Relay
from shared.messaging.upkeep import Upkeep
from shared.runtime import Runtime
from tests.messaging.events import ThingChanged, ThingMade, a_change, a_making
from tests.messaging.probe import Probe, eventually, take_effect
from tests.messaging.valve import a_valve

UNSENT = "SELECT count(*) FROM {s}.outbox WHERE sent_at IS NULL"
SENT = "SELECT count(*) FROM {s}.outbox WHERE sent_at IS NOT NULL"
#: Subject, sequence and id of each message, in order.
Published = list[tuple[UUID, int, str]]


@pytest.fixture
async def published(probe: Probe) -> Published:
    """What reaches the exchange, in order: subject, sequence and id."""
    seen: Published = []
    await probe.deploy()
    queue = await probe.channel.declare_queue(exclusive=True)
    await queue.bind("billing.events", "thing.*")

    async def hear(message: Any) -> None:
        envelope = orjson.loads(message.body)
        seen.append((UUID(envelope["subject"]), envelope["sequence"], envelope["id"]))
        assert message.delivery_mode == 2

    await queue.consume(hear, no_ack=True)
    return seen


def relay_of(probe: Probe, broker_url: str | None = None, **more: Any) -> Relay:
    settings = probe.settings
    return Relay(
        probe.name,
        settings.database_url.get_secret_value(),
        broker_url or settings.broker_url.get_secret_value(),
        **more,
    )


async def all_sent(probe: Probe, published: Published | None = None) -> bool:
    """Nothing waits; and what was sent has been heard too, which is a moment later."""
    if await probe.scalar(UNSENT):
        return False
    return published is None or len({ident for *_, ident in published}) == await probe.scalar(SENT)


async def test_two_relays_share_the_work_and_keep_order(probe: Probe, published: Published) -> None:
    things = [new_id() for _ in range(40)]
    for first in range(1, 13, 3):
        await probe.emit(*(a_change(thing, first + more) for more in range(3) for thing in things))
    relays = [relay_of(probe), relay_of(probe)]
    for relay in relays:
        relay.start()

    await eventually(lambda: all_sent(probe, published))
    await eventually(lambda: _shared(relays))
    await probe.emit(*(a_change(thing, 13) for thing in things))
    await eventually(lambda: all_sent(probe, published))
    await relays[0].stop(5)  # the other takes over
    await probe.emit(*(a_change(thing, 14) for thing in things))
    await eventually(lambda: all_sent(probe, published))
    await relays[1].stop(5)

    by_thing = defaultdict(list)
    for thing, sequence, _ in published:
        by_thing[thing].append(sequence)
    assert all(by_thing[thing] == list(range(1, 15)) for thing in things)


async def _shared(relays: list[Relay]) -> bool:
    return sorted(len(relay._parts) for relay in relays) == [8, 8]


async def test_order_holds_when_one_relay_freezes_and_the_other_is_killed(
    probe: Probe, published: Published
) -> None:
    things = [new_id() for _ in range(40)]

    async def change(numbers: Sequence[int]) -> None:
        for number in numbers:
            await probe.emit(*(a_change(thing, number) for thing in things))

    async with a_process(probe) as one, a_process(probe) as other:
        await eventually(lambda: _shares(probe, [8, 8]), within=45)
        await change(range(1, 6))
        one.send_signal(signal.SIGSTOP)  # in the midst of it, as likely as not
        await change(range(6, 11))
        await eventually(
            lambda: all_sent(probe, published), within=45
        )  # its share went to the other
        one.send_signal(signal.SIGCONT)  # and it goes on with what it had in hand
        await change(range(11, 16))
        await eventually(lambda: _shares(probe, [8, 8]), within=45)
        await change(range(16, 18))
        other.kill()
        await change(range(18, 21))
        await eventually(lambda: all_sent(probe, published), within=45)

    first: defaultdict[UUID, list[int]] = defaultdict(list)
    for thing, sequence, _ in published:
        if sequence not in first[thing]:  # a repeat of an older one is legal
            first[thing].append(sequence)
    assert {thing: first[thing] for thing in things} == {
        thing: list(range(1, 21)) for thing in things
    }


@asynccontextmanager
async def a_process(probe: Probe) -> AsyncIterator[Process]:
    settings = probe.settings
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.messaging.relaying",
        probe.name,
        settings.database_url.get_secret_value(),
        settings.broker_url.get_secret_value(),
        cwd=Path(__file__).parents[2],
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def _shares(probe: Probe, expected: list[int]) -> bool:
    """How many parts each relay session owns, as the database sees it."""
    rows = await probe.rows(
        "SELECT count(*) FROM pg_locks JOIN pg_stat_activity USING (pid)"
        " WHERE locktype = 'advisory' AND mode = 'ExclusiveLock' AND granted"
        " AND application_name = 'perennial-relay-{s}' GROUP BY pid ORDER BY 1"
    )
    return [row[0] for row in rows] == expected


async def test_a_broker_that_stops_answering_is_left_and_met_again(
    probe: Probe, published: Published
) -> None:
    """As under a memory or disk alarm: the broker reads no more, and no error comes."""
    async with a_valve(probe.settings.broker_url.get_secret_value()) as valve:
        relay = relay_of(probe, valve.url, confirm_seconds=0.3)
        relay.start()
        await probe.emit(a_change())
        await eventually(lambda: all_sent(probe, published))

        valve.shut()
        await probe.emit(*(a_change() for _ in range(3)))
        await eventually(lambda: _came_again(valve.connections))
        assert await probe.scalar(UNSENT) == 3

        valve.open()
        await eventually(lambda: all_sent(probe, published))
        await relay.stop(5)
    assert len({ident for _, _, ident in published}) == 4


async def _came_again(connections: int) -> bool:
    return connections > 1


async def test_without_a_broker_the_api_is_ready_and_the_outbox_keeps_and_tells(
    probe: Probe, published: Published
) -> None:
    nowhere = Runtime(
        probe.settings.model_copy(update={"broker_url": "amqp://guest:guest@127.0.0.1:1/"}),
        probe.runtime.database,
        probe.runtime.redis,
    )
    upkeep = Upkeep(nowhere)
    relay = relay_of(probe, "amqp://guest:guest@127.0.0.1:1/")
    relay.start()
    await probe.emit(a_change(), a_change())
    async with probe.runtime.begin() as uow:  # a minute passes
        outbox = uow.platform.outbox
        await uow.session.execute(
            update(outbox).values(created_at=outbox.c.created_at - timedelta(seconds=60))
        )

    api = httpx.ASGITransport(Starlette(routes=health_routes(nowhere)))
    async with httpx.AsyncClient(transport=api, base_url="http://test") as http:
        answer = await http.get("/health/ready")
    assert (answer.status_code, answer.json()["status"]) == (200, "ready")
    await upkeep.look()
    assert gauge(probe, "outbox_unpublished") == 2
    assert 60 <= gauge(probe, "outbox_oldest_unpublished_seconds") < 120
    assert published == []

    await relay.stop(5)
    relay = relay_of(probe)
    relay.start()
    await eventually(lambda: all_sent(probe, published))
    await relay.stop(5)
    await upkeep.look()
    assert gauge(probe, "outbox_unpublished") == 0
    assert gauge(probe, "outbox_oldest_unpublished_seconds") == 0


def gauge(probe: Probe, name: str) -> float:
    value = REGISTRY.get_sample_value(name, {"service": probe.name})
    assert value is not None
    return value


async def test_a_returned_message_is_set_aside_with_its_error(
    probe: Probe, published: Published
) -> None:
    thing = new_id()
    await probe.emit(a_change(thing, 1), a_change(thing, 2), a_change(thing, 3))
    async with probe.runtime.begin() as uow:
        outbox = uow.platform.outbox
        await uow.session.execute(
            update(outbox)
            .where(outbox.c.sequence == 2)
            # Its own exchange: somebody may listen to all that goes to the events'.
            .values(exchange=f"{probe.name}.deliver", routing_key="nobody")
        )
    relay = relay_of(probe)
    relay.start()
    await eventually(lambda: _refused(probe, 1))
    await eventually(lambda: _seen(published, 2))
    await relay.stop(5)
    await Upkeep(probe.runtime).look()
    assert gauge(probe, "outbox_set_aside") == 1

    assert [sequence for _, sequence, _ in published] == [1, 3]
    ((error,),) = await probe.rows("SELECT error FROM {s}.outbox WHERE refused_at IS NOT NULL")
    assert error == "returned: NO_ROUTE"


async def test_a_refused_message_is_offered_again(probe: Probe, published: Published) -> None:
    await probe.emit(a_change())
    async with probe.runtime.begin() as uow:
        now = utc_now()
        await uow.session.execute(
            update(uow.platform.outbox).values(
                refused_at=now - timedelta(seconds=60),
                created_at=now - timedelta(seconds=90),
                error="nacked",
            )
        )
    relay = relay_of(probe)
    relay.start()
    await eventually(lambda: _seen(published, 1))
    await eventually(lambda: all_sent(probe, published))
    await relay.stop(5)


async def test_a_lost_database_connection_is_made_again(probe: Probe, published: Published) -> None:
    relay = relay_of(probe)
    relay.start()
    await probe.emit(a_change())
    await eventually(lambda: all_sent(probe, published))

    await probe.rows(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE application_name = 'perennial-relay-{s}'"
    )
    await probe.emit(a_change())
    await eventually(lambda: all_sent(probe, published))
    await relay.stop(5)

    assert len(published) == 2


class StumblingRelay(Relay):
    """Meets once what nobody foresaw; asyncpg raised this one around a lost connection."""

    has_stumbled = False

    async def _relay_batch(self, *given: Any) -> int:
        if not self.has_stumbled:
            self.has_stumbled = True
            raise asyncpg.InternalClientError("cannot switch to state 12")
        return await super()._relay_batch(*given)


async def test_an_error_that_nobody_foresaw_does_not_end_the_relay(
    probe: Probe, published: Published
) -> None:
    settings = probe.settings
    relay = StumblingRelay(
        probe.name,
        settings.database_url.get_secret_value(),
        settings.broker_url.get_secret_value(),
    )
    relay.start()
    await probe.emit(a_change())
    await eventually(lambda: all_sent(probe, published))
    await relay.stop(5)
    assert relay.has_stumbled
    assert len(published) == 1


async def test_a_broker_that_is_away_at_first_is_waited_for(
    probe: Probe, published: Published
) -> None:
    settings = probe.settings
    relay = Relay(
        probe.name, settings.database_url.get_secret_value(), "amqp://guest:guest@127.0.0.1:1/"
    )
    relay.start()
    await probe.emit(a_change())
    await asyncio.sleep(0.3)
    assert published == []
    assert not await all_sent(probe, published)

    relay._broker_url = settings.broker_url.get_secret_value()
    await eventually(lambda: _seen(published, 1))
    await relay.stop(5)


async def test_a_range_is_counted_and_sent_again(
    probe: Probe, capsys: pytest.CaptureFixture[str]
) -> None:
    @probe.consumers.handler(on=[ThingChanged, ThingMade])
    async def note(uow: UnitOfWork, event: ThingChanged) -> None:
        await take_effect(uow, event, "note")

    @probe.consumers.handler(on=[ThingChanged])
    async def forget(uow: UnitOfWork, event: ThingChanged) -> None:
        await take_effect(uow, event, "forget")

    await probe.deploy()
    thing = new_id()
    since = utc_now() - timedelta(seconds=1)
    async with probe.worker(relay=True):
        await probe.emit(a_making(thing), a_change(thing, 2), a_change(new_id(), 1))
        await eventually(lambda: _effects(probe, 5))
        # As if the database had come back from a copy that lacks the last commits.
        async with probe.runtime.begin() as uow:
            for table in ("effects", "inbox"):
                await uow.session.execute(delete(uow.platform.table(table)))

        selection = replays.Selection(
            since, utc_now(), types=["thing.changed"], consumer=f"{probe.name}.note"
        )
        async with probe.runtime.begin() as uow:
            assert await replays.count(uow, selection) == {"thing.changed": 2}
            assert await replays.replay(uow, selection) == 2
        await eventually(lambda: _effects(probe, 2))
        await eventually(probe.is_quiet)
        assert {row.note for row in await probe.effects()} == {"note"}

        code = await COMMANDS["replay"](probe.runtime, ["--since", since.isoformat()])
        assert code == 0
        assert "3 events would be sent again" in capsys.readouterr().out
        await COMMANDS["replay"](probe.runtime, ["--since", since.isoformat(), "--yes"])
        await eventually(lambda: _effects(probe, 5))
        await eventually(probe.is_quiet)

    assert len(await probe.effects()) == 5
    assert await probe.scalar("SELECT count(*) FROM {s}.audit_log") == 2


async def _refused(probe: Probe, number: int) -> bool:
    refused = "SELECT count(*) FROM {s}.outbox WHERE refused_at IS NOT NULL"
    return bool(await probe.scalar(refused) == number)


async def _seen(published: Published, number: int) -> bool:
    return len(published) >= number


async def _effects(probe: Probe, number: int) -> bool:
    return len(await probe.effects()) == number
