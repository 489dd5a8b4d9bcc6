"""The whole system on one machine without Docker: `up` brings it to the wanted state, `down` ends.

`up` compares what runs with what is wanted: nothing runs, some of it was killed, a replica more is
asked for, a setting changed. It starts and stops only what differs, so repeating it is harmless.
"""

import asyncio
import fcntl
import hashlib
import http.client
import json
import os
import re
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cache, partial
from pathlib import Path

import asyncpg

from infra.native import install, ports
from infra.native.plan import MARK, ROOT, Plan
from infra.native.processes import (
    Failed,
    Process,
    Program,
    State,
    adopt,
    ancestors,
    memory,
    reload,
    run_all,
    start,
    stop,
    wait_ready,
)
from infra.postgres.provision import provision

PROGRAMS = ("postgres", "rabbitmq-server", "redis-server", "nginx")
WORKER = re.compile(r"-(api|worker)(-\d+)?$")
SERVERS = ("epmd", "rabbitmq", "redis", "postgres")
START_SECONDS = 90
MIGRATE_SECONDS = 300
#: Longer than PERENNIAL_SHUTDOWN_GRACE_SECONDS: a process may finish what it has in hand.
STOP_SECONDS = 25


def say(text: str) -> None:
    """Progress, line by line, also where the output is a file."""
    print(text, flush=True)


def answers(port: int, path: str) -> bool:
    """Whether a GET on this machine is answered with 200."""
    connection = http.client.HTTPConnection(ports.HOST, port, timeout=5)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


