"""What one installation consists of: its ports, its passwords, its servers and its processes."""

import hashlib
import json
import os
import secrets
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from signal import SIGQUIT

from infra.environment import DATABASE, PASSWORDS, SERVICES, Deployment
from infra.gateway.render import PREFIX as GATEWAY_PREFIX
from infra.gateway.render import Gateway, settings_from
from infra.native import install, ports
from infra.native.processes import Failed, Program
from infra.native.servers import POSTGRES_USER, Postgres, RabbitMQ, Redis, base_environment
from infra.postgres.provision import with_database

ROOT = Path(__file__).parents[2]
#: By this variable a process is known as one of an installation's own.
MARK = "PERENNIAL_NATIVE_RUN"

PREFERRED = {
    "postgres": 55432,
    "rabbitmq": 55672,
    "epmd": 54369,
    "rabbitmq distribution": 55673,
    "redis": 56379,
    "sandbox": 8130,
}
DEFAULT_GATEWAY_PORT = 8080
#: The first service's; the others count up from it, and each further replica is a step higher.
FIRST_API, FIRST_API_INTERNAL, FIRST_WORKER_INTERNAL, REPLICA_STEP = 8101, 8111, 8121, 100


@dataclass(frozen=True)
class Worker:
    """One process of a service, by the verb it is started with."""

    service: str
    verb: str
    replica: int

    @property
    def name(self) -> str:
        return f"{self.service}-{self.verb}" + (f"-{self.replica}" if self.replica > 1 else "")

    @property
    def ports(self) -> dict[str, int]:
        """The preferred ones."""
        more = SERVICES.index(self.service) + REPLICA_STEP * (self.replica - 1)
        if self.verb == "worker":
            return {f"{self.name} internal": FIRST_WORKER_INTERNAL + more}
        return {self.name: FIRST_API + more, f"{self.name} internal": FIRST_API_INTERNAL + more}


