"""Private Postgres, RabbitMQ and Redis: own folder, own ports, nothing shared with the machine's.

`durable` servers keep what was committed through a crash of the machine; the others are for tests.
"""

import json
import os
import pwd
import shutil
import signal
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from infra.environment import DEPLOYER, VHOST
from infra.native import install, ports
from infra.native.processes import Failed, Process, Program
from infra.rabbitmq.definitions import definitions

INFRA = Path(__file__).parents[1]
#: Debian's user for Postgres, which refuses to run as root.
POSTGRES_USER = "postgres"


def base_environment(home: Path) -> dict[str, str]:
    """What any program needs, and nothing of the caller's that could steer it."""
    return {
        "PATH": f"{install.FOLDERS}:{os.environ.get('PATH', '')}",
        "HOME": str(home),
        "LANG": "C.UTF-8",
        "LC_ALL": "C.UTF-8",
        "TZ": "UTC",
    }


@dataclass(frozen=True, kw_only=True)
class Postgres:
    """One Postgres with its data in `folder`, reached by TCP alone."""

    folder: Path
    port: int
    password: str
    durable: bool = True
    tied: bool = False

    @property
    def url(self) -> str:
        """As its superuser."""
        password = quote(self.password, safe="")
        return f"postgresql://postgres:{password}@127.0.0.1:{self.port}/postgres"

    @property
    def data(self) -> Path:
        return self.folder / "data"

    def prepare(self) -> None:
        """Make the data folder unless it is there, and heal what a killed run left in it."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._own(self.folder)
        if not (self.data / "PG_VERSION").exists():
            self._initialize()
        self._drop_stale_pid()
        conf = self.data / "perennial.conf"
        shutil.copyfile(INFRA / "postgres" / "perennial.conf", conf)
        self._own(conf)

    def _initialize(self) -> None:
        """In a folder beside, moved into place when complete: half of one never counts."""
        draft = self.folder / "draft"
        shutil.rmtree(draft, ignore_errors=True)
        secret = self.folder / "superuser-password"
        secret.touch(mode=0o600)
        secret.write_text(self.password)
        self._own(secret)
        command = [str(self._program("initdb")), "-D", str(draft), "-U", "postgres"]
        command += ["--encoding=UTF8", "--locale=C.UTF-8", "--auth=scram-sha-256"]
        command += [f"--pwfile={secret}", *([] if self.durable else ["--no-sync"])]
        made = subprocess.run(
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
        secret.unlink()
        if made.returncode != 0:
            said = made.stderr.strip().splitlines() or ["it said nothing"]
            why = next((line for line in said if "error" in line or "FATAL" in line), said[-1])
            raise Failed(f"Postgres could not make its data folder {self.data}: {why}")
        with (draft / "postgresql.conf").open("a") as conf:
            conf.write("\ninclude 'perennial.conf'\n")
        draft.rename(self.data)

    def _drop_stale_pid(self) -> None:
        """Postgres trusts a left pid file when another process has that number by now."""
        file = self.data / "postmaster.pid"
        try:
            pid = file.read_text().split("\n", 1)[0]
            running = Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            running = b""
        if str(self.data).encode() not in running:
            file.unlink(missing_ok=True)

    def program(self) -> Program:
        """What to start."""
        settings = {
            "port": str(self.port),
            "listen_addresses": ports.HOST,
            "unix_socket_directories": "",  # a deep folder would make too long a path
            "lc_messages": "C",
        }
        if not self.durable:
            settings |= {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
        command = [str(self._program("postgres")), "-D", str(self.data)]
        for name, value in settings.items():
            command += ["-c", f"{name}={value}"]
        return Program(
            name="postgres",
            command=command,
            environment=base_environment(self.folder),
            directory=self.folder,
            user=self.user,
            # Its "fast" shutdown: does not wait for clients to leave.
            stop_signal=signal.SIGINT,
            tied=self.tied,
        )

    def ready(self, process: Process) -> bool:
        """Whether it takes commands, and not just connections."""
        return "database system is ready to accept connections" in process.said()

    @property
    def user(self) -> str | None:
        """Whom to run it as: oneself, or, as root, Debian's user for it."""
        if os.geteuid() != 0:
            return None
        try:
            return pwd.getpwnam(POSTGRES_USER).pw_name
        except KeyError:
            raise Failed(
                f"Postgres refuses to run as root and there is no user {POSTGRES_USER}:"
                f" run this as an ordinary user, or add one with: useradd -r {POSTGRES_USER}"
            ) from None

    def _own(self, path: Path) -> None:
        if self.user:
            shutil.chown(path, self.user, self.user)

    def _program(self, name: str) -> Path:
        """Of the version that made the data folder, if that is installed."""
        try:
            version = (self.data / "PG_VERSION").read_text().strip()
        except OSError:
            version = ""
        same = Path("/usr/lib/postgresql") / version / "bin" / name
        return same if version and same.exists() else install.get(name)


