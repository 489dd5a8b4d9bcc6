"""One run: a system of its own, customers, faults, then silence, then the checks."""

import asyncio
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg

from tests.chaos.checker import Checker
from tests.chaos.history import History
from tests.chaos.nemesis import Nemesis
from tests.chaos.topology import Topology, facts
from tests.chaos.workload import Workload

#: The promise: after the last fault the system comes to rest by itself within this.
DRAIN_SECONDS = 60
#: How long a run goes on watching a system that breaks it, to tell late from never.
WATCH_SECONDS = 30
#: With a defect planted, what is not at rest by then will never be.
PLANTED_SECONDS = 25.0


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What decides a run."""

    seed: int
    faults: int
    subscriptions: int
    only: tuple[str, ...] = ()
    #: A defect to plant (tests/chaos/planted.py).
    defect: str | None = None
    #: Leave servers' data and logs behind when something was found.
    keep: bool = True


def run(wanted: Wanted, tell: Callable[[str], None]) -> dict[str, Any]:
    """Do it and report: one object that fits a line."""
    # The launcher tells its progress to standard output, which is for the report alone.
    with redirect_stdout(sys.stderr):
        return _run(wanted, tell)


def _run(wanted: Wanted, tell: Callable[[str], None]) -> dict[str, Any]:
    folder = Path(tempfile.mkdtemp(prefix="perennial-chaos-"))
    folder.chmod(0o711)
    topology = Topology(folder, wanted.defect)
    history = History(folder / "history.jsonl")
    report: dict[str, Any] = {
        "seed": wanted.seed,
        **facts(),
        **({"planted": wanted.defect} if wanted.defect else {}),
    }
    began = time.monotonic()
    violations = ["the run did not come to its end"]
    try:
        topology.up()
        workload = Workload(
            url=f"http://127.0.0.1:{topology.plan.gateway_port}",
            mailbox=folder / "mailbox",
            subscriptions=wanted.subscriptions,
            seed=wanted.seed,
            history=history,
            patience=PLANTED_SECONDS if wanted.defect else None,
        )
        workload.prepare()
        workload.start()
        report["ready_s"] = round(time.monotonic() - began, 1)
        nemesis = Nemesis(topology, wanted.seed, wanted.faults, wanted.only, told=tell)
        raging = time.monotonic()
        nemesis.rage()
        report["faults"] = sum(nemesis.struck.values())
        report["faults_by_kind"] = dict(nemesis.struck.most_common())
        report["raged_s"] = round(time.monotonic() - raging, 1)
        calm = time.monotonic()
        topology.heal()
        workload.calm_since = time.monotonic()
        report["healed_s"] = round(time.monotonic() - calm, 1)
        tell("the last fault is over; the customers finish")
        _let_finish(topology, workload)
        checker = Checker(topology.plan.database_url, topology.sandbox_file)
        quiet = time.monotonic()
        patience = PLANTED_SECONDS if wanted.defect else DRAIN_SECONDS + WATCH_SECONDS
        waiting = _drain(topology, checker, patience, tell)
        report["drain_s"] = round(time.monotonic() - quiet, 1)
        violations = [f"not at rest: {count} {name}" for name, count in waiting.items()]
        if not waiting and report["drain_s"] > DRAIN_SECONDS:
            violations.append(f"at rest only after {report['drain_s']} s")
        violations += asyncio.run(checker.violations(history))
        if not wanted.defect:  # with one, nobody waits long enough for this to say much
            violations += history.unanswered
        report["counts"] = asyncio.run(checker.counts())
        report["calls"] = history.counts()
        report["refused"] = history.refused()
        report["own_deaths"] = dict(topology.own_deaths)
    finally:
        report["violations"] = violations
        report["took_s"] = round(time.monotonic() - began, 1)
        if violations and wanted.keep:
            report["kept"] = str(folder)
            _end(topology)
        else:
            topology.remove()
            shutil.rmtree(folder, ignore_errors=True)
    return report


def _let_finish(topology: Topology, workload: Workload) -> None:
    """Their last requests are answered by a system that nobody disturbs any more."""
    while not workload.is_over:
        topology.tend()
        time.sleep(0.1)
    workload.finish()


def _drain(
    topology: Topology, checker: Checker, patience: float, tell: Callable[[str], None]
) -> dict[str, int]:
    """Until nothing is on its way, twice in a row; else what still is."""
    deadline = time.monotonic() + patience
    calm = 0
    waiting: dict[str, int] = {}
    shown = ""
    while time.monotonic() < deadline:
        topology.tend()
        try:
            waiting = asyncio.run(checker.waiting())
        except (OSError, asyncpg.PostgresError) as error:
            waiting = {f"database: {error}": 1}
        calm = 0 if waiting else calm + 1
        if calm == 2:
            break
        if (now := json.dumps(waiting)) != shown:
            shown = now
            tell(f"waiting for {now}")
        time.sleep(0.5)
    return waiting


def _end(topology: Topology) -> None:
    """Stop it all, but leave the data and the logs to be read."""
    for name in list(topology.state.alive()):
        topology.thaw(name)
    topology.down()
