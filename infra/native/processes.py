"""Starts, watches and stops processes that outlive the launcher, and remembers them in a file."""

import ctypes
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

POLL_SECONDS = 0.05
PR_SET_PDEATHSIG = 1
SAYS_WHY = re.compile(r"fatal|error|fail|wrong|emerg|refused|cannot|unable", re.IGNORECASE)


class Failed(Exception):
    """Something did not start; the text is what the person at the terminal reads."""

    code = 1


@dataclass(frozen=True, kw_only=True)
class Program:
    """What to run. `user` is set where the program refuses to run as root."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    directory: Path
    user: str | None = None
    stop_signal: int = signal.SIGTERM
    #: Kill it when the launcher dies (tests), instead of letting it outlive the launcher (up).
    tied: bool = False

    def with_environment(self, more: Mapping[str, str]) -> "Program":
        """The same, told more."""
        return replace(self, environment={**self.environment, **more})


@dataclass(frozen=True, kw_only=True)
class Process:
    """A process that was started. `born` tells it from a later one with the same number."""

    name: str
    pid: int
    born: str
    log: str
    log_start: int
    stop_signal: int

    def alive(self) -> bool:
        """Whether this very process still runs."""
        return birth(self.pid) == self.born

    def said(self) -> str:
        """What it logged since it was started."""
        try:
            with Path(self.log).open("rb") as log:
                log.seek(self.log_start)
                return log.read().decode(errors="replace")
        except FileNotFoundError:
            return ""

    def why(self) -> str:
        """The line that best tells what went wrong, and where the rest is."""
        lines = [line.strip() for line in self.said().splitlines() if line.strip()]
        telling = [line for line in lines if SAYS_WHY.search(line)]
        last = (telling or lines or ["it said nothing"])[-1]
        return f"{_plain(last)} (log: {self.log})"


def _plain(line: str) -> str:
    """The message of a JSON log line; any other line as it is."""
    try:
        entry = json.loads(line)
    except ValueError:
        return line
    if not isinstance(entry, dict):
        return line
    said = [str(entry[key]) for key in ("event", "message", "error", "exception") if entry.get(key)]
    return ": ".join(said).splitlines()[-1] if said else line


def birth(pid: int) -> str | None:
    """What identifies a running process besides its number; None when it runs no more."""
    state, *fields = _stat(pid) or ["Z"]
    if state == "Z":
        return None
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{boot}/{fields[18]}"


def ancestors(pid: int) -> Iterator[int]:
    """Who started it, and who started that one, and so on."""
    while (stat := _stat(pid)) and (pid := int(stat[1])):
        yield pid


def memory(pid: int) -> int:
    """Bytes that it uses, its share of what it has in common with others (PSS) among them."""
    try:
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0
    found = re.search(r"^Pss: +(\d+) kB", rollup, re.MULTILINE)
    return int(found[1]) * 1024 if found else 0


def _stat(pid: int) -> list[str]:
    """Its state, parent and so on (proc(5)); the name before them may hold anything."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def start(program: Program, log: Path) -> Process:
    """Start it in a session of its own, so that a Ctrl-C at the terminal does not reach it."""
    log.parent.mkdir(parents=True, exist_ok=True)
    libc = ctypes.CDLL(None) if program.tied else None

    def tie() -> None:
        if libc is not None:
            libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)

    with log.open("ab") as output:
        begin = output.tell()
        try:
            child = subprocess.Popen(
                program.command,
                cwd=program.directory,
                env=dict(program.environment),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                user=program.user,
                group=program.user,
                extra_groups=[] if program.user else None,
                preexec_fn=tie if program.tied else None,  # noqa: PLW1509  (no threads here)
            )
        except OSError as error:
            raise Failed(f"{program.name} cannot be started: {error}") from error
    # Kept from being collected: a Popen that is dropped while its process runs complains.
    _CHILDREN.append(child)
    return Process(
        name=program.name,
        pid=child.pid,
        born=birth(child.pid) or "gone",
        log=str(log),
        log_start=begin,
        stop_signal=program.stop_signal,
    )


def adopt(pid: int) -> Process:
    """A process that somebody else started; what it logged is not known."""
    name = Path(f"/proc/{pid}/comm").read_text().strip()
    born = birth(pid) or "gone"
    return Process(name=name, pid=pid, born=born, log="", log_start=0, stop_signal=signal.SIGTERM)


_CHILDREN: list["subprocess.Popen[bytes]"] = []


def _reap() -> None:
    """Collect children that ended, so that they do not stay as zombies."""
    for child in _CHILDREN:
        child.poll()


