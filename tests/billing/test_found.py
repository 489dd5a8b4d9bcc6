"""Stories that went wrong once, as short as they could be made: lives found them."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime

import pytest

from tests.billing.lives import a_deployed_world, found_in
from tests.billing.story import Act, Story
from tests.billing.world import World
from tests.servers import Servers


@pytest.fixture(scope="module")
async def world(servers: Servers) -> AsyncIterator[World]:
    async with a_deployed_world(servers) as opened:
        yield opened


def a_start(plan: str, **how: object) -> Act:
    usual = {"price": 0, "quantity": 1, "addons": {}, "coupon": None, "trial": None}
    return Act(0, "start", {**usual, "plan": plan, "calendar": False, **how})


def a_story(*acts: Act, invoicing: str = "at once") -> Story:
    begins = datetime(2020, 3, 10, 9, 30, tzinfo=UTC)
    return Story(0, begins, "DE", "UTC", 0, acts, invoicing)


def a_change(plan: str, *, price: int = 0, wait: float = 0, **how: object) -> Act:
    wanted = {"of": 0, "plan": plan, "price": price, "proration": "prorate_now", **how}
    return Act(wait, "change", wanted)


FOUND = {
    "a change that lapses takes nothing back of a draft": a_story(
        a_start("basic"),
        Act(24 * 31 + 2, "card", {"card": "waits"}),
        a_change("pro", once_paid=True),
        invoicing="drafts",
    ),
    "a change that is paid takes back what waited to be billed": a_story(
        a_start("basic"),
        a_change("seats", wait=48, quantity=5, proration="prorate_next"),
        a_change("pro", wait=48, once_paid=True),
    ),
    "the invoice of a change that lapsed is not made again": a_story(
        a_start("seats", price=1, quantity=3),
        Act(240, "card", {"card": "waits"}),
        Act(0, "change", {"of": 0, "quantity": 4, "proration": "prorate_now", "once_paid": True}),
        Act(48, "reissue", {"of": 0}),
    ),
    "a change that lapsed when its invoice was given up takes nothing back": a_story(
        a_start("basic", price=1),
        Act(384, "card", {"card": "stops"}),
        a_change("seats", price=1, wait=600, quantity=3, once_paid=True),
        Act(1, "give_up", {"of": -1}),
    ),
    "what was reduced and voided is made again as it was reduced": a_story(
        a_start("seats", price=1, quantity=3),
        Act(24 * 40, "card", {"card": "declines"}),
        a_change("pro"),
        Act(240, "cancel", {"of": 0, "when": "now", "credit": True, "refund": False}),
        Act(0, "void", {"of": -1}),
        Act(48, "reissue", {"of": -1}),
    ),
    "what ends while its invoice is void is not billed when that is made again": a_story(
        a_start("seats", price=1, quantity=3),
        Act(24 * 40, "card", {"card": "declines"}),
        a_change("pro"),
        Act(24, "void", {"of": -1}),
        Act(240, "cancel", {"of": 0, "when": "now", "credit": True, "refund": False}),
        Act(48, "reissue", {"of": -1}),
    ),
    "two changes of the rhythm in one second are both billed": a_story(
        a_start("calls"),
        a_change("basic", price=1, wait=240),
        a_change("seats", quantity=4),
        a_change("basic", price=1),
        a_change("basic", price=0, wait=480),
    ),
}


@pytest.mark.parametrize("what", FOUND)
async def test_what_was_found_stays_mended(world: World, what: str) -> None:
    found = await found_in(world, FOUND[what])

    assert found is None, f"{FOUND[what]}\n{found[0]}"