@dataclass(frozen=True, kw_only=True)
class RabbitMQ:
    """One broker, and the epmd that Erlang wants beside it, on ports of their own."""

    folder: Path
    port: int
    epmd_port: int
    dist_port: int
    #: By user: the services and the deployer.
    passwords: Mapping[str, str]
    tied: bool = False

    @property
    def url(self) -> str:
        """As the user that may declare."""
        password = quote(self.passwords[DEPLOYER], safe="")
        return f"amqp://{DEPLOYER}:{password}@127.0.0.1:{self.port}/{quote(VHOST)}"

    def prepare(self) -> None:
        """Write its configuration."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        definitions_file = self.folder / "definitions.json"
        definitions_file.touch(mode=0o600)
        definitions_file.write_text(json.dumps(definitions(self.passwords)))
        conf = (INFRA / "rabbitmq" / "rabbitmq.conf").read_text()
        (self.folder / "rabbitmq.conf").write_text(
            f"{conf}\nlisteners.tcp.local = {ports.HOST}:{self.port}\n"
            f"load_definitions = {definitions_file}\n"
        )
        (self.folder / "enabled_plugins").write_text("[].\n")
        (self.folder / "rabbitmq-env.conf").touch()

    def epmd(self) -> Program:
        """Erlang's name server. Started by us, since a broker would leave one behind."""
        return Program(
            name="epmd",
            command=[
                *(str(install.get("epmd")), "-port", str(self.epmd_port)),
                *("-address", ports.HOST),
            ],
            environment=base_environment(self.folder),
            directory=self.folder,
            tied=self.tied,
        )

    def program(self) -> Program:
        """What to start, once epmd answers."""
        folder = self.folder
        environment = base_environment(folder) | {
            "RABBITMQ_CONF_ENV_FILE": str(folder / "rabbitmq-env.conf"),
            "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(folder / "advanced.config"),
            "RABBITMQ_GENERATED_CONFIG_DIR": str(folder / "generated"),
            "RABBITMQ_SCHEMA_DIR": str(folder / "schema"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "enabled_plugins"),
            "RABBITMQ_MNESIA_BASE": str(folder / "data"),
            "RABBITMQ_LOG_BASE": str(folder / "log"),
            "RABBITMQ_LOGS": "-",
            "RABBITMQ_PID_FILE": str(folder / "pid"),
            "RABBITMQ_NODENAME": "perennial@localhost",
            "RABBITMQ_DIST_PORT": str(self.dist_port),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
            "ERL_EPMD_PORT": str(self.epmd_port),
            "ERL_EPMD_ADDRESS": ports.HOST,
            # Otherwise the script stays as the parent, and does not pass every signal on.
            "RUNNING_UNDER_SYSTEMD": "true",
        }
        return Program(
            name="rabbitmq",
            command=[str(install.get("rabbitmq-server"))],
            environment=environment,
            directory=folder,
            tied=self.tied,
        )

    def ready(self, process: Process) -> bool:
        """Whether it has booted, loaded the definitions and listens."""
        return "Server startup complete" in process.said() and ports.accepts(self.port)


@dataclass(frozen=True, kw_only=True)
class Redis:
    """One Redis that saves nothing."""

    folder: Path
    port: int
    password: str
    tied: bool = False

    @property
    def url(self) -> str:
        return f"redis://:{quote(self.password, safe='')}@127.0.0.1:{self.port}/0"

    def prepare(self) -> None:
        """Write its configuration."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        conf = self.folder / "redis.conf"
        conf.touch(mode=0o600)
        shared = (INFRA / "redis" / "redis.conf").read_text()
        conf.write_text(
            f"{shared}\nbind {ports.HOST}\nport {self.port}\nrequirepass {self.password}\n"
            # It would write its title over its environment, by which we find our own again.
            f'dir "{self.folder}"\nset-proc-title no\n'
        )

    def program(self) -> Program:
        """What to start."""
        return Program(
            name="redis",
            command=[str(install.get("redis-server")), str(self.folder / "redis.conf")],
            environment=base_environment(self.folder),
            directory=self.folder,
            tied=self.tied,
        )

    def ready(self, process: Process) -> bool:
        """Whether it listens."""
        return "Ready to accept connections" in process.said() and ports.accepts(self.port)
