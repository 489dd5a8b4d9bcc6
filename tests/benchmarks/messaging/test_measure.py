"""`make bench`: the message path beside the same work done by hand."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.benchmarks.messaging.measure import RESULTS
from tests.servers import Servers


@pytest.mark.benchmark
@pytest.mark.timeout(1800)
def test_measure_the_message_path(servers: Servers) -> None:
    """In a process of its own, on uvloop, as a worker runs."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.messaging.measure"],
        cwd=Path(__file__).parents[3],
        env={
            "PATH": "/usr/bin:/bin",
            "TEST_POSTGRES_URL": servers.postgres_admin_url,
            "TEST_RABBITMQ_URL": servers.rabbitmq_url,
            "TEST_REDIS_URL": servers.redis_url,
        },
        check=False,
    )

    assert done.returncode == 0
    assert RESULTS.exists()