@dataclass(kw_only=True)
class Plan:
    """One installation: the folder with all that it writes, and the environment it is asked from.

    `ports` is filled by `choose_ports` before anything else can be asked for.
    """

    run: Path
    caller: Mapping[str, str]
    ports: dict[str, int]

    # ---- what people choose -----------------------------------------------------------------

    @property
    def gateway_port(self) -> int:
        """The only port that people know, so the only one that is never chosen for them."""
        known = str(self.ports.get("gateway", DEFAULT_GATEWAY_PORT))
        given = self.caller.get("PERENNIAL_GATEWAY_PORT") or known
        if not given.isdecimal() or not 0 < int(given) < 2**16:
            raise Failed(f"PERENNIAL_GATEWAY_PORT is no port: {given}")
        return int(given)

    @property
    def url(self) -> str:
        return self.caller.get("PERENNIAL_PUBLIC_URL") or f"http://localhost:{self.gateway_port}"

    @property
    def workers(self) -> list[Worker]:
        """The services' processes; one of each, or as many as `SCALE="auth=2 auth-worker=3"`."""
        counts = {(service, verb): 1 for service in SERVICES for verb in ("api", "worker")}
        for word in self.caller.get("SCALE", "").replace(",", " ").split():
            name, _, count = word.partition("=")
            service, _, verb = name.partition("-")
            kind = (service, verb or "api")
            if kind not in counts or not count.isdecimal() or int(count) < 1:
                raise Failed(f'SCALE has words like auth=2 or auth-worker=3, not "{word}"')
            counts[kind] = int(count)
        return [
            Worker(service, verb, replica)
            for (service, verb), count in counts.items()
            for replica in range(1, count + 1)
        ]

    def choose_ports(self, alive: Mapping[str, object]) -> None:
        """What runs keeps its ports; anything else gets the preferred ones, or others."""
        if "gateway" not in alive:
            self.ports.pop("gateway", None)
        preferred = dict(PREFERRED)
        for worker in self.workers:
            preferred |= worker.ports
        kept = {
            name: port
            for name, port in self.ports.items()
            if name.removesuffix(" internal").removesuffix(" distribution") in alive
        }
        gateway = self.gateway_port
        if kept.get("gateway") != gateway:
            ports.require(gateway)
        free = ports.Ports({*kept.values(), gateway})
        self.ports = {
            **kept,
            **{name: free.pick(port) for name, port in preferred.items() if name not in kept},
            "gateway": gateway,
        }

    # ---- what is made up --------------------------------------------------------------------

    @cached_property
    def passwords(self) -> dict[str, str]:
        """Made up once, kept in a file for this user alone."""
        file = self.run / "secrets.json"
        try:
            kept: dict[str, str] = json.loads(file.read_text())
        except (FileNotFoundError, ValueError):
            kept = {}
        if missing := [name for name in PASSWORDS if name not in kept]:
            kept |= {name: secrets.token_urlsafe(18) for name in missing}
            file.touch(mode=0o600)
            file.write_text(json.dumps(kept, indent=2))
        return kept

    @property
    def deployment(self) -> Deployment:
        """Where everything is, as the processes are told."""
        at = {name: f"{ports.HOST}:{port}" for name, port in self.ports.items()}
        return Deployment(
            postgres=at["postgres"],
            rabbitmq=at["rabbitmq"],
            redis=at["redis"],
            auth=at["auth-api"],
            invoicing=at["invoicing-api"],
            sandbox=at["sandbox"],
            gateway=f"{ports.HOST}:{self.gateway_port}",
            public_url=self.url,
            run_dir=self.run,
            passwords=self.passwords,
            caller=self.caller,
        )

    # ---- servers ----------------------------------------------------------------------------

    @property
    def postgres(self) -> Postgres:
        password = self.passwords["postgres"]
        return Postgres(folder=self.postgres_folder, port=self.ports["postgres"], password=password)

    @property
    def database_url(self) -> str:
        """The system's database, as the superuser."""
        return with_database(self.postgres.url, DATABASE)

    @property
    def database_passwords(self) -> dict[str, str]:
        return {service: self.passwords[f"database_{service}"] for service in SERVICES}

    @property
    def rabbitmq(self) -> RabbitMQ:
        return RabbitMQ(
            folder=self.run / "rabbitmq",
            port=self.ports["rabbitmq"],
            epmd_port=self.ports["epmd"],
            dist_port=self.ports["rabbitmq distribution"],
            passwords={
                name.removeprefix("broker_"): password
                for name, password in self.passwords.items()
                if name.startswith("broker_")
            },
        )

    @property
    def redis(self) -> Redis:
        password = self.passwords["redis"]
        return Redis(folder=self.run / "redis", port=self.ports["redis"], password=password)

    @cached_property
    def postgres_folder(self) -> Path:
        """In the run folder; where Debian's user for Postgres cannot enter that, in /var/lib."""
        folder = self.run / "postgres"
        if os.geteuid() != 0 or self._postgres_can_enter():
            return folder
        mark = hashlib.sha256(str(self.run).encode()).hexdigest()[:12]
        return Path("/var/lib/perennial") / mark / "postgres"

    def _postgres_can_enter(self) -> bool:
        tried = subprocess.run(
            ["test", "-x", str(self.run)],
            cwd="/",
            user=POSTGRES_USER,
            group=POSTGRES_USER,
            extra_groups=[],
            check=False,
        )
        return tried.returncode == 0

    # ---- processes --------------------------------------------------------------------------

    def programs(self) -> dict[str, Program]:
        """The sandbox provider, where there is one, and the services' processes, in order."""
        deployment = self.deployment
        programs = []
        if not deployment.is_production:
            sandbox = ["services.payments.sandbox"]
            programs.append(self._python("sandbox", sandbox, deployment.provider()))
        for worker in self.workers:
            environment = deployment.service(worker.service) | {
                "PERENNIAL_INTERNAL_PORT": str(self.ports[f"{worker.name} internal"])
            }
            if worker.verb == "api":
                environment["PERENNIAL_PORT"] = str(self.ports[worker.name])
            words = [f"services.{worker.service}", worker.verb]
            programs.append(self._python(worker.name, words, environment))
        return {program.name: program for program in programs}

    def migrations(self) -> list[Program]:
        """One per service; they end by themselves."""
        return [
            self._python(
                f"{service}-migrate",
                [f"services.{service}", "migrate"],
                self.deployment.migrate(service),
            )
            for service in SERVICES
        ]

    def command(self, service: str, words: list[str]) -> Program:
        """A service's own command, such as auth's `staff`."""
        environment = self.deployment.service(service)
        return self._python(service, [f"services.{service}", *words], environment)

    def _python(self, name: str, words: list[str], environment: Mapping[str, str]) -> Program:
        # Compiled code is kept: thirteen processes start from the same files.
        own = {"PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "", MARK: str(self.run)}
        rest = {k: v for k, v in self.caller.items() if not k.startswith("PERENNIAL_")}
        return Program(
            name=name,
            command=[sys.executable, "-m", *words],
            environment={**rest, **environment, **own},
            directory=ROOT,
        )

    def health_port(self, name: str) -> int:
        """Where a process of ours answers /health/ready."""
        return self.ports.get(f"{name} internal") or self.ports[name]

    # ---- gateway ----------------------------------------------------------------------------

    @property
    def gateway_folder(self) -> Path:
        return self.run / "gateway"

    @property
    def gateway_conf(self) -> str:
        """The whole nginx.conf, with each api process as it runs."""
        upstreams: dict[str, list[str]] = {service: [] for service in SERVICES}
        for worker in self.workers:
            if worker.verb == "api":
                upstreams[worker.service].append(f"{ports.HOST}:{self.ports[worker.name]}")
        try:
            return Gateway(
                run_dir=self.gateway_folder,
                listen=f"{ports.HOST}:{self.gateway_port}",
                upstreams=upstreams,
                settings=settings_from(self.caller),
            ).render()
        except (KeyError, ValueError) as error:
            raise Failed(f"The gateway's settings ({GATEWAY_PREFIX}…) are wrong: {error}") from None

    def gateway(self) -> Program:
        """What to start, with `gateway_conf` in its folder."""
        folder = self.gateway_folder
        return Program(
            name="gateway",
            command=[
                *(str(install.get("nginx")), "-p", str(folder), "-c", str(folder / "nginx.conf")),
                *("-e", "/dev/stderr", "-g", "daemon off;"),
            ],
            environment=base_environment(folder) | {MARK: str(self.run)},
            directory=folder,
            # Finishes what it has in hand.
            stop_signal=SIGQUIT,
        )
