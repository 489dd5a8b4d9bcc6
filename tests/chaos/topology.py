"""The system under attack: private servers and every process of every service, restartable."""

import asyncio
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from infra.environment import SERVICES
from infra.native import install, ports
from infra.native.plan import PREFERRED, ROOT, Plan
from infra.native.processes import Process, Program, memory, run_all, stop, wait_ready
from infra.native.system import START_SECONDS, System
from tests.chaos.servers import Database, Disk, Node, ask, kill_with_children

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
#: Every connection that can be cut by itself: who reaches what.
WIRES = tuple(
    f"{service}-{server}" for service in SERVICES for server in ("postgres", "rabbitmq", "redis")
)
WIRES += ("payments-sandbox", "sandbox-gateway", "standby-postgres")
#: What a process is told by `tests.chaos.child` from the environment.
TOLD = "CHAOS_CHILD_"


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What a system consists of."""

    #: A defect to plant (tests/chaos/planted.py).
    defect: str | None = None
    #: Replicas, as `SCALE` of `make up`.
    scale: str = ""
    #: With three, a cluster of which one may die at a time.
    brokers: int = 1
    #: Whether a standby follows Postgres: not at all, `async`, or `sync` (commits wait for it).
    standby: str = ""


class OwnPlan(Plan):
    """An installation on ports that nobody else prefers, whose connections go over wires."""

    def __init__(self, run: Path, caller: Mapping[str, str], shape: Shape) -> None:
        super().__init__(run=run, caller=caller, ports={})
        self.shape = shape
        #: Which of the two databases is the primary now: 1 or 2.
        self.primary = 1

    def choose_ports(self, alive: Mapping[str, object]) -> None:
        del alive  # nothing runs yet, or all of it
        if self.ports:
            return
        names = ["gateway", *PREFERRED, "postgres 2", "wire", *(f"wire {w}" for w in WIRES)]
        for number in range(2, self.shape.brokers + 1):
            names += [f"rabbitmq {number}", f"rabbitmq {number} distribution"]
        for worker in self.workers:
            names += worker.ports
        free = ports.Ports()
        base = LOWEST_PORT + random.SystemRandom().randrange(PORT_SPAN)
        self.ports.update({name: free.pick(base + step) for step, name in enumerate(names)})

    # ---- servers ----------------------------------------------------------------------------

    @cached_property
    def postgres_folder(self) -> Path:
        """On a folder that may be a disk of its own."""
        return super().postgres_folder.with_name("disk") / "postgres"

    def database(self, number: int, name: str = "postgres") -> Database:
        return Database(
            name=name,
            folder=self.postgres_folder.with_name(f"postgres{'' if number == 1 else '-2'}"),
            port=self.ports["postgres" if number == 1 else "postgres 2"],
            password=self.passwords["postgres"],
        )

    @property
    def postgres(self) -> Database:
        return self.database(self.primary)

    def broker(self, number: int) -> Node:
        one = super().rabbitmq
        if number == 1:
            return Node(**vars(one), number=1, of=self.shape.brokers, home=self.run / "erlang")
        told = vars(one) | {
            "folder": self.run / f"rabbitmq-{number}",
            "port": self.ports[f"rabbitmq {number}"],
            "dist_port": self.ports[f"rabbitmq {number} distribution"],
        }
        return Node(**told, number=number, of=self.shape.brokers, home=self.run / "erlang")

    @property
    def brokers(self) -> dict[str, Node]:
        return {one.name: one for one in map(self.broker, range(1, self.shape.brokers + 1))}

    @property
    def rabbitmq(self) -> Node:
        return self.broker(1)

    # ---- wires ------------------------------------------------------------------------------

    def behind(self, wire: str) -> list[int]:
        """The ports that a wire leads to."""
        server = wire.partition("-")[2]
        if server == "rabbitmq":
            return [one.port for one in self.brokers.values()]
        return [self.postgres.port if server == "postgres" else self.ports[server]]

    def wire(self) -> Program:
        """The process that all connections go through."""
        links = {
            name: {"port": self.ports[f"wire {name}"], "to": self.behind(name)} for name in WIRES
        }
        file = self.run / "wire.json"
        file.write_text(json.dumps({"control": self.ports["wire"], "links": links}))
        return Program(
            name="wire",
            command=[sys.executable, "-m", "tests.chaos.wire", str(file)],
            environment=dict(os.environ),
            directory=ROOT,
        )

    def programs(self) -> dict[str, Program]:
        return {name: self._wired(program) for name, program in super().programs().items()}

    def _wired(self, program: Program) -> Program:
        """The same, reaching everything by its own wires."""
        service = program.name.partition("-")[0]
        told = dict(program.environment)
        for wire in WIRES:
            who, _, server = wire.partition("-")
            if who == service:
                port = self.ports[server]
                for name in _ADDRESSES[server]:
                    if name in told:
                        told[name] = told[name].replace(
                            f"127.0.0.1:{port}", f"127.0.0.1:{self.ports[f'wire {wire}']}"
                        )
        return replace(program, environment=told)


_ADDRESSES = {
    "postgres": ("PERENNIAL_DATABASE_URL",),
    "rabbitmq": ("PERENNIAL_BROKER_URL",),
    "redis": ("PERENNIAL_REDIS_URL",),
    "sandbox": ("PERENNIAL_SANDBOX_URL",),
    "gateway": ("PERENNIAL_SANDBOX_WEBHOOK_URL",),
}


class Topology(System):
    """One installation whose processes may be killed at any instant and come back by `tend`."""

    plan: OwnPlan

    def __init__(self, run: Path, shape: Shape | None = None) -> None:
        kept = {
            k: v for k, v in os.environ.items() if not k.startswith(("PERENNIAL_", "TEST_", TOLD))
        }
        self.shape = shape or Shape()
        caller = {**kept, **PACE, "SCALE": self.shape.scale}
        super().__init__(run, caller)
        self.plan = OwnPlan(run, caller, self.shape)
        self.disk = Disk(self.plan.postgres_folder.parent)
        self._programs: dict[str, Program] = {}
        #: What a process was told besides, until its next start.
        self._told: dict[str, dict[str, str]] = {}
        #: Processes that are not as they should be, by what they were told.
        self._altered: dict[str, dict[str, str]] = {}
        #: How often a process ended at each named place.
        self.crashed_at: Counter[str] = Counter()
        #: What faults met that must not be.
        self.surprises: list[str] = []
        self._started_at: dict[str, float] = {}
        self._frozen: dict[str, float] = {}
        #: What is not to be started again for now.
        self.held: set[str] = set()
        #: What puts an end to a fault, and when; each is tried until it answers True.
        self._undo: dict[str, tuple[float, Callable[[], bool]]] = {}
        #: Restarts of processes that nobody had killed.
        self.own_deaths: Counter[str] = Counter()
        self._killed: set[str] = set()

    def up(self) -> None:
        super().up()
        self._programs = {**self.plan.programs(), "gateway": self.plan.gateway()}

    def _start_servers(self) -> None:
        wire = self._start(self.plan.wire())
        wait_ready({wire: lambda: ports.accepts(self.plan.ports["wire"])}, START_SECONDS)
        super()._start_servers()
        for name, broker in list(self.plan.brokers.items())[1:]:
            broker.prepare()
            node = self._start(self._marked(broker.program()))
            wait_ready({node: partial(self.is_ready, name)}, START_SECONDS, self._tell)
        if self.shape.standby:
            self.follow()
            self._have_commits_wait()

    def _have_commits_wait(self) -> None:
        """From now on a commit is one when the standby has it, where that is wanted."""
        if self.shape.standby == "sync" and not ask(
            self.plan.postgres.url,
            "ALTER SYSTEM SET synchronous_standby_names = 'ANY 1 (standby)'",
            "SELECT pg_reload_conf()",
        ):
            raise TimeoutError("the primary could not be told to wait for its standby")

    def remove(self) -> None:
        """End everything and forget it."""
        for process in self.state.alive().values():
            with suppress(OSError):
                os.killpg(process.pid, signal.SIGCONT)
        stop(self.state.alive().values(), grace=8)
        self.disk.unmount()
        folder = self.plan.postgres_folder
        if folder.exists() and self.run not in folder.parents:
            shutil.rmtree(folder.parent.parent, ignore_errors=True)
        shutil.rmtree(self.run, ignore_errors=True)

    # ---- what runs --------------------------------------------------------------------------

    def _start(self, program: Program) -> Process:
        self._started_at[program.name] = time.monotonic()
        return super()._start(replace(self._told_more(program), tied=True))

    def _told_more(self, program: Program) -> Program:
        """The same process, by way of the module that does to it what it is told."""
        told = self._told.pop(program.name, {})
        self._altered.pop(program.name, None)
        if told:
            self._altered[program.name] = dict(told)
        if self.shape.defect:
            told["DEFECT"] = self.shape.defect
        if program.name == "sandbox":
            told["MOOD"] = str(self.mood_file)
        words = list(program.command)
        if not told or "-m" not in words or program.name == "wire":
            return program
        at = words.index("-m")
        command = [*words[: at + 1], "tests.chaos.child", *words[at + 1 :]]
        return replace(program, command=command).with_environment(
            {f"{TOLD}{name}": value for name, value in told.items()}
        )

    @property
    def services(self) -> list[str]:
        """The processes that are ours: the services', the gateway and the sandbox."""
        return list(self._programs)

    def named(self, verb: str) -> list[str]:
        """The services' processes of this kind."""
        return [worker.name for worker in self.plan.workers if worker.verb == verb]

    def process(self, name: str) -> Process | None:
        return self.state.alive().get(name)

    @property
    def servers(self) -> list[str]:
        standby = ["standby"] if self.shape.standby else []
        return [*self.plan.brokers, "redis", "postgres", *standby]

    def tend(self) -> None:
        """Wake what was frozen long enough, end what lasted long enough, start what ended."""
        now = time.monotonic()
        for name in [name for name, until in self._frozen.items() if until <= now]:
            self.thaw(name)
        for name, (due, undo) in list(self._undo.items()):
            if due <= now:
                if undo():
                    del self._undo[name]
                else:
                    self._undo[name] = (now + 0.5, undo)
        alive = self.state.alive()
        for name in (*self.servers, *self._programs):
            if name in alive or name in self.held:
                continue
            if now - self._started_at.get(name, 0) < RESTART_SECONDS:
                continue
            if name not in self._killed and name in self._programs:
                place = self._altered.get(name, {}).get("CRASHPOINT")
                (self.crashed_at if place else self.own_deaths)[place or name] += 1
            self._killed.discard(name)
            self._restart(name)

    def _restart(self, name: str) -> None:
        if name == "postgres":
            self.plan.postgres.prepare()
            self._start(self._marked(self.plan.postgres.program()))
        elif name == "standby":
            self._start(self._marked(self.standby.program()))
        elif name in self.plan.brokers:
            self._start(self._marked(self.plan.brokers[name].program()))
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
        if name == "standby":
            return "ready to accept read-only connections" in process.said()
        if name in self.plan.brokers:
            return self.plan.brokers[name].ready(process)
        if name == "redis":
            return self.plan.redis.ready(process)
        return self._healthy(name)

    def heal(self) -> None:
        """No more faults: everything is woken, started and ready."""
        for name in list(self._frozen):
            self.thaw(name)
        self.held.clear()
        self._told.clear()
        self._undo = {name: (0.0, undo) for name, (_, undo) in self._undo.items()}
        deadline = time.monotonic() + READY_SECONDS
        names = [*self.servers, *self._programs]
        while (
            (left := [name for name in names if not self.is_ready(name)])
            or self._undo
            or self._altered
        ):
            if time.monotonic() > deadline:
                raise TimeoutError(
                    f"not well after {READY_SECONDS} s: {', '.join([*left, *self._undo])}"
                )
            for name in self._altered.keys() - self._killed:
                self.terminate(name)
            self.tend()
            time.sleep(0.2)

    def wait_for(self, name: str, seconds: float = READY_SECONDS) -> bool:
        """Until a process is ready; the others are tended meanwhile. Whether it became so."""
        deadline = time.monotonic() + seconds
        while not self.is_ready(name):
            if time.monotonic() > deadline:
                return False
            self.tend()
            time.sleep(0.1)
        return True

    def footprint(self) -> dict[str, int]:
        """The MiB of each process of the services."""
        alive = self.state.alive()
        names = {worker.name for worker in self.plan.workers}
        return {name: memory(alive[name].pid) // 2**20 for name in alive if name in names}

    # ---- what can be done to it -------------------------------------------------------------

    def later(self, what: str, seconds: float, undo: Callable[[], bool]) -> None:
        """Put an end to a fault after a while."""
        self._undo[what] = (time.monotonic() + seconds, undo)

    def goes_on(self, what: str) -> bool:
        """Whether such a fault is not over yet."""
        return what in self._undo

    def kill(self, name: str) -> bool:
        """As a crash: at once, with everything that it started. False when it was dead anyway."""
        process = self.process(name)
        if process is None:
            return False
        self._frozen.pop(name, None)
        self._killed.add(name)
        # The postmaster alone: its children have to notice by themselves.
        end = os.kill if name in {"postgres", "standby"} else os.killpg
        with suppress(ProcessLookupError):
            end(process.pid, signal.SIGKILL)
        self._bury(process)
        return True

    def _bury(self, process: Process) -> None:
        while process.alive():
            self.state.alive()
            time.sleep(0.01)

    def terminate(self, name: str) -> bool:
        """As a deployment: asked to stop, then started again."""
        process = self.process(name)
        if process is None:
            return False
        self._killed.add(name)
        os.kill(process.pid, process.stop_signal)
        return True

    def tell(self, name: str, **told: str) -> None:
        """At its next start the process is told this (tests/chaos/child.py)."""
        self._told[name] = told

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

    def rewire(self, wires: Sequence[str], **how: Any) -> bool:
        """Have these wires treat what goes over them so (tests/chaos/wire.py)."""
        try:
            with socket.create_connection(("127.0.0.1", self.plan.ports["wire"]), 5) as control:
                control.sendall(json.dumps({"links": list(wires), **how}).encode() + b"\n")
                return control.recv(10) == b"done\n"
        except OSError:
            return False

    # ---- the broker's loss ------------------------------------------------------------------

    def wipe_broker(self, since: str) -> None:
        """Its data is gone; done by the book: an empty broker, `migrate`, and `replay`."""
        self.held.add("rabbitmq")
        self.kill("rabbitmq")
        shutil.rmtree(self.plan.rabbitmq.folder / "data")
        self.held.discard("rabbitmq")
        if not self.wait_for("rabbitmq", START_SECONDS):
            raise TimeoutError("an empty broker did not start")
        self._run_all("migrate")
        self._run_all("replay", "--since", since, "--yes")

    def audit(self) -> list[str]:
        """What the product's own audit says of its books, where that is not that they agree."""
        program = self.plan.command("payments", ["audit"])
        done = subprocess.run(
            program.command,
            env=program.environment,
            cwd=program.directory,
            capture_output=True,
            text=True,
            timeout=START_SECONDS,
            check=False,
        )
        if done.returncode == 0:
            return []
        return [f"the audit: {line}" for line in (done.stdout or done.stderr).splitlines()]

    def _run_all(self, verb: str, *words: str) -> None:
        """A command of every service, side by side."""
        deployment = self.plan.deployment
        programs = [
            replace(
                self.plan.command(service, [verb, *words]).with_environment(
                    deployment.migrate(service)
                ),
                name=f"{service}-{verb}",
            )
            for service in SERVICES
        ]
        run_all(programs, self.logs, START_SECONDS)

    # ---- the database's loss ----------------------------------------------------------------

    @property
    def standby(self) -> Database:
        return self.plan.database(3 - self.plan.primary, "standby")

    def follow(self) -> None:
        """Start a standby that follows the primary, over a wire of its own."""
        self.standby.follow(self.plan.ports["wire standby-postgres"])
        process = self._start(self._marked(self.standby.program()))
        wait_ready({process: partial(self.is_ready, "standby")}, START_SECONDS)

    def fail_over(self, lag_seconds: float) -> bool:
        """The standby falls behind, the primary's machine is lost, and the standby takes over."""
        primary = self.process("postgres")
        if primary is None or not self.is_ready("standby") or not self.is_ready("postgres"):
            return False
        self.rewire(["standby-postgres"], set={"hold_to_client": True})
        time.sleep(lag_seconds)
        self.held |= {"postgres", "standby"}
        kill_with_children(primary.pid)
        self._bury(primary)
        # What was on its way never arrives.
        self.rewire(["standby-postgres"], reset=True, set={})
        asyncio.run(self.standby.promote())
        follower = self.process("standby")
        assert follower is not None
        self.state.forget(["postgres", "standby"])
        self.state.add(replace(follower, name="postgres"))
        self.plan.primary = 3 - self.plan.primary
        self._have_commits_wait()  # before anybody can reach it
        wires = [wire for wire in WIRES if wire.endswith("-postgres")]
        self.rewire(wires, to=self.plan.behind("auth-postgres"), reset=True)
        self.follow()
        self.held -= {"postgres", "standby"}
        return True

    # ---- files ------------------------------------------------------------------------------

    @property
    def sandbox_file(self) -> Path:
        return self.run / "sandbox.sqlite3"

    @property
    def mood_file(self) -> Path:
        """How the provider is disposed (tests/chaos/child.py)."""
        return self.run / "mood.json"

    def keep_disk(self) -> None:
        """What is on the disk of our own would go with us."""
        if self.disk.mounted:
            kept = self.run / "disk-kept"
            subprocess.run(["cp", "-a", str(self.plan.postgres_folder.parent), kept], check=False)


def facts() -> dict[str, Any]:
    """What else decides how a run goes."""
    head = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    return {"commit": head.stdout.strip() or "unknown", "python": sys.version.split()[0]}
