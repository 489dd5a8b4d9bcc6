"""Killed at any step, the path loses nothing and does nothing twice: each place, one by one."""

import asyncio
import os
import re
import signal
import sys
from asyncio.subprocess import Process
from pathlib import Path

import pytest

from shared.ids import new_id
from tests.messaging.crashing import add_handlers
from tests.messaging.events import a_change
from tests.messaging.probe import Probe, eventually
from tests.servers import Servers

pytestmark = pytest.mark.servers

ROOT = Path(__file__).parents[2]

#: Every place that the code names, so that a new one cannot be forgotten.
PLACES = sorted(
    {
        place
        for path in (ROOT / "shared" / "messaging").glob("*.py")
        for place in re.findall(r'crashpoint\("([a-z_.]+)"\)', path.read_text())
    }
)


def test_every_step_has_a_place_to_crash_at() -> None:
    assert len(PLACES) >= 9
    assert {place.partition(".")[0] for place in PLACES} == {"relay", "delivery"}


@pytest.mark.parametrize("place", PLACES)
async def test_a_crash_loses_nothing_and_doubles_nothing(
    place: str, probe: Probe, servers: Servers
) -> None:
    add_handlers(probe.consumers)
    await probe.deploy()
    thing = new_id()
    await probe.emit(*(a_change(thing, number, number=number) for number in range(1, 11)))

    crashed = await start(probe, servers, crash_at=place)
    assert await asyncio.wait_for(crashed.wait(), 20) == -signal.SIGKILL
    again = await start(probe, servers)
    try:
        await eventually(lambda: _all_done(probe), within=20)
    finally:
        again.terminate()
        await again.wait()

    done = sorted((row.note, row.sequence) for row in await probe.effects())
    assert done == sorted(
        (note, number)
        for note in ("stumble", "refuse", "follow")
        for number in range(1, 11)
        if (note, number) != ("refuse", 6)
    )
    followed = [row.sequence for row in await probe.effects() if row.note == "follow"]
    assert followed == list(range(1, 11))
    (letter,) = await probe.letters()
    assert (letter.consumer, letter.sequence) == (f"{probe.name}.refuse", 6)
    counted = await probe.handled()
    assert counted == {f"{probe.name}.{name}": 10 for name in ("stumble", "refuse", "follow")}


async def start(probe: Probe, servers: Servers, crash_at: str = "") -> Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.messaging.crashing",
        probe.name,
        probe.settings.database_url.get_secret_value(),
        servers.rabbitmq_url,
        servers.redis_url,
        cwd=ROOT,
        env={**os.environ, "PERENNIAL_CRASHPOINT": crash_at},
    )


async def _all_done(probe: Probe) -> bool:
    return len(await probe.effects()) == 29 and len(await probe.letters()) == 1
