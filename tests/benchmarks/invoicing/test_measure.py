"""`make bench` measures invoicing too."""

import pytest

from tests.benchmarks.invoicing.measure import main


@pytest.mark.benchmark
@pytest.mark.timeout(1800)
async def test_measure() -> None:
    assert await main([]) == 0
