"""Starts `faststream-outbox` for the comparison, in an environment that is made for it."""

import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

from shared.observability import logger
from tests.benchmarks.report import ROOT

log = logger(__name__)

WANTED = (
    "faststream-outbox[asyncpg]==0.18.3",
    f"faststream[rabbit]=={version('faststream')}",
    f"sqlalchemy=={version('sqlalchemy')}",
    f"asyncpg=={version('asyncpg')}",
    f"uvloop=={version('uvloop')}",
)
FOLDER = ROOT / ".run" / "benchmarks" / "faststream-outbox"
PROGRAM = Path(__file__).with_name("faststream_outbox_relay.py")
INTERVALS = {"min_fetch_interval": 0.01, "max_fetch_interval": 0.1}
#: Workers, rows fetched at once, rows deleted at once: a run compares itself with the best of them.
TRIED = [
    {"max_workers": 10, "fetch_batch_size": 500, "terminal_flush_batch_size": 100, **INTERVALS},
    {"max_workers": 20, "fetch_batch_size": 500, "terminal_flush_batch_size": 100, **INTERVALS},
    {"max_workers": 40, "fetch_batch_size": 1000, "terminal_flush_batch_size": 200, **INTERVALS},
]


def environment() -> Path | None:
    """Its Python; None, with a word, where it cannot be installed."""
    python = FOLDER / "bin" / "python"
    made = FOLDER / "made"
    if made.exists() and made.read_text() == "\n".join(WANTED):
        return python
    commands: list[list[str]] = [
        [sys.executable, "-m", "venv", "--clear", str(FOLDER)],
        [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *WANTED],
    ]
    for command in commands:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            why = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
            log.warning("faststream-outbox cannot be installed, and is left out", why=why)
            return None
    made.write_text("\n".join(WANTED))
    return python


def relay(python: Path, **given: Any) -> float:
    """Events per second, until a table of them is empty."""
    done = subprocess.run(
        [str(python), str(PROGRAM)],
        input=json.dumps(given),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError(f"faststream-outbox ended: {done.stderr.strip()[-2000:]}")
    return float(done.stdout)
