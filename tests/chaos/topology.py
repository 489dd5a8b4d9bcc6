"""The system under attack: private servers and every process of every service, restartable."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from infra.native import install, ports
from infra.native.plan import PREFERRED, Plan
from infra.native.processes import Process, Program, stop, wait_ready
from infra.native.system import System

#: Below the range from which the kernel takes ports for outgoing connections: the port of a
#: killed server is still its own when it comes back.
LOWEST_PORT, PORT_SPAN = 20_000, 9_000
#: As an orchestrator would: what ended is started again, but not in a tight loop.
RESTART_SECONDS = 1.0
READY_SECONDS = 60
#: So that a lost answer of the provider is cleared up within the run.
PACE = {
    "PERENNIAL_SANDBOX_TIMEOUT_SECONDS": "2",
    "PERENNIAL_SANDBOX_HANG_SECONDS": "3",
    "PERENNIAL_LOG_LEVEL": "WARNING",
}


class OwnPlan(Plan):
    """An installation on ports that nobody else prefers."""

    def choose_ports(self, alive: Mapping[str, object]) -> None:
        del alive  # nothing runs yet, or all of it
        if self.ports:
            return
        names = ["gateway", *PREFERRED]
        for worker in self.workers:
            names += worker.ports
        free = ports.Ports()
        base = LOWEST_PORT + random.SystemRandom().randrange(PORT_SPAN)
        self.ports.update({name: free.pick(base + step) for step, name in enumerate(names)})


class Topology(System):
    """One installation whose processes may be killed at any instant and come back by `tend`."""

    def __init__(self, run: Path, defect: str | None = None) -> None:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("PERENNIAL_", "TEST_"))}
        super().__init__(run, {**kept, **PACE})
        self.plan = OwnPlan(run=run, caller={**kept, **PACE}, ports=self.state.ports)
        self._defect = defect
        self._programs: dict[str, Program] = {}
        self._started_at: dict[str, float] = {}
        self._frozen: dict[str, float] = {}
        self._held: set[str] = set()
        #: Restarts of processes that nobody had killed.
        self.own_deaths: Counter[str] = Counter()
        self._killed: set[str] = set()

    def up(self) -> None:
        super().up()
        self._programs = {**self.plan.programs(), "gateway": self.plan.gateway()}

    def remove(self) -> None:
        """End everything and forget it."""
        for process in self.state.alive().values():
            with suppress(OSError):
                os.killpg(process.pid, signal.SIGCONT)
        stop(self.state.alive().values(), grace=8)
        folder = self.plan.postgres_folder
        if folder.exists() and self.run not in folder.parents:
            shutil.rmtree(folder.parent)
        shutil.rmtree(self.run, ignore_errors=True)

    # ---- what runs --------------------------------------------------------------------------

    def _start(self, program: Program) -> Process:
        self._started_at[program.name] = time.monotonic()
        return super()._start(replace(self._planted(program), tied=True))

    def _planted(self, program: Program) -> Program:
        """The same process, started by way of the module that plants a defect in it."""
        if self._defect is None or "-m" not in program.command:
            return program
        at = list(program.command).index("-m")
        command = [*program.command[: at + 1], "tests.chaos.planted", self._defect]
        return replace(program, command=[*command, *program.command[at + 1 :]])

    @property
    def services(self) -> list[str]:
        """The processes that are ours: the services', the gateway and the sandbox."""
        return list(self._programs)

    def process(self, name: str) -> Process | None:
        return self.state.alive().get(name)

    def tend(self) -> None:
        """Wake what was frozen long enough, and start again what ended."""
        now = time.monotonic()
        for name in [name for name, until in self._frozen.items() if until <= now]:
            self.thaw(name)
        alive = self.state.alive()
        for name in ("rabbitmq", "redis", "postgres", *self._programs):
            if name in alive or name in self._held:
                continue
            if now - self._started_at.get(name, 0) < RESTART_SECONDS:
                continue
            if name not in self._killed and name in self._programs:
                self.own_deaths[name] += 1
            self._killed.discard(name)
            self._restart(name)

    def _restart(self, name: str) -> None:
        if name == "postgres":
            self.plan.postgres.prepare()
            self._start(self._marked(self.plan.postgres.program()))
        elif name == "rabbitmq":
            self._start(self._marked(self.plan.rabbitmq.program()))
        elif name == "redis":
            self._start(self._marked(self.plan.redis.program()))
        else:
            self._start(self._programs[name])

    def is_ready(self, name: str) -> bool:
        """Whether this process does its work."""
        process = self.process(name)
        if process is None or name in self._frozen:
            return False
        if name == "postgres":
            return self.plan.postgres.ready(process)
        if name == "rabbitmq":
            return self.plan.rabbitmq.ready(process)
        if name == "redis":
            return self.plan.redis.ready(process)
        return self._healthy(name)

    def heal(self) -> None:
        """No more faults: everything is woken, started and ready."""
        for name in list(self._frozen):
            self.thaw(name)
        self._held.clear()
        deadline = time.monotonic() + READY_SECONDS
        names = ["postgres", "rabbitmq", "redis", *self._programs]
        while left := [name for name in names if not self.is_ready(name)]:
            if time.monotonic() > deadline:
                raise TimeoutError(f"not ready after {READY_SECONDS} s: {', '.join(left)}")
            self.tend()
            time.sleep(0.2)

    # ---- what can be done to it -------------------------------------------------------------

    def kill(self, name: str) -> bool:
        """As a crash: at once, with everything that it started. False when it was dead anyway."""
        process = self.process(name)
        if process is None:
            return False
        self._frozen.pop(name, None)
        self._killed.add(name)
        # The postmaster alone: its children have to notice by themselves.
        end = os.kill if name == "postgres" else os.killpg
        with suppress(ProcessLookupError):
            end(process.pid, signal.SIGKILL)
        while process.alive():
            self.state.alive()
            time.sleep(0.01)
        return True

    def terminate(self, name: str) -> bool:
        """As a deployment: asked to stop, then started again."""
        process = self.process(name)
        if process is None:
            return False
        self._killed.add(name)
        os.kill(process.pid, process.stop_signal)
        return True

    def freeze(self, name: str, seconds: float) -> bool:
        """As a machine that hangs: it wakes and goes on as if nothing had been."""
        process = self.process(name)
        if process is None or name in self._frozen:
            return False
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGSTOP)
        self._frozen[name] = time.monotonic() + seconds
        return True

    def thaw(self, name: str) -> None:
        self._frozen.pop(name, None)
        process = self.process(name)
        if process is not None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGCONT)

    def rabbitmqctl(self, *words: str) -> bool:
        """An operator's command to the broker; False when it was in no state to take it."""
        program = self.plan.rabbitmq.program()
        tool = install.get("rabbitmq-server").with_name("rabbitmqctl")
        try:
            done = subprocess.run(
                [str(tool), *words],
                cwd=program.directory,
                env=dict(program.environment),
                capture_output=True,
                timeout=20,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return False
        return done.returncode == 0

    @property
    def sandbox_file(self) -> Path:
        return self.run / "sandbox.sqlite3"

    def wait_for(self, name: str) -> None:
        """Until a process that was just started is ready."""
        process = self.process(name)
        if process is not None:
            wait_ready({process: partial(self.is_ready, name)}, READY_SECONDS)


def facts() -> dict[str, Any]:
    """What else decides how a run goes."""
    head = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    return {"commit": head.stdout.strip() or "unknown", "python": sys.version.split()[0]}
