"""The whole system as processes, behind its gateway."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from infra.native.plan import ROOT
from infra.native.ports import Ports
from infra.native.system import System


@dataclass(frozen=True)
class WholeSystem:
    """A running Perennial: what a client needs, and where its processes write."""

    base_url: str
    mailbox: Path
    staff_email: str
    staff_password: str
    logs: Path
    system: System


@contextmanager
def a_whole_system(run_dir: Path) -> Iterator[WholeSystem]:
    """Started on ports and in a folder of its own; the data goes with it."""
    # Postgres may run as another user, who must be able to reach its folder.
    for folder in (run_dir, *run_dir.parents[:2]):
        folder.chmod(0o711)
    environment = {
        **os.environ,
        "PERENNIAL_RUN_DIR": str(run_dir),
        "PERENNIAL_GATEWAY_PORT": str(Ports().pick()),
    }
    environment.pop("PERENNIAL_MAIL_DIR", None)
    launch = [sys.executable, "-m", "infra.native"]
    started = subprocess.run(
        [*launch, "up"], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert started.returncode == 0, started.stdout + started.stderr
    try:
        system = System(run_dir, environment)
        client = system.plan.deployment.client()
        yield WholeSystem(
            base_url=client["PERENNIAL_PUBLIC_URL"],
            mailbox=Path(client["PERENNIAL_MAIL_DIR"]),
            staff_email=client["PERENNIAL_STAFF_EMAIL"],
            staff_password=client["PERENNIAL_STAFF_PASSWORD"],
            logs=run_dir / "logs",
            system=system,
        )
    finally:
        subprocess.run(
            [*launch, "reset"], cwd=ROOT, env=environment, capture_output=True, check=False
        )


def a_key(system: WholeSystem, *more: str, scopes: str = "all") -> str:
    """A secret key of the operator, as `make key` makes it."""
    program = system.system.plan.command("auth", ["key", "backend", "--scopes", scopes, *more])
    made = subprocess.run(
        program.command, env=dict(program.environment), capture_output=True, text=True, check=False
    )
    assert made.returncode == 0, made.stderr
    return made.stdout.strip()


def log_lines(logs: Path) -> Iterator[dict[str, object]]:
    """Every JSON line that a process of ours wrote."""
    for path in logs.glob("*.log"):
        for line in path.read_text(errors="replace").splitlines():
            if line.startswith("{"):
                yield json.loads(line)