class System:
    """One installation as it runs."""

    def __init__(self, run: Path, caller: Mapping[str, str]) -> None:
        self.run = run
        self.logs = run / "logs"
        self.state = State.load(run / "state.json")
        self.plan = Plan(run=run, caller=caller, ports=self.state.ports)
        self._began = time.monotonic()

    # ---- up ---------------------------------------------------------------------------------

    def up(self) -> None:
        """Bring it up, or raise Failed with one message and leave nothing of this attempt."""
        self.run.mkdir(parents=True, exist_ok=True, mode=0o711)
        self.logs.mkdir(exist_ok=True, mode=0o700)
        with self._alone():
            before = self._what_runs()
            try:
                self.install()
                self._reconcile(before)
            except BaseException:
                started = [name for name in self.state.alive() if name not in before]
                if started:
                    say("Stopping what was started")
                    self._stop(started)
                raise

    def install(self) -> None:
        """Install the servers' programs that are missing, or raise Failed with what to install."""
        install.ensure(PROGRAMS, self.logs / "install.log")

    def _what_runs(self) -> dict[str, Process]:
        """The processes of an earlier `up`; when that one was killed, what it left is ended."""
        alive = self.state.alive()
        lost = self._lost(alive)
        complete = self.state.prepared and all(name in alive for name in SERVERS)
        broken = bool(alive) and not complete
        if lost or broken:
            say("Stopping what is left of a run that was killed")
        stop(lost, grace=5)
        if broken:
            self._stop(alive)
            return {}
        return alive

    def _lost(self, known: Mapping[str, Process]) -> list[Process]:
        """Processes of ours that the state does not know: it was lost with its launcher."""
        pids = {process.pid for process in known.values()}
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):  # gone meanwhile, or somebody else's
                pid = int(folder.name)
                # What a server started for itself comes after one that is known.
                if not pids & {pid, *ancestors(pid)} and self._is_ours(folder):
                    found.append(adopt(pid))
        return found

    def _is_ours(self, folder: Path) -> bool:
        # nginx writes its title over its environment, and its workers outlive it.
        if (folder / "comm").read_text().strip() == "nginx":
            return (folder / "cwd").readlink() == self.plan.gateway_folder
        first_of_session = os.getsid(int(folder.name)) == int(folder.name)
        mark = f"{MARK}={self.run}\0".encode()
        return first_of_session and mark in (folder / "environ").read_bytes()

    def _reconcile(self, alive: Mapping[str, Process]) -> None:
        self.plan.choose_ports(alive)
        self.state.ports = self.plan.ports
        wanted = self.plan.programs()
        digests = {name: digest(program) for name, program in wanted.items()}
        known = self.state.digests
        new = [name for name in wanted if name not in alive or known.get(name) != digests[name]]
        surplus = [name for name in alive if name not in {*wanted, *SERVERS, "gateway"}]
        if "postgres" not in alive:
            say(f"Starting servers of our own under {self.run}")
            self.state.prepared = False
            self._start_servers()
        changed = [name for name in wanted if name in known and known[name] != digests[name]]
        if "postgres" not in alive or not known or changed:
            say("Migrating")
            run_all(self.plan.migrations(), self.logs, MIGRATE_SECONDS)
            self.state.prepared = True
        if new:
            say("Starting the services")
            self._stop(name for name in new if name in alive)
            self._start_services([wanted[name] for name in new])
        self.state.digests = digests
        self._serve(alive)
        self._stop(surplus)
        self.state.save()
        if new or surplus:
            say(f"Perennial runs at {self.plan.url}  ({self._seconds()})")
        else:
            say(f"Perennial already runs at {self.plan.url}")

    def _start(self, program: Program) -> Process:
        process = start(program, self.logs / f"{program.name}.log")
        self.state.add(process)
        return process

    def _start_servers(self) -> None:
        """All at once: the broker takes longest, and the database is made ready meanwhile."""
        rabbitmq, postgres, redis = self.plan.rabbitmq, self.plan.postgres, self.plan.redis
        rabbitmq.prepare()
        epmd = self._start(self._marked(rabbitmq.epmd()))
        wait_ready({epmd: lambda: ports.accepts(rabbitmq.epmd_port)}, START_SECONDS)
        broker = self._start(self._marked(rabbitmq.program()))
        redis.prepare()
        cache = self._start(self._marked(redis.program()))
        if self.run not in postgres.folder.parents and not postgres.folder.exists():
            say(f"  postgres keeps its data in {postgres.folder}: its user cannot enter {self.run}")
        postgres.prepare()
        database = self._start(self._marked(postgres.program()))
        wait_ready({database: partial(postgres.ready, database)}, START_SECONDS, self._tell)
        try:
            asyncio.run(provision(self.plan.database_url, self.plan.database_passwords))
        except (OSError, asyncpg.PostgresError) as error:
            raise Failed(f"The database could not be prepared: {error}") from error
        servers = {cache: partial(redis.ready, cache), broker: partial(rabbitmq.ready, broker)}
        wait_ready(servers, START_SECONDS, self._tell)

    def _marked(self, program: Program) -> Program:
        return program.with_environment({MARK: str(self.run)})

    def _start_services(self, programs: Sequence[Program]) -> None:
        waiting = {}
        for program in programs:
            port = self.plan.health_port(program.name)
            waiting[self._start(program)] = partial(answers, port, "/health/ready")
        wait_ready(waiting, START_SECONDS, self._tell)

    def _serve(self, alive: Mapping[str, Process]) -> None:
        """The gateway, with the replicas that run now."""
        folder = self.plan.gateway_folder
        folder.mkdir(exist_ok=True)
        conf = folder / "nginx.conf"
        text = self.plan.gateway_conf
        changed = not conf.exists() or conf.read_text() != text
        conf.write_text(text)
        gateway = alive.get("gateway")
        if gateway is None:
            gateway = self._start(self.plan.gateway())
        elif changed:
            reload(gateway)
        ready = partial(answers, self.plan.gateway_port, "/health")
        tell = self._tell if "gateway" not in alive else lambda _: None
        wait_ready({gateway: ready}, START_SECONDS, tell)

    def _tell(self, process: Process) -> None:
        say(f"  {process.name} is ready  ({self._seconds()})")

    def _seconds(self) -> str:
        return f"{time.monotonic() - self._began:.1f} s"

    # ---- down -------------------------------------------------------------------------------

    def down(self) -> None:
        """Stop everything, users of a server before the server; harmless when nothing runs."""
        if not self.run.exists():
            say("Perennial does not run")
            return
        with self._alone():
            alive = self.state.alive()
            lost = self._lost(alive)
            if not alive and not lost:
                say("Perennial does not run")
            self._stop(alive)
            stop(lost, grace=5)
            if alive or lost:
                say(f"Perennial is stopped  ({self._seconds()}); its data stays in {self.run}")

    def reset(self) -> None:
        """Stop everything and forget all data, passwords and logs."""
        self.down()
        folder = self.plan.postgres_folder
        if folder.exists() and self.run not in folder.parents:
            shutil.rmtree(folder.parent)
        shutil.rmtree(self.run, ignore_errors=True)
        say(f"{self.run} is removed")

    def _stop(self, names: Iterable[str]) -> None:
        alive = self.state.alive()
        named = {name: alive[name] for name in names if name in alive}
        steps = (["gateway"], [name for name in named if name not in {*SERVERS, "gateway"}])
        for step in (*steps, ["redis", "rabbitmq"], ["epmd", "postgres"]):
            stopping = [named[name] for name in step if name in named]
            if killed := stop(stopping, STOP_SECONDS):
                say(f"  {', '.join(killed)} did not stop in {STOP_SECONDS} s and had to be killed")
            self.state.forget(process.name for process in stopping)

    # ---- looking ----------------------------------------------------------------------------

    def status(self) -> bool:
        """Print what runs and whether it is healthy; False unless all of it is."""
        alive = self.state.alive()
        if not alive:
            say("Perennial does not run. Start it with: make up")
            return False
        healthy, services = True, 0
        for process in self.state.processes:
            good = process.name in alive and self._healthy(process.name)
            healthy = healthy and good
            what = "ready" if good else "not ready" if process.name in alive else "ended"
            port = self.state.ports.get(process.name, "")
            used = memory(process.pid)
            services += used if WORKER.search(process.name) else 0
            mib = f"{used / 2**20:.0f} MiB"
            say(f"  {process.name:<22} {what:<10} process {process.pid:<8} {mib:>8}  {port}")
        say(f"The services' processes use {services / 2**20:.0f} MiB, shared pages counted once.")
        say(f"{self.plan.url}  (mails: {self.run / 'mailbox'}, logs: {self.logs})")
        return healthy

    def _healthy(self, name: str) -> bool:
        if name in SERVERS:
            return ports.accepts(self.state.ports[name])
        if name == "gateway":
            return answers(self.plan.gateway_port, "/health")
        return answers(self.plan.health_port(name), "/health/ready")

    def running(self) -> bool:
        """Whether anything of it runs."""
        return bool(self.state.alive())

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Two launchers at once would undo each other's work."""
        with (self.run / "lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise Failed(f"Another make up or make down is at work in {self.run}.") from None
            self.state = State.load(self.run / "state.json")
            self.plan.ports = self.state.ports
            yield


def digest(program: Program) -> str:
    """What a process would have to be started anew for: what it is told, and the code it runs."""
    told = {k: v for k, v in program.environment.items() if k.startswith("PERENNIAL_")}
    stated = json.dumps([list(program.command), told, code()], sort_keys=True)
    return hashlib.sha256(stated.encode()).hexdigest()


@cache
def code() -> str:
    """What tells one state of the services' code from another, without reading all of it."""
    files = [
        file
        for folder in ("shared", "services")
        for kind in ("*.py", "*.sql")
        for file in sorted((ROOT / folder).rglob(kind))
    ]
    stats = [(str(file), file.stat().st_mtime_ns) for file in files]
    return hashlib.sha256(repr(stats).encode()).hexdigest()
