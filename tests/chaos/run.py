"""One run: a system of its own, customers, faults, then silence, then the checks."""

import asyncio
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import asyncpg

from tests.chaos.bank import Bank
from tests.chaos.checker import Checker, bloated, leaks
from tests.chaos.history import History
from tests.chaos.nemesis import Nemesis
from tests.chaos.topology import Shape, Topology, facts
from tests.chaos.workload import Workload

#: The promise: after the last fault the system comes to rest by itself within this.
DRAIN_SECONDS = 60
#: How long a run goes on watching a system that breaks it, to tell late from never.
WATCH_SECONDS = 30
#: With a defect planted, what is not at rest by then will never be.
PLANTED_SECONDS = 25.0

Tell = Callable[[str], None]
Report = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What decides a run."""

    seed: int
    faults: int
    subscriptions: int
    only: tuple[str, ...] = ()
    shape: Shape = field(default_factory=Shape)
    #: Leave servers' data and logs behind when something was found.
    keep: bool = True


def run(wanted: Wanted, tell: Tell) -> Report:
    """Do it and report: one object that fits a line, but for the `stories` of what went wrong."""
    # The launcher tells its progress to standard output, which is for the report alone.
    with redirect_stdout(sys.stderr):
        return _run(wanted, tell)


def _run(wanted: Wanted, tell: Tell) -> Report:
    folder = Path(tempfile.mkdtemp(prefix="perennial-chaos-"))
    folder.chmod(0o711)
    topology = Topology(folder, wanted.shape)
    shape = {name: value for name, value in asdict(wanted.shape).items() if value}
    report: Report = {"seed": wanted.seed, **facts(), **shape}
    began = time.monotonic()
    violations = ["the run did not come to its end"]
    try:
        topology.disk.mount()
        topology.up()
        history = History(folder / "history.jsonl")
        workload = Workload(
            url=f"http://127.0.0.1:{topology.plan.gateway_port}",
            mailbox=folder / "mailbox",
            subscriptions=wanted.subscriptions,
            seed=wanted.seed,
            history=history,
            patience=PLANTED_SECONDS if wanted.shape.defect else None,
        )
        workload.prepare()
        workload.start()
        bank = Bank(f"http://127.0.0.1:{topology.plan.ports['sandbox']}", wanted.seed)
        bank.open()
        report["ready_s"] = round(time.monotonic() - began, 1)
        report |= _rage(wanted, topology, workload, tell)
        tell("the last fault is over; the customers finish")
        _let_finish(topology, workload)
        bank.close()
        if not wanted.shape.defect:
            bank.contest(topology.sandbox_file)
        report["bank"] = dict(bank.done)
        violations = _look(wanted, topology, history, report, tell)
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


def _rage(wanted: Wanted, topology: Topology, workload: Workload, tell: Tell) -> Report:
    """All the faults, and the return to order."""
    nemesis = Nemesis(topology, wanted.seed, wanted.faults, wanted.only, tell)
    nemesis.progress = lambda: workload.progress
    raging = time.monotonic()
    nemesis.rage()
    calm = time.monotonic()
    topology.heal()
    workload.calm_since = time.monotonic()
    return {
        "faults": sum(nemesis.struck.values()),
        "faults_by_kind": dict(nemesis.struck.most_common()),
        "crashed_at": dict(sorted(topology.crashed_at.items())),
        "skipped": nemesis.skipped,
        "raged_s": round(calm - raging, 1),
        "healed_s": round(workload.calm_since - calm, 1),
        "progress": round(workload.progress, 2),
    }


def _let_finish(topology: Topology, workload: Workload) -> None:
    """Their last requests are answered by a system that nobody disturbs any more."""
    while not workload.is_over:
        topology.tend()
        time.sleep(0.1)
    workload.finish()


def _look(
    wanted: Wanted, topology: Topology, history: History, report: Report, tell: Tell
) -> list[str]:
    """Wait for rest, then check; what is wrong."""
    has_defect = wanted.shape.defect is not None
    checker = Checker(topology.plan.database_url, topology.sandbox_file)
    quiet = time.monotonic()
    patience = PLANTED_SECONDS if has_defect else DRAIN_SECONDS + WATCH_SECONDS
    waiting = _drain(topology, checker, patience, tell)
    report["drain_s"] = round(time.monotonic() - quiet, 1)
    report["mib"] = topology.footprint()
    found = [f"not at rest: {count} {name}" for name, count in waiting.items()]
    if not waiting and report["drain_s"] > DRAIN_SECONDS:
        found.append(f"at rest only after {report['drain_s']} s")
    found += asyncio.run(checker.violations(history))
    found += [*topology.surprises, *leaks(topology.logs), *bloated(report["mib"])]
    found += topology.audit()
    if not has_defect:  # with one, nobody waits long enough for this to say much
        found += history.unanswered
    report["stories"] = asyncio.run(checker.stories(found, history))
    report["counts"] = asyncio.run(checker.counts())
    report["calls"] = history.counts()
    report["refused"] = history.refused()
    report["own_deaths"] = dict(topology.own_deaths)
    return found


def _drain(topology: Topology, checker: Checker, patience: float, tell: Tell) -> dict[str, int]:
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
    topology.keep_disk()
