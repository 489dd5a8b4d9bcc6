"""The relay loses nothing, keeps each aggregate's order and shares the work among processes."""

import asyncio
from collections import defaultdict
from datetime import timedelta
from typing import Any
from uuid import UUID

import orjson
import pytest
from sqlalchemy import delete, text, update

from shared.clock import utc_now
from shared.db import UnitOfWork
from shared.ids import new_id
from shared.messaging import replay as replays
from shared.messaging.commands import COMMANDS
from shared.messaging.partitions import keep_partitions
from shared.messaging.relay import Relay
from tests.messaging.events import ThingChanged, ThingMade, a_change, a_making
from tests.messaging.probe import Probe, eventually, take_effect

pytestmark = pytest.mark.servers

UNSENT = "SELECT count(*) FROM {s}.outbox WHERE sent_at IS NULL"


@pytest.fixture
async def published(probe: Probe) -> list[tuple[UUID, int, str]]:
    """What reaches the exchange, in order: subject, sequence and id."""
    seen: list[tuple[UUID, int, str]] = []
    await probe.deploy()
    queue = await probe.channel.declare_queue(exclusive=True)
    await queue.bind("billing.events", "thing.*")

    async def hear(message: Any) -> None:
        envelope = orjson.loads(message.body)
        seen.append((UUID(envelope["subject"]), envelope["sequence"], envelope["id"]))
        assert message.delivery_mode == 2

    await queue.consume(hear, no_ack=True)
    return seen


def relay_of(probe: Probe) -> Relay:
    settings = probe.settings
    return Relay(
        probe.name,
        settings.database_url.get_secret_value(),
        settings.broker_url.get_secret_value(),
    )


async def all_sent(probe: Probe) -> bool:
    return bool(await probe.scalar(UNSENT) == 0)


async def test_two_relays_share_the_work_and_keep_order(
    probe: Probe, published: list[tuple[UUID, int, str]]
) -> None:
    things = [new_id() for _ in range(40)]
    for first in range(1, 13, 3):
        await probe.emit(*(a_change(thing, first + more) for more in range(3) for thing in things))
    relays = [relay_of(probe), relay_of(probe)]
    for relay in relays:
        relay.start()

    await eventually(lambda: all_sent(probe))
    await eventually(lambda: _shared(relays))
    await probe.emit(*(a_change(thing, 13) for thing in things))
    await eventually(lambda: all_sent(probe))
    await relays[0].stop(5)  # the other takes over
    await probe.emit(*(a_change(thing, 14) for thing in things))
    await eventually(lambda: all_sent(probe))
    await relays[1].stop(5)

    by_thing = defaultdict(list)
    for thing, sequence, _ in published:
        by_thing[thing].append(sequence)
    assert all(by_thing[thing] == list(range(1, 15)) for thing in things)


async def _shared(relays: list[Relay]) -> bool:
    return sorted(len(relay._parts) for relay in relays) == [8, 8]


async def test_a_returned_message_is_set_aside_with_its_error(
    probe: Probe, published: list[tuple[UUID, int, str]]
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

    assert [sequence for _, sequence, _ in published] == [1, 3]
    ((error,),) = await probe.rows("SELECT error FROM {s}.outbox WHERE refused_at IS NOT NULL")
    assert error == "returned: NO_ROUTE"


async def test_a_refused_message_is_offered_again(
    probe: Probe, published: list[tuple[UUID, int, str]]
) -> None:
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
    await eventually(lambda: all_sent(probe))
    await relay.stop(5)


async def test_a_lost_database_connection_is_made_again(
    probe: Probe, published: list[tuple[UUID, int, str]]
) -> None:
    relay = relay_of(probe)
    relay.start()
    await probe.emit(a_change())
    await eventually(lambda: all_sent(probe))

    await probe.rows(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE application_name = 'perennial-relay-{s}'"
    )
    await probe.emit(a_change())
    await eventually(lambda: all_sent(probe))
    await relay.stop(5)

    assert len(published) == 2


async def test_a_broker_that_is_away_at_first_is_waited_for(
    probe: Probe, published: list[tuple[UUID, int, str]]
) -> None:
    settings = probe.settings
    relay = Relay(
        probe.name, settings.database_url.get_secret_value(), "amqp://guest:guest@127.0.0.1:1/"
    )
    relay.start()
    await probe.emit(a_change())
    await asyncio.sleep(0.3)
    assert published == []
    assert not await all_sent(probe)

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


async def test_partitions_are_made_ahead_and_dropped_when_old(probe: Probe) -> None:
    await probe.emit(a_change())
    await keep_partitions(probe.runtime)
    async with probe.runtime.begin() as uow:
        for table in ("outbox", "inbox"):
            await uow.session.execute(
                text(
                    f"CREATE TABLE {probe.name}.{table}_20200101"
                    f" PARTITION OF {probe.name}.{table}"
                    " FOR VALUES FROM ('016f5e66-e800-7000-8000-000000000000')"
                    " TO ('016f638d-4400-7000-8000-000000000000')"
                )
            )
    await keep_partitions(probe.runtime)

    names = {
        row[0]
        for row in await probe.rows(
            "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = '{s}.outbox'"
            "::regclass"
        )
    }
    today = f"{probe.name}.outbox_{utc_now():%Y%m%d}"
    assert today in names
    assert f"{probe.name}.outbox_20200101" not in names
    assert len(names) == 5  # today, three days ahead, and the default one
    assert await probe.scalar("SELECT count(*) FROM {s}.outbox") == 1


async def _refused(probe: Probe, number: int) -> bool:
    refused = "SELECT count(*) FROM {s}.outbox WHERE refused_at IS NOT NULL"
    return bool(await probe.scalar(refused) == number)


async def _seen(published: list[tuple[UUID, int, str]], number: int) -> bool:
    return len(published) >= number


async def _effects(probe: Probe, number: int) -> bool:
    return len(await probe.effects()) == number
