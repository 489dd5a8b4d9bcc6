"""`python -m tests.billing.lives --seeds 1-2000`: random lives against the model and the rules.

Each seed is one story (tests/billing/story.py), the same every time. Where one differs, it is lived
again without some of its acts, until none can be left out, and what is left is printed. The exit
code is 1 when something was found.
"""

import argparse
import asyncio
import sys
import time
import traceback
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import datetime
from functools import partial
from random import Random
from typing import Any

import uvloop

from shared import migrations
from shared.observability import configure_logging
from tests import servers as sources
from tests.billing.life import Differs, Life
from tests.billing.previewed import differences
from tests.billing.story import Story, calm, tell
from tests.billing.world import World, a_world
from tests.conftest import service_named
from tests.databases import fresh_database
from tests.harness import Deployment
from tests.tokens import TokenIssuer

SERVICES = ("subscriptions", "invoicing")


@asynccontextmanager
async def a_deployed_world(servers: sources.Servers) -> AsyncIterator[World]:
    """A world with a database of its own."""
    async with fresh_database(servers.postgres_admin_url) as database:
        urls = {name: database.url(name) for name in SERVICES}
        deployment = Deployment(urls, servers.rabbitmq_url, servers.redis_url)
        for name in SERVICES:
            await asyncio.to_thread(migrations.upgrade, name, urls[name])
            service = service_named(name)
            if service.after_migrate is not None:
                async with service.open(deployment.settings(service)) as runtime:
                    await service.after_migrate(runtime)
        async with a_world(deployment, TokenIssuer()) as world:
            yield world


async def found_in(
    world: World, story: Story, acts: Counter[tuple[str, str]] | None = None
) -> tuple[str, list[str]] | None:
    """What is wrong with a story's life, and its log; None where all is well.

    What became of its acts is added to `acts`.
    """
    life = Life(world, story)
    try:
        await life.live()
        await _live_otherwise(world, life, await life.told())
    except Exception as error:  # noqa: BLE001  (whatever it is, it is what was found)
        if isinstance(error, AssertionError):
            return str(error), life.log
        return "".join(traceback.format_exception(error)), life.log
    finally:
        if acts is not None:
            acts += life.acts
        await world.forget(life.account)
    return None


async def _live_otherwise(world: World, lived: Life, told: dict[str, Any]) -> None:
    """By turns: the same news in another order, the same time in small steps, and too late."""
    story = lived.story
    rng = Random(story.seed)  # noqa: S311  (chance that is repeatable)
    match story.seed % 3:
        case 0:
            life = Life(world, story, shuffle=rng)
            steps = None
        case 1:
            life = Life(world, story)
            steps = partial(_small_steps, rng)
        case _:
            await _live_late(world, calm(story))
            return
    try:
        await life.live(steps=steps)
        again = await life.told()
    finally:
        await world.forget(life.account)
    if life.in_order() != lived.in_order():
        return  # of two at one instant, whichever is billed first uses the account's credit
    different = list(differences(again, told, "books"))
    if different:
        how = "in another order" if steps is None else "in small steps"
        raise Differs("\n".join([f"other books when told {how}", *different[:20]]))


async def _live_late(world: World, story: Story) -> None:
    """As it would be, and as it is when nothing works while time passes."""
    told = []
    for late in (False, True):
        life = Life(world, story)
        try:
            await life.live(late=late)
            told.append(await life.told(dated=False))
        except AssertionError as error:
            raise Differs(f"{story}\n{'late' if late else 'in time'}: {error}") from error
        finally:
            await world.forget(life.account)
    different = list(differences(told[1], told[0], "books"))
    if different:
        raise Differs("\n".join([f"{story}\nother books when late", *different[:20]]))


def _small_steps(rng: Random, begins: datetime, ends: datetime) -> list[datetime]:
    stops = [begins + (ends - begins) * rng.random() for _ in range(rng.randrange(6))]
    return [*sorted(stops), ends]


async def shrunk(world: World, story: Story) -> Story:
    """The story without all acts that it takes not to go wrong."""
    position = len(story.acts) - 1
    while position >= 0:
        shorter = story.without({position})
        if await found_in(world, shorter) is not None:
            story = shorter
        position -= 1
    return story


async def run(seeds: Iterator[int], *, shrink: bool, most: int, acts: int | None) -> int:
    """How many of the seeds' lives go wrong."""
    with sources.servers() as servers:
        async with a_deployed_world(servers) as world:
            wrong = done = 0
            counted: Counter[tuple[str, str]] = Counter()
            began = time.monotonic()
            for seed in seeds:
                story = tell(seed, acts=acts)
                found = await found_in(world, story, counted)
                done += 1
                if found is None:
                    continue
                wrong += 1
                if shrink:
                    story = await shrunk(world, story)
                    found = await found_in(world, story) or found
                said, log = found
                _say(f"\n{'=' * 80}\n{story}\n{'-' * 80}\n" + "\n".join(log) + f"\n{said}")
                if wrong >= most:
                    break
            seconds = time.monotonic() - began
            _say_acts(counted)
            each = seconds / max(done, 1)
            _say(f"{done} lives in {seconds:.0f} s ({each:.2f} s each): {wrong} wrong")
            return wrong


def _say_acts(acts: Counter[tuple[str, str]]) -> None:
    for what in sorted({what for what, _ in acts}):
        refused = {code: n for (name, code), n in acts.items() if name == what and code}
        told = ", ".join(f"{code} {n}" for code, n in sorted(refused.items()))
        _say(f"  {what}: {acts[what, '']} done" + (f"; {told}" if told else ""))


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main() -> int:
    """Run the seeds that are asked for."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", default="1-100", help="1-2000, or one number")
    parser.add_argument("--most", type=int, default=5, help="stop after so many that go wrong")
    parser.add_argument("--acts", type=int, help="how long each story is")
    parser.add_argument("--no-shrink", action="store_true")
    asked = parser.parse_args()
    first, _, last = asked.seeds.partition("-")
    seeds = iter(range(int(first), int(last or first) + 1))
    configure_logging("tests", "test", "CRITICAL")
    running = run(seeds, shrink=not asked.no_shrink, most=asked.most, acts=asked.acts)
    return 1 if uvloop.run(running) else 0


if __name__ == "__main__":
    raise SystemExit(main())
