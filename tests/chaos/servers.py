"""The servers of a run beyond what an installation has: a standby, a cluster, a disk that fills."""

import asyncio
import ctypes
import os
import shutil
import signal
import subprocess
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import asyncpg

from infra.native.processes import Program
from infra.native.servers import Postgres, RabbitMQ, base_environment

CLONE_NEWNS = 0x20000
#: Of memory, where a run's database may have a disk of its own; it takes what is used of it.
DISK_BYTES = 8 * 2**30


@dataclass(frozen=True, kw_only=True)
class Database(Postgres):
    """A Postgres that may follow another one, or be followed."""

    name: str = "postgres"

    def program(self) -> Program:
        return replace(super().program(), name=self.name)

    def follow(self, port: int) -> None:
        """Become a copy of the primary that is reached by this port, ready to be started."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._own(self.folder)
        shutil.rmtree(self.data, ignore_errors=True)
        primary = f"host=127.0.0.1 port={port} user=postgres password={self.password}"
        command = [str(self._program("pg_basebackup")), "-D", str(self.data), "-R", "-X", "stream"]
        command += ["--checkpoint=fast", "--no-sync"]
        command += ["-d", f"{primary} application_name=standby"]
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=base_environment(self.folder),
            user=self.user,
            group=self.user,
            extra_groups=[] if self.user else None,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise OSError(f"no copy of the primary could be made: {done.stderr.strip()}")

    async def promote(self) -> None:
        """Be the primary from now on."""
        connection = await asyncpg.connect(self.url, timeout=5)
        try:
            await connection.fetchval("SELECT pg_promote(true, 30)")
        finally:
            await connection.close(timeout=2)


@dataclass(frozen=True, kw_only=True)
class Node(RabbitMQ):
    """One of several brokers that are a cluster; all of them share a cookie and an epmd."""

    number: int
    #: How many there are, and where the cookie is.
    of: int
    home: Path

    @property
    def name(self) -> str:
        return "rabbitmq" if self.number == 1 else f"rabbitmq-{self.number}"

    def prepare(self) -> None:
        super().prepare()
        self.home.mkdir(parents=True, exist_ok=True)
        cookie = self.home / ".erlang.cookie"
        if not cookie.exists():
            cookie.touch(mode=0o600)
            cookie.write_text(self.passwords["deployer"])
            cookie.chmod(0o400)
        with (self.folder / "rabbitmq.conf").open("a") as conf:
            conf.write("cluster_formation.peer_discovery_backend = classic_config\n")
            for number in range(1, self.of + 1):
                conf.write(f"cluster_formation.classic_config.nodes.{number} = {node(number)}\n")
            # A node that sees only a minority stops serving.
            conf.write("cluster_partition_handling = pause_minority\n")

    def program(self) -> Program:
        program = super().program()
        told = {"RABBITMQ_NODENAME": node(self.number), "HOME": str(self.home)}
        return replace(program.with_environment(told), name=self.name)


def node(number: int) -> str:
    return f"perennial{number}@localhost"


def kill_with_children(pid: int) -> None:
    """As the loss of a machine: nothing of it answers any more."""
    family = [pid, *_children(pid)]
    for one in family:  # stopped first, so that nobody starts another
        with suppress(ProcessLookupError):
            os.kill(one, signal.SIGSTOP)
    for one in {*family, *_children(pid)}:
        with suppress(ProcessLookupError):
            os.kill(one, signal.SIGKILL)


def _children(pid: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            if stat.read_text().rpartition(")")[2].split()[1] == str(pid):
                found.append(int(stat.parent.name))
    return found


class Disk:
    """A small disk of its own for a folder, in a view of the file system that only we have.

    It ends with the processes that see it, however they end. `mounted` is False where one may not
    do that: it takes root.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.mounted = False

    def mount(self) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        if os.geteuid() != 0 or libc.unshare(CLONE_NEWNS) != 0:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        self.mounted = _mount("--make-rprivate", "/") and _mount(
            *("-t", "tmpfs", "-o", f"size={DISK_BYTES}", "perennial-chaos", str(self._folder))
        )

    def unmount(self) -> None:
        """So that its folder can be removed."""
        if self.mounted:
            subprocess.run(["umount", "-l", str(self._folder)], check=False)
            self.mounted = False

    def fill(self) -> bool:
        """No space is left from now on; whether that could be had."""
        if not self.mounted:
            return False
        stat = os.statvfs(self._folder)
        used = (stat.f_blocks - stat.f_bfree) * stat.f_frsize
        return self._resize(used + 256 * 1024)

    def free(self) -> bool:
        return self._resize(DISK_BYTES)

    def _resize(self, size: int) -> bool:
        return _mount("-o", f"remount,size={size}", str(self._folder))


def _mount(*words: str) -> bool:
    return subprocess.run(["mount", *words], check=False, capture_output=True).returncode == 0


def ask(url: str, *statements: str) -> bool:
    """Tell a database something as its superuser; whether it was in a state to listen."""

    async def tell() -> None:
        connection = await asyncpg.connect(url, timeout=3, command_timeout=5)
        try:
            for statement in statements:
                await connection.execute(statement)
        finally:
            await connection.close(timeout=2)

    try:
        asyncio.run(tell())
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError):
        return False
    return True
