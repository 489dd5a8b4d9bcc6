"""Which of the two ways of running is chosen, and what compose is told, with a stand-in docker."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.native.ports import Ports
from infra.native.system import System

ROOT = Path(__file__).parents[2]

#: Writes down what it is asked; `up` fails and `ps` tells of a failed container where files say so.
DOCKER = """#!/bin/sh
echo "$*" >>"{folder}/asked"
case "$*" in
    info) exit $(cat "{folder}/info") ;;
    "compose ps --quiet") ;;
    "compose ps --all"*) echo "auth-migrate 1 "; echo "redis 0 healthy" ;;
    "compose up"*)
        echo "user=$PERENNIAL_USER url=$PERENNIAL_PUBLIC_URL"
        exit $(cat "{folder}/up")
        ;;
esac
"""


class Docker:
    """The stand-in, and a way to run the launcher with it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = Ports().pick()
        self.answers(info=0, up=0)
        script = folder / "docker"
        script.write_text(DOCKER.format(folder=folder))
        script.chmod(0o755)

    def answers(self, *, info: int, up: int) -> None:
        (self.folder / "info").write_text(str(info))
        (self.folder / "up").write_text(str(up))

    @property
    def asked(self) -> list[str]:
        return (self.folder / "asked").read_text().splitlines()

    def launch(self, *words: str, **more: str) -> subprocess.CompletedProcess[str]:
        rest = {k: v for k, v in os.environ.items() if not k.startswith("PERENNIAL_")}
        environment = {
            **rest,
            "PATH": f"{self.folder}:{os.environ['PATH']}",
            "PERENNIAL_GATEWAY_PORT": str(self.port),
            "PERENNIAL_RUN_DIR": str(self.folder / "run"),
        }
        return subprocess.run(
            [sys.executable, "-m", "infra.launch", *words],
            cwd=ROOT,
            env=environment | more,
            capture_output=True,
            text=True,
            check=False,
        )


@pytest.fixture
def docker(tmp_path: Path) -> Iterator[Docker]:
    yield Docker(tmp_path)
    System(tmp_path / "run", {}).down()


def test_compose_is_used_where_a_daemon_answers(docker: Docker) -> None:
    launched = docker.launch("up", SCALE="auth=2 invoicing-worker=3")

    assert launched.returncode == 0, launched.stderr
    assert docker.asked[-1] == (
        "compose up --detach --wait --build --remove-orphans"
        " --scale auth-api=2 --scale invoicing-worker=3"
    )
    user = "" if os.geteuid() == 0 else f"{os.geteuid()}:{os.getegid()}"
    assert f"user={user} url=http://localhost:{docker.port}" in launched.stdout
    assert f"Perennial runs at http://localhost:{docker.port}" in launched.stdout


def test_compose_leaves_the_sandbox_out_in_production(docker: Docker) -> None:
    docker.launch("up", PERENNIAL_ENVIRONMENT="production")

    assert docker.asked[-1].endswith(" --scale sandbox=0")


def test_a_failed_start_shows_why_and_leaves_nothing(docker: Docker) -> None:
    docker.answers(info=0, up=1)

    launched = docker.launch("up")

    assert launched.returncode == 1
    assert "auth-migrate did not start:" in launched.stdout
    assert docker.asked[-2:] == [
        "compose logs --no-log-prefix --tail 3 auth-migrate",
        "compose down",
    ]


def test_a_taken_port_is_found_before_anything_is_built(docker: Docker) -> None:
    with socket.create_server(("127.0.0.1", docker.port)):
        launched = docker.launch("up")

    assert launched.returncode == 1
    assert f"Port {docker.port}, where the gateway is to listen, is taken by" in launched.stderr
    assert not [words for words in docker.asked if words.startswith("compose up")]


@pytest.mark.parametrize("why", ["asked for", "no daemon"])
def test_native_is_used_where_it_is_asked_for_or_no_daemon_answers(
    why: str, docker: Docker
) -> None:
    docker.answers(info=1, up=0)
    more = {"PERENNIAL_NATIVE": "1"} if why == "asked for" else {}

    launched = docker.launch("status", **more)

    assert launched.stdout == "Perennial does not run. Start it with: make up\n"
    assert launched.returncode == 1


def test_a_service_s_command_runs_in_its_container(docker: Docker) -> None:
    docker.launch("exec", "auth", "staff", "ada@example.com", PERENNIAL_STAFF_PASSWORD="secret")

    assert docker.asked[-1] == (
        "compose exec --env PERENNIAL_STAFF_PASSWORD=secret"
        " auth-api python -m services.auth staff ada@example.com"
    )
