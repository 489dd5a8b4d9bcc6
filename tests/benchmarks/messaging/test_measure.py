"""`make bench`: the message path beside the same work done by hand."""

import subprocess
import sys

import pytest

from tests.benchmarks.report import ROOT


@pytest.mark.benchmark
@pytest.mark.timeout(1800)
def test_measure_the_message_path() -> None:
    """In a process of its own, on uvloop, as a worker runs; with durable servers of its own."""
    subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.messaging.measure"], cwd=ROOT, check=True
    )
