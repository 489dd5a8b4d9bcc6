"""`python -m infra.launch up|down|…`: containers where a Docker daemon answers, else native.

The only place that chooses. PERENNIAL_NATIVE=1 asks for native; what already runs natively is
also stopped, looked at and used natively.
"""

import argparse
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from infra.environment import SERVICES, STAFF_EMAIL, STAFF_PASSWORD, is_production
from infra.native import ports
from infra.native.__main__ import main as native
from infra.native.__main__ import run_dir
from infra.native.processes import Failed
from infra.native.system import System

ROOT = Path(__file__).parents[1]
LINES = "50"
#: Verbs that compose has under a name of its own.
PLAIN = {"status": ["ps"], "down": ["down"], "reset": ["down", "--volumes"]}


def docker_answers() -> bool:
    """Whether a Docker daemon can be used, with compose."""
    if shutil.which("docker") is None:
        return False
    for question in (["docker", "info"], ["docker", "compose", "version"]):
        try:
            asked = subprocess.run(question, capture_output=True, timeout=15, check=False)
        except subprocess.TimeoutExpired:
            return False
        if asked.returncode != 0:
            return False
    return True


def main() -> int:
    """Hand the words to whichever of the two it is."""
    asked_for_native = os.environ.get("PERENNIAL_NATIVE", "0") not in {"", "0"}
    runs_natively = System(run_dir(), os.environ).running()
    if asked_for_native or runs_natively or not docker_answers():
        return native()
    try:
        return Compose(os.environ).do(_words())
    except Failed as failure:
        sys.stderr.write(f"{failure}\n")
        return failure.code
    except KeyboardInterrupt:
        sys.stderr.write("Interrupted.\n")
        return 130


def _words() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m infra.launch", description=__doc__)
    verbs = ("up", "down", "reset", "status", "logs", "exec", "client")
    parser.add_argument("verb", choices=verbs)
    parser.add_argument("words", nargs=argparse.REMAINDER)
    return parser.parse_args()


class Compose:
    """The system in containers, through the same verbs as natively."""

    def __init__(self, caller: Mapping[str, str]) -> None:
        self.port = caller.get("PERENNIAL_GATEWAY_PORT") or "8080"
        self.url = caller.get("PERENNIAL_PUBLIC_URL") or f"http://localhost:{self.port}"
        self.environment = {**caller, "PERENNIAL_PUBLIC_URL": self.url}
        if os.geteuid() != 0:
            # Mails are files in a folder of this user, so they are this user's.
            self.environment["PERENNIAL_USER"] = f"{os.geteuid()}:{os.getegid()}"

    def do(self, given: argparse.Namespace) -> int:
        if given.verb == "up":
            return self.up()
        if given.verb in PLAIN:
            return self._run(*PLAIN[given.verb])
        if given.verb == "logs":
            return self._become(
                ["docker", "compose", "logs", "--follow", "--tail", LINES, *given.words]
            )
        if given.verb == "exec":
            service, *words = given.words
            command = ["python", "-m", f"services.{service}", *words]
            password = self.environment.get("PERENNIAL_STAFF_PASSWORD")
            told = ["--env", f"PERENNIAL_STAFF_PASSWORD={password}"] if password else []
            return self._become(["docker", "compose", "exec", *told, f"{service}-api", *command])
        module, *words = given.words
        self.environment |= {
            "PERENNIAL_MAIL_DIR": str(ROOT / ".run" / "mailbox"),
            "PERENNIAL_STAFF_EMAIL": self.environment.get("PERENNIAL_STAFF_EMAIL", STAFF_EMAIL),
            "PERENNIAL_STAFF_PASSWORD": self.environment.get(
                "PERENNIAL_STAFF_PASSWORD", STAFF_PASSWORD
            ),
        }
        return self._become([sys.executable, "-m", module, *words])

    def up(self) -> int:
        """Build, start and wait; when that fails, say why and leave nothing of it behind."""
        began = time.monotonic()
        runs = bool(self._ask("ps", "--quiet"))
        if not runs:
            ports.require(int(self.port))
        # Docker would make it root's.
        (ROOT / ".run" / "mailbox").mkdir(parents=True, exist_ok=True, mode=0o700)
        code = self._run("up", "--detach", "--wait", "--build", "--remove-orphans", *self._scale())
        if code == 0:
            seconds = time.monotonic() - began
            print(f"Perennial runs at {self.url}  ({seconds:.1f} s)", flush=True)
            return 0
        for line in self._ask("ps", "--all", "--format", "{{.Service}} {{.ExitCode}} {{.Health}}"):
            service, code_text, *health = line.split()
            if code_text != "0" or health == ["unhealthy"]:
                print(f"{service} did not start:", flush=True)
                self._run("logs", "--no-log-prefix", "--tail", "3", service)
        if not runs:
            self._run("down")
        return 1

    def _scale(self) -> list[str]:
        words = self.environment.get("SCALE", "").replace(",", " ").split()
        scaled = ["--scale", "sandbox=0"] if is_production(self.environment) else []
        for word in words:
            name, _, count = word.partition("=")
            scaled += ["--scale", f"{name}-api={count}" if name in SERVICES else word]
        return scaled

    def _run(self, *words: str) -> int:
        command = ["docker", "compose", *words]
        return subprocess.run(command, cwd=ROOT, env=self.environment, check=False).returncode

    def _ask(self, *words: str) -> list[str]:
        asked = subprocess.run(
            ["docker", "compose", *words],
            cwd=ROOT,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        return asked.stdout.splitlines()

    def _become(self, command: Sequence[str]) -> int:
        os.chdir(ROOT)
        os.execvpe(command[0], list(command), self.environment)  # noqa: S606  (no shell is meant)


if __name__ == "__main__":
    raise SystemExit(main())
