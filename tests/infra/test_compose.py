"""compose.yaml and the image recipe: what they promise on paper and, where asked, for real."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from infra.gateway.render import DEFAULTS, SERVICES, TEMPLATE
from infra.runtime_requirements import runtime

ROOT = Path(__file__).parents[2]
COMPOSE = (ROOT / "compose.yaml").read_text()
RECIPE = (ROOT / "infra/service.Dockerfile").read_text()
PROCESSES = [f"{service}-{kind}" for service in SERVICES for kind in ("api", "worker")]
JOBS = ["provision", "broker-users", *(f"{service}-migrate" for service in SERVICES)]

# ---- on paper -------------------------------------------------------------------------------


def test_the_gateway_has_the_same_settings_in_containers_and_natively() -> None:
    given = dict(re.findall(r"(\w+): \"\$\{PERENNIAL_GATEWAY_(?:\w+):-([^}]*)\}\"", COMPOSE))

    assert given == DEFAULTS


def test_compose_fills_in_the_whole_gateway_template() -> None:
    needed = set(re.findall(r"\$\{(\w+)\}", TEMPLATE.read_text()))
    gateway = COMPOSE.split("\n  gateway:\n")[1]

    assert needed <= set(re.findall(r"^      ([A-Z_]+):", gateway, re.MULTILINE))


def test_postgres_has_the_same_settings_in_containers_and_natively() -> None:
    lines = (ROOT / "infra/postgres/perennial.conf").read_text().splitlines()
    native = {
        name.strip(): value.strip().strip("'")
        for name, _, value in (line.partition("=") for line in lines if line[:1].isalpha())
    }
    contained = dict(re.findall(r"- -c\n      - '?(\w+)=(.*?)'?\n", COMPOSE))

    assert contained == native


def test_the_recipe_copies_one_service_and_what_it_shares() -> None:
    copied = re.findall(r"^COPY (?!--from|infra/)(.*)$", RECIPE, re.MULTILINE)

    assert copied == ["shared/ shared/", "services/${SERVICE}/ services/${SERVICE}/"]


def test_the_recipe_needs_no_registry_but_for_its_base() -> None:
    assert "syntax=" not in RECIPE
    assert set(re.findall(r"^FROM (\S+)", RECIPE, re.MULTILINE)) == {"python:3.13-slim"}
    assert "--require-hashes" in RECIPE


def test_an_image_holds_no_tools_of_development() -> None:
    entries = runtime((ROOT / "requirements.lock").read_text())
    names = re.findall(r"^([a-z0-9-]+)==", entries, re.MULTILINE)

    assert {"fastapi", "starlette", "asyncpg", "pydantic-core"} <= set(names)
    assert not {"pytest", "mypy", "ruff", "testcontainers", "import-linter"} & set(names)
    assert entries.count("--hash=sha256:") >= len(names)


# ---- as compose reads it --------------------------------------------------------------------


def docker(*arguments: str, **environment: str) -> str:
    """What a docker command prints; its complaints when it fails."""
    done = subprocess.run(
        ["docker", *arguments],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, f"docker {' '.join(arguments)}:\n{done.stdout}\n{done.stderr}"
    return done.stdout


def compose_is_here() -> bool:
    return (
        bool(shutil.which("docker"))
        and (
            subprocess.run(["docker", "compose", "version"], capture_output=True, check=False)
        ).returncode
        == 0
    )


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    if not compose_is_here():
        pytest.skip("docker compose is not installed")
    read: dict[str, Any] = json.loads(docker("compose", "config", "--format", "json"))["services"]
    return read


def test_only_the_gateway_is_published_and_only_here(services: dict[str, Any]) -> None:
    published = {name: service["ports"] for name, service in services.items() if "ports" in service}

    assert list(published) == ["gateway"]
    assert [port["host_ip"] for port in published["gateway"]] == ["127.0.0.1"]


def test_everything_is_bounded(services: dict[str, Any]) -> None:
    for name, service in services.items():
        assert int(service["mem_limit"]) > 0, name
        assert service["logging"]["options"]["max-size"] == "10m", name
        assert "container_name" not in service, f"{name} could not be scaled"
        assert "privileged" not in service, name


def test_whatever_stays_says_whether_it_is_well(services: dict[str, Any]) -> None:
    staying = set(services) - set(JOBS)

    assert set(PROCESSES) < staying
    for name in staying:
        assert services[name]["restart"] == "unless-stopped", name
        words = " ".join(services[name]["healthcheck"]["test"])
        assert "localhost" not in words, f"{name}: localhost may mean ::1"


def test_a_process_may_finish_what_it_has_in_hand(services: dict[str, Any]) -> None:
    for name in PROCESSES:
        grace = int(services[name]["environment"]["PERENNIAL_SHUTDOWN_GRACE_SECONDS"])
        assert services[name]["stop_grace_period"] == "30s"
        assert grace < 30


def test_nothing_starts_before_all_schemas_and_queues_are_there(services: dict[str, Any]) -> None:
    """All: an event that is published before its consumer's queue is there is set aside."""
    for name in PROCESSES:
        waits = services[name]["depends_on"]
        for service in SERVICES:
            assert waits[f"{service}-migrate"]["condition"] == "service_completed_successfully"


