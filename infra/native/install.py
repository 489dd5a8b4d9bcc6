"""Finds the servers' programs on this machine, and installs Debian's packages where it may."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from infra.native.processes import Failed

FOLDERS = "/usr/sbin:/usr/local/sbin:/sbin:/usr/bin:/usr/local/bin:/bin"
#: Which Debian package has which program.
PACKAGES = {
    "postgres": "postgresql",
    "rabbitmq-server": "rabbitmq-server",
    "redis-server": "redis-server",
    "nginx": "nginx",
    # For tests alone.
    "pdftotext": "poppler-utils",
}
#: Where the output is a file, every so many lines of apt-get's are enough to see it move.
STEPS_SHOWN = 30
#: With this file, packages do not start what they bring (see invoke-rc.d(8)).
POLICY = Path("/usr/sbin/policy-rc.d")


class Missing(Failed):
    """A program is not there and cannot be installed; the text says what to install."""

    code = 2


def find(program: str) -> Path | None:
    """Where the program is. Debian keeps Postgres and RabbitMQ's own commands out of the path."""
    if program in {"postgres", "initdb"}:
        versions = Path("/usr/lib/postgresql").glob(f"*/bin/{program}")
        newest = sorted(versions, key=lambda path: _version(path.parents[1].name))
        if newest:
            return newest[-1]
    if program == "rabbitmq-server" and Path("/usr/lib/rabbitmq/bin/rabbitmq-server").exists():
        # Not the wrapper in /usr/sbin: it serves only root and the one broker of the machine.
        return Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
    if program == "epmd" and (bundled := sorted(Path("/usr/lib/erlang").glob("erts-*/bin/epmd"))):
        return bundled[-1]
    found = shutil.which(program, path=f"{os.environ.get('PATH', '')}:{FOLDERS}")
    return Path(found) if found else None


def _version(name: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", name))


def get(program: str) -> Path:
    """Where the program is, once `ensure` has seen to it."""
    found = find(program)
    if found is None:
        raise Missing(f"The program {program} is missing; install it or start Docker.")
    return found


def ensure(programs: Sequence[str], log: Path) -> None:
    """Install what is missing, or say in one sentence what to install."""
    missing = [PACKAGES[program] for program in programs if find(program) is None]
    if not missing:
        return
    names = " ".join(missing)
    how = _as_root()
    if how is None or shutil.which("apt-get") is None:
        raise Missing(
            f"Missing programs: install the packages {names}"
            f" (on Debian: sudo apt-get install {names}) or start Docker, then try again."
        )
    log.parent.mkdir(parents=True, exist_ok=True)
    print(f"Installing {names} with apt-get; this takes a minute (log: {log})", flush=True)
    held = _hold_daemons(how)
    try:
        _apt(how, ["update"], log)
        _apt(how, ["install", "--yes", "--no-install-recommends", *missing], log)
        _leave_to_us(how, missing)
    finally:
        if held:
            subprocess.run([*how, "rm", "-f", str(POLICY)], check=False)
    still = [program for program in programs if find(program) is None]
    if still:
        raise Missing(
            f"apt-get installed {names}, but {', '.join(still)} is not there (log: {log})."
        )


def _as_root() -> list[str] | None:
    """What to put before a command to run it as root; None without the right to."""
    if os.geteuid() == 0:
        return []
    if shutil.which("sudo"):
        asked = subprocess.run(["sudo", "-n", "true"], capture_output=True, check=False)
        if asked.returncode == 0:
            return ["sudo", "-n"]
    return None


def _hold_daemons(how: list[str]) -> bool:
    """Keep packages from starting their daemons; False where the machine already has a policy."""
    if POLICY.exists():
        return False
    script = f"printf '#!/bin/sh\\nexit 101\\n' > {POLICY} && chmod 755 {POLICY}"
    return subprocess.run([*how, "sh", "-c", script], check=False).returncode == 0


def _leave_to_us(how: list[str], packages: Sequence[str]) -> None:
    """What we installed is for us alone: it does not start with the machine either."""
    if shutil.which("systemctl"):
        command = [*how, "systemctl", "disable", "--quiet", *packages]
        subprocess.run(command, check=False, capture_output=True)


def _apt(how: list[str], words: list[str], log: Path) -> None:
    """Run apt-get; its own output goes to the log, and one moving line to the terminal."""
    command = [*how, "env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-q", *words]
    moving = sys.stdout.isatty()
    with (
        log.open("a") as output,
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as child,
    ):
        last, steps = "", 0
        for line in child.stdout or ():
            output.write(line)
            if line.startswith(("E:", "Err:")):
                last = line.strip()
            if line.startswith(("Get:", "Unpacking", "Setting up")):
                steps += 1
                shown = f"  {line.strip()[:76]}"
                if moving:
                    print(f"\r{shown:<78}", end="", flush=True)
                elif steps % STEPS_SHOWN == 0:
                    print(shown, flush=True)
        if moving:
            print()
    if child.returncode != 0:
        raise Missing(f"apt-get {words[0]} failed: {last or 'see the log'} (log: {log})")
