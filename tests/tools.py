"""Tools that tests run beside the project: each in a virtual environment of its own.

What such a tool needs may contradict what the project needs, or be too large to be asked of
everybody who runs it. `tests/locks/<name>.lock` pins a tool and all below it, with hashes; the
environment is made when the first test wants it, and kept for later runs under `.run/tools`.
`python -m tests.tools` makes all of them and says which could not be made.
"""

import fcntl
import hashlib
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from infra.native import install

LOCKS = Path(__file__).parent / "locks"
KEPT = Path(__file__).parents[1] / ".run" / "tools"
#: For slow networks; one that does not answer at all is given up much sooner.
INSTALL_SECONDS = 300


class CannotInstall(Exception):
    """The package index cannot be reached, or has nothing for this machine."""


def tool_environment(name: str) -> Path:
    """The folder of an environment in which the tool is installed; its Python is `bin/python`.

    The test is skipped, with the reason, where it cannot be. A package that is not the one that
    was locked is an error.
    """
    try:
        return _made(name)
    except CannotInstall as reason:
        pytest.skip(str(reason))


@cache
def program(name: str) -> Path:
    """A program that Debian has, installed where we may; else the test is skipped."""
    try:
        install.ensure([name], KEPT / "apt.log")
    except install.Missing as reason:
        pytest.skip(str(reason))
    return install.get(name)


def _made(name: str) -> Path:
    made = _make(name)
    if isinstance(made, CannotInstall):
        raise made
    return made


@cache
def _make(name: str) -> Path | CannotInstall:
    """Once in a process, also when it fails: the next test would wait in vain as well."""
    lock = LOCKS / f"{name}.lock"
    wanted = hashlib.sha256(f"{sys.version}{lock.read_text()}".encode()).hexdigest()[:16]
    folder = KEPT / f"{name}-{wanted}"
    ready = folder / "ready"
    KEPT.mkdir(parents=True, exist_ok=True)
    with (KEPT / f"{name}.making").open("w") as guard:
        # Another run may be making the same.
        fcntl.flock(guard, fcntl.LOCK_EX)
        if not ready.exists():
            try:
                _install(folder, lock)
            except CannotInstall as reason:
                return reason
            ready.touch()
    return folder


def _install(folder: Path, lock: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
    pip = [str(folder / "bin/python"), "-m", "pip", "--disable-pip-version-check", "--no-input"]
    patience = ["--retries", "1", "--timeout", "20"]
    try:
        run = subprocess.run(
            [*pip, *patience, "install", "--quiet", "--require-hashes", "--requirement", str(lock)],
            capture_output=True,
            text=True,
            timeout=INSTALL_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise CannotInstall(
            f"{lock.stem} could not be installed within {INSTALL_SECONDS} s"
        ) from None
    if "DO NOT MATCH THE HASHES" in run.stderr:
        raise RuntimeError(run.stderr)
    if run.returncode != 0:
        errors = [line for line in run.stderr.splitlines() if line.startswith("ERROR")]
        why = errors[-1] if errors else f"exit code {run.returncode}"
        raise CannotInstall(f"{lock.stem} could not be installed: {why}")


def main() -> int:
    """Make all of them; 1 when one could not be made."""
    failed = 0
    for lock in sorted(LOCKS.glob("*.lock")):
        try:
            sys.stdout.write(f"{lock.stem}: {_made(lock.stem)}\n")
        except CannotInstall as reason:
            sys.stdout.write(f"{reason}\n")
            failed = 1
    return failed


if __name__ == "__main__":
    sys.exit(main())
