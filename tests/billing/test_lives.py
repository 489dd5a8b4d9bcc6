"""Random lives of whole accounts, over subscriptions and invoicing together, beside the model.

The same lives, by the thousand: `python -m tests.billing.lives --seeds 1-2000`.
"""

from collections.abc import AsyncIterator

import pytest

from tests.billing.lives import a_deployed_world, found_in
from tests.billing.story import tell
from tests.billing.world import World
from tests.servers import Servers


@pytest.fixture(scope="module")
async def world(servers: Servers) -> AsyncIterator[World]:
    """With a database of its own: nobody else's workers may touch what lives in it."""
    async with a_deployed_world(servers) as opened:
        yield opened


@pytest.mark.parametrize("seed", range(1, 19))
async def test_a_life_is_billed_as_the_model_says(world: World, seed: int) -> None:
    """By turns also told in another order, and in small steps."""
    story = tell(seed, acts=10)
    found = await found_in(world, story)

    assert found is None, f"{story}\n{found[0]}"