def test_a_service_has_its_own_credentials_and_no_others(services: dict[str, Any]) -> None:
    for service in SERVICES:
        for kind in ("api", "worker"):
            environment = services[f"{service}-{kind}"]["environment"]
            assert f"//{service}:" in environment["PERENNIAL_DATABASE_URL"]
            assert f"//{service}:" in environment["PERENNIAL_BROKER_URL"]
            assert "PERENNIAL_BROKER_ADMIN_URL" not in environment


# ---- for real -------------------------------------------------------------------------------

live = [
    pytest.mark.servers,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(
        os.environ.get("PERENNIAL_TEST_COMPOSE") != "1",
        reason="PERENNIAL_TEST_COMPOSE=1 starts the whole system in containers (.ci/run does)",
    ),
]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class System:
    """The system in containers, under a name and on a port of its own."""

    def __init__(self) -> None:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self.environment = {
            "COMPOSE_PROJECT_NAME": f"perennial-test-{os.getpid()}",
            "PERENNIAL_GATEWAY_PORT": str(port),
            "PERENNIAL_PUBLIC_URL": self.url,
        }

    def compose(self, *arguments: str) -> str:
        return docker("compose", *arguments, **self.environment)

    def get(self, path: str) -> tuple[int, Any]:
        try:
            with urllib.request.urlopen(self.url + path, timeout=10) as answer:  # noqa: S310
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as answer:
            return answer.code, json.load(answer)


@pytest.fixture(scope="module")
def system() -> Iterator[System]:
    system = System()
    try:
        system.compose("up", "--detach", "--wait", "--build", "--quiet-pull")
        yield system
    except AssertionError:
        sys.stderr.write(system.compose("logs", "--no-color", "--tail", "30"))
        raise
    finally:
        system.compose("down", "--volumes", "--remove-orphans")


class TestLive:
    """One system for all of these; each leaves it as healthy as it found it."""

    pytestmark = live

    def test_all_four_services_are_ready_behind_the_gateway(self, system: System) -> None:
        status, health = system.get("/health")

        assert (status, health["status"]) == (200, "ready")

    def test_an_answer_of_a_service_and_one_of_the_gateway(self, system: System) -> None:
        keys_status, keys = system.get("/.well-known/jwks.json")
        nothing_status, nothing = system.get("/metrics")

        assert (keys_status, len(keys["keys"]) > 0) == (200, True)
        assert (nothing_status, nothing["code"]) == (404, "not-found")

    def test_the_demo_tells_its_story(self, system: System) -> None:
        done = subprocess.run(
            [sys.executable, "-m", "infra.demo"],
            cwd=ROOT,
            env={**os.environ, **system.environment},
            capture_output=True,
            text=True,
            check=False,
            stdin=subprocess.DEVNULL,
        )

        assert done.returncode == 0, done.stdout + done.stderr

    def test_the_gateway_follows_replicas(self, system: System) -> None:
        system.compose(
            *("up", "--detach", "--wait", "--no-recreate"),
            *("--scale", "subscriptions-api=3", "--scale", "payments-worker=2"),
        )
        containers = system.compose("ps", "--quiet", "subscriptions-api").split()
        statuses = [system.get("/v1/plans")[0] for _ in range(40)]
        asked = re.findall(
            r'"path":"/v1/plans","status":\d+.*?"upstream":"([^"]+)"',
            system.compose("logs", "--no-color", "gateway"),
        )

        assert len(containers) == 3
        assert len(set(asked[-30:])) == 3, "the gateway asks all three"
        assert len(set(statuses)) == 1
        assert statuses[0] < 500

        system.compose("up", "--detach", "--no-recreate", "--scale", "subscriptions-api=1")
        assert {system.get("/v1/plans")[0] for _ in range(40)} == {statuses[0]}

    def test_a_killed_process_comes_back(self, system: System) -> None:
        container = system.compose("ps", "--quiet", "payments-worker").split()[0]
        pid = docker("inspect", "--format", "{{.State.Pid}}", container).strip()
        if os.geteuid() != 0:
            pytest.skip("only root may kill a container's process from outside")

        # Not `docker kill`: that counts as stopped by hand, and nothing starts it again.
        subprocess.run(["kill", "-9", pid], check=True)

        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            if docker("inspect", "--format", "{{.State.Health.Status}}", container) == "healthy\n":
                restarts = docker("inspect", "--format", "{{.RestartCount}}", container)
                if restarts == "1\n":
                    return
            time.sleep(0.5)
        pytest.fail("it did not come back within a minute")
