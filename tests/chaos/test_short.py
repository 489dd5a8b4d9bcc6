"""A short run of the fault harness; `make chaos` makes long ones."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.servers, pytest.mark.timeout(500)]

ROOT = Path(__file__).parents[2]
#: Always the same, so that a failure is no matter of luck; `make chaos` draws others.
SHORT = {"CHAOS_SEED": "7", "CHAOS_FAULTS": "12", "CHAOS_SUBSCRIPTIONS": "24"}


def test_a_system_that_is_broken_twelve_times_loses_nothing_and_doubles_nothing() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.chaos"],
        cwd=ROOT,
        env={**os.environ, **SHORT},
        capture_output=True,
        text=True,
        check=False,
    )
    said = done.stdout.strip().splitlines()
    assert said, done.stderr[-2000:]
    report = json.loads(said[-1])
    assert report["violations"] == [], done.stderr[-4000:]
    assert report["faults"] == 12
    assert report["counts"]["subscriptions"] == 24
    assert report["drain_s"] <= 60
