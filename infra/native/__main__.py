"""`python -m infra.native VERB`: everything that is done without Docker; --help lists the verbs."""

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from infra.environment import SERVICES
from infra.native.plan import ROOT
from infra.native.processes import Failed
from infra.native.system import System
from infra.native.temporary import serve

LINES = "50"


def run_dir() -> Path:
    """Where everything that runs natively is kept."""
    return Path(os.environ.get("PERENNIAL_RUN_DIR") or ROOT / ".run").resolve()


def main() -> int:
    """Do what the verb says; 2 when a program is missing or the words are wrong, 1 on failure."""
    parser = argparse.ArgumentParser(prog="python -m infra.native", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("up", help="start what does not run, and wait until it is healthy")
    verbs.add_parser("down", help="stop everything; the data stays")
    verbs.add_parser("reset", help="stop everything and forget all data")
    verbs.add_parser("status", help="what runs, and whether it is healthy")
    logs = verbs.add_parser("logs", help="follow what every process says, or one of them")
    logs.add_argument("process", nargs="?", default="*")
    verbs.add_parser("install", help="install the servers' programs that are missing")
    some = verbs.add_parser("servers", help="servers for a test run, until standard input ends")
    some.add_argument("--durable", action="store_true", help="Postgres waits for the disk")
    command = verbs.add_parser("exec", help="a command of a service, with its environment")
    command.add_argument("service", choices=SERVICES)
    command.add_argument("words", nargs=argparse.REMAINDER)
    client = verbs.add_parser("client", help="a Python module, with a client's environment")
    client.add_argument("module")
    client.add_argument("words", nargs=argparse.REMAINDER)
    given = parser.parse_args()
    try:
        return _do(given)
    except Failed as failure:
        sys.stderr.write(f"{failure}\n")
        return failure.code
    except KeyboardInterrupt:
        sys.stderr.write("Interrupted.\n")
        return 130


def _do(given: argparse.Namespace) -> int:
    if given.verb == "servers":
        return serve(durable=given.durable)
    system = System(run_dir(), os.environ)
    if given.verb == "status":
        return 0 if system.status() else 1
    if given.verb in {"up", "down", "reset", "install"}:
        getattr(system, given.verb)()
        return 0
    if not system.running():
        raise Failed("Perennial does not run. Start it with: make up")
    if given.verb == "logs":
        files = sorted(system.logs.glob(f"{given.process}.log"))
        if not files:
            raise Failed(f"No process is called {given.process}; make status lists them.")
        return _become(["tail", "-n", LINES, "-F", *map(str, files)], os.environ)
    if given.verb == "exec":
        program = system.plan.command(given.service, given.words)
        return _become(program.command, program.environment)
    environment = {**os.environ, **system.plan.deployment.client()}
    return _become([sys.executable, "-m", given.module, *given.words], environment)


def _become(command: Sequence[str], environment: Mapping[str, str]) -> int:
    """In place of this process, so that signals and the exit code are the command's own."""
    os.chdir(ROOT)
    os.execvpe(command[0], list(command), dict(environment))  # noqa: S606  (no shell is meant)


if __name__ == "__main__":
    raise SystemExit(main())
