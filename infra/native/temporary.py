"""Servers for one test run: fast, in a temporary folder, gone when whoever asked for them is gone.

Those of a benchmark are as durable as a deployment's instead: `servers --durable`.
`python -m infra.native servers` prints their URLs as one line of JSON and keeps them until its
standard input ends, which a killed parent does as well as one that closes it.
"""

import json
import secrets
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from infra.environment import DEPLOYER, SERVICES
from infra.native import install
from infra.native.ports import Ports, accepts
from infra.native.processes import Failed, Process, start, stop, wait_ready
from infra.native.servers import Postgres, RabbitMQ, Redis

START_SECONDS = 90


@contextmanager
def temporary_servers(*, durable: bool = False) -> Iterator[dict[str, str]]:
    """The URLs of a fresh Postgres, RabbitMQ and Redis, with all rights.

    Postgres waits for no disk unless it has to be `durable`.
    """
    folder = Path(tempfile.mkdtemp(prefix="perennial-"))
    # Postgres may run as another user, who must be able to reach its own folder in here.
    folder.chmod(0o711)
    started: list[Process] = []
    try:
        install.ensure(["postgres", "rabbitmq-server", "redis-server"], folder / "install.log")
        yield _start(folder, started, durable=durable)
    finally:
        stop(reversed(started), grace=3)
        shutil.rmtree(folder, ignore_errors=True)


def _start(folder: Path, started: list[Process], *, durable: bool) -> dict[str, str]:
    free = Ports()
    password = secrets.token_urlsafe(12)
    rabbitmq = RabbitMQ(
        folder=folder / "rabbitmq",
        port=free.pick(),
        epmd_port=free.pick(),
        dist_port=free.pick(),
        passwords=dict.fromkeys((*SERVICES, DEPLOYER), password),
        tied=True,
    )
    postgres = Postgres(
        folder=folder / "postgres", port=free.pick(), password=password, durable=durable, tied=True
    )
    redis = Redis(folder=folder / "redis", port=free.pick(), password=password, tied=True)
    logs = folder / "logs"
    # The broker takes longest; the others are made while it boots.
    rabbitmq.prepare()
    epmd = start(rabbitmq.epmd(), logs / "epmd.log")
    started.append(epmd)
    wait_ready({epmd: lambda: accepts(rabbitmq.epmd_port)}, 10)
    ready = {}
    for server in (rabbitmq, redis, postgres):
        server.prepare()
        process = start(server.program(), logs / f"{server.program().name}.log")
        started.append(process)
        ready[process] = lambda server=server, process=process: server.ready(process)
    wait_ready(ready, START_SECONDS)
    return {
        "postgres_admin_url": postgres.url,
        "rabbitmq_url": rabbitmq.url,
        "redis_url": redis.url,
    }


def serve(*, durable: bool) -> int:
    """The command."""
    # A Ctrl-C reaches the whole terminal; the parent still needs its servers to end its tests.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        with temporary_servers(durable=durable) as urls:
            print(json.dumps(urls), flush=True)
            sys.stdin.read()
    except Failed as failure:
        sys.stderr.write(f"{failure}\n")
        return failure.code
    return 0
