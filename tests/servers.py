"""Where a test run's Postgres, RabbitMQ and Redis come from: given, containers, or native.

In this order: `TEST_POSTGRES_URL`, `TEST_RABBITMQ_URL` and `TEST_REDIS_URL` when all are given;
containers where a Docker daemon answers; else private servers from the machine's own programs.
`TEST_SERVERS=testcontainers` or `native` asks for one of the last two. Whatever was started ends
with the run, also when the run is killed.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from infra.launch import docker_answers

GIVEN = ("TEST_POSTGRES_URL", "TEST_RABBITMQ_URL", "TEST_REDIS_URL")


@dataclass(frozen=True)
class Servers:
    """The three servers, each with every right: roles, databases and topology are made by tests."""

    postgres_admin_url: str
    rabbitmq_url: str
    redis_url: str
    #: given, testcontainers or native
    kind: str


@contextmanager
def servers(*, durable: bool = False) -> Iterator[Servers]:
    """The servers of this run, until the block ends.

    Tests have a Postgres that waits for no disk; with `durable`, for benchmarks, what is started
    is set as in production. Those that were given are as they are.
    """
    asked = os.environ.get("TEST_SERVERS", "")
    if asked not in {"", "testcontainers", "native"}:
        raise RuntimeError(f"TEST_SERVERS is testcontainers or native, not {asked}.")
    given = [os.environ[name] for name in GIVEN if os.environ.get(name)]
    if len(given) == len(GIVEN):
        postgres, rabbitmq, redis = given
        yield Servers(postgres, rabbitmq, redis, kind="given")
    elif given:
        raise RuntimeError(f"Give all of {', '.join(GIVEN)} or none.")
    elif asked == "testcontainers" or (not asked and docker_answers()):
        with _containers(durable=durable) as started:
            yield started
    else:
        with _native(durable=durable) as started:
            yield started


@contextmanager
def _containers(*, durable: bool) -> Iterator[Servers]:
    """Ryuk, the reaper of testcontainers, removes them when this process is killed."""
    # Its patience is tries times interval: asked ten times as often, it must ask ten times as much.
    os.environ.setdefault("TC_POOLING_INTERVAL", "0.1")
    os.environ.setdefault("TC_MAX_TRIES", "1200")
    from testcontainers.community.postgres import PostgresContainer  # noqa: PLC0415
    from testcontainers.community.rabbitmq import RabbitMqContainer  # noqa: PLC0415
    from testcontainers.community.redis import RedisContainer  # noqa: PLC0415

    command = "postgres -c max_connections=300"
    postgres_container = PostgresContainer("postgres:17", driver=None)
    if not durable:
        command += " -c fsync=off -c synchronous_commit=off"
        postgres_container = postgres_container.with_tmpfs_mount("/var/lib/postgresql/data")
    with (
        RabbitMqContainer("rabbitmq:4-management") as rabbitmq,
        postgres_container.with_command(command) as postgres,
        RedisContainer("redis:8") as redis,
    ):
        broker = f"{rabbitmq.get_container_host_ip()}:{rabbitmq.get_exposed_port(rabbitmq.port)}"
        cache = f"{redis.get_container_host_ip()}:{redis.get_exposed_port(redis.port)}"
        yield Servers(
            postgres_admin_url=postgres.get_connection_url(),
            rabbitmq_url=f"amqp://{rabbitmq.username}:{rabbitmq.password}@{broker}/%2F",
            redis_url=f"redis://{cache}/0",
            kind="testcontainers",
        )


@contextmanager
def _native(*, durable: bool) -> Iterator[Servers]:
    """A launcher that keeps them for as long as the pipe to it is open."""
    launcher = subprocess.Popen(
        [sys.executable, "-m", "infra.native", "servers", *(["--durable"] if durable else [])],
        cwd=Path(__file__).parents[1],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    with launcher:
        assert launcher.stdin
        assert launcher.stdout
        assert launcher.stderr
        # Lines before it tell about packages being installed.
        urls = next((line for line in launcher.stdout if line.startswith("{")), None)
        if urls is None:
            raise RuntimeError(f"The test servers did not start: {launcher.stderr.read().strip()}")
        try:
            yield Servers(**json.loads(urls), kind="native")
        finally:
            launcher.stdin.close()
