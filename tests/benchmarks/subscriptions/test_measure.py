"""`make bench`: renewals, usage and entitlement checks beside the plainest way to do as much."""

import subprocess
import sys

import pytest


@pytest.mark.benchmark
@pytest.mark.timeout(900)
def test_measure_subscriptions() -> None:
    """Prints its figures, and keeps them in tests/benchmarks/results/subscriptions.json."""
    subprocess.run([sys.executable, "-m", "tests.benchmarks.subscriptions.measure"], check=True)