def wait_ready(
    waiting: Mapping[Process, Callable[[], bool]],
    seconds: float,
    done: Callable[[Process], None] = lambda _: None,
) -> None:
    """Until each process is ready; Failed as soon as one of them ends or the time is over."""
    left = dict(waiting)
    deadline = time.monotonic() + seconds
    while left:
        _reap()
        for process in [process for process in left if left[process]()]:
            del left[process]
            done(process)
        for process in left:
            if not process.alive():
                raise Failed(f"{process.name} did not start: {process.why()}")
        if left and time.monotonic() > deadline:
            late = next(iter(left))
            raise Failed(f"{late.name} was not ready within {seconds:.0f} s: {late.why()}")
        time.sleep(POLL_SECONDS)


def run_all(programs: Sequence[Program], log_dir: Path, seconds: float) -> None:
    """Run programs that end by themselves, side by side; Failed unless all of them end well."""
    runs: list[Process] = []
    try:
        runs.extend(start(program, log_dir / f"{program.name}.log") for program in programs)
        deadline = time.monotonic() + seconds
        while any(process.alive() for process in runs):
            if time.monotonic() > deadline:
                late = next(process for process in runs if process.alive())
                raise Failed(f"{late.name} took more than {seconds:.0f} s: {late.why()}")
            time.sleep(POLL_SECONDS)
    finally:
        stop(runs, grace=2)
    codes = {child.pid: child.wait() for child in _CHILDREN if child.pid in {r.pid for r in runs}}
    failed = [process for process in runs if codes[process.pid] != 0]
    if failed:
        others = ", ".join(process.name for process in failed[1:])
        also = f" Also failed: {others}." if others else ""
        raise Failed(f"{failed[0].name} failed: {failed[0].why()}{also}")


def stop(processes: Iterable[Process], grace: float) -> list[str]:
    """Ask all of them to end, and end those that do not within the grace; returns whose names."""
    left = [process for process in processes if process.alive()]
    for process in left:
        _signal(process, process.stop_signal)
    deadline = time.monotonic() + grace
    while left and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
        _reap()
        left = [process for process in left if process.alive()]
    for process in left:
        # The whole group: what it started must not outlive it.
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except OSError:
            _signal(process, signal.SIGKILL)
    for process in left:
        while process.alive():
            time.sleep(POLL_SECONDS)
            _reap()
    _reap()
    return [process.name for process in left]


def _signal(process: Process, number: int) -> None:
    try:
        os.kill(process.pid, number)
    except ProcessLookupError:
        return


def reload(process: Process) -> None:
    """Have it read its configuration again."""
    _signal(process, signal.SIGHUP)


@dataclass(kw_only=True)
class State:
    """What runs and how to reach it, in a file that only this user can read."""

    path: Path
    processes: list[Process] = field(default_factory=list)
    ports: dict[str, int] = field(default_factory=dict)
    #: What each process was started with; a changed one is started anew.
    digests: dict[str, str] = field(default_factory=dict)
    #: Whether the servers that run hold roles, schemas and queues; not so while they are begun.
    prepared: bool = True

    @classmethod
    def load(cls, path: Path) -> "State":
        """What was written last; nothing when there is no file, or only half of one."""
        try:
            stored = json.loads(path.read_text())
            return cls(
                path=path,
                processes=[Process(**entry) for entry in stored["processes"]],
                ports=stored["ports"],
                digests=stored["digests"],
                prepared=stored["prepared"],
            )
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return cls(path=path)

    def save(self) -> None:
        """Replace the file; nobody ever reads half of it."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        stored = {
            "processes": [asdict(process) for process in self.processes],
            "ports": self.ports,
            "digests": self.digests,
            "prepared": self.prepared,
        }
        draft = self.path.with_suffix(".draft")
        draft.touch(mode=0o600)
        draft.write_text(json.dumps(stored, indent=2))
        draft.replace(self.path)

    def alive(self) -> dict[str, Process]:
        """The processes that still run, by name, in the order of their start."""
        _reap()
        return {process.name: process for process in self.processes if process.alive()}

    def add(self, process: Process) -> None:
        """Remember it at once: a launcher that is killed now must leave a trace."""
        self.processes = [kept for kept in self.processes if kept.name != process.name]
        self.processes.append(process)
        self.save()

    def forget(self, names: Iterable[str]) -> None:
        """They were stopped."""
        gone = set(names)
        self.processes = [kept for kept in self.processes if kept.name not in gone]
        self.save()
