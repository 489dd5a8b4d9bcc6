"""`make bench`: a backlog collected, beside plain inserts of the same rows."""

import subprocess
import sys

import pytest


@pytest.mark.benchmark
@pytest.mark.timeout(900)
def test_measure_collecting() -> None:
    """Prints its figures, and keeps them in tests/benchmarks/results/payments.json."""
    subprocess.run([sys.executable, "-m", "tests.benchmarks.payments.measure"], check=True)
