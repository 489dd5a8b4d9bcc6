"""The native launcher: what it decides on paper, and private servers and processes for real."""

import asyncio
import base64
import hashlib
import importlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import aio_pika
import asyncpg
import pytest
import redis.asyncio

from infra.environment import DEPLOYER, PASSWORDS, SERVICES, VHOST
from infra.native import install, ports
from infra.native.plan import MARK, Plan
from infra.native.processes import Failed, Program, State, run_all, start, stop, wait_ready
from infra.native.system import System
from infra.native.temporary import temporary_servers
from infra.postgres.provision import provision, with_database
from infra.rabbitmq.definitions import definitions
from shared.settings import PREFIX

ROOT = Path(__file__).parents[2]
HAVE_SERVERS = all(
    install.find(name) for name in ("postgres", "rabbitmq-server", "redis-server", "nginx")
)
native = pytest.mark.skipif(not HAVE_SERVERS, reason="the servers' programs are not installed")


def plan(tmp_path: Path, **caller: str) -> Plan:
    made = Plan(run=tmp_path, caller=caller, ports={})
    made.choose_ports({})
    return made


@pytest.fixture
def gateway_port() -> str:
    return str(ports.Ports().pick())


# ---- settings -------------------------------------------------------------------------------


@pytest.mark.parametrize("service", SERVICES)
def test_processes_are_told_nothing_that_they_do_not_know(
    service: str, tmp_path: Path, gateway_port: str
) -> None:
    settings = importlib.import_module(f"services.{service}.main").service.settings
    known = {f"{PREFIX}{name.upper()}" for name in settings.model_fields}
    deployment = plan(tmp_path, PERENNIAL_GATEWAY_PORT=gateway_port).deployment

    told = set(deployment.migrate(service))
    # A payment provider reads its own variables (docs/providers.md).
    told -= {f"{PREFIX}SANDBOX_URL", f"{PREFIX}SANDBOX_WEBHOOK_SECRET"}

    assert told <= known
    assert {f"{PREFIX}DATABASE_URL", f"{PREFIX}BROKER_URL", f"{PREFIX}BROKER_ADMIN_URL"} <= told


def test_what_the_caller_sets_reaches_the_processes_unless_the_launcher_decides_it(
    tmp_path: Path, gateway_port: str
) -> None:
    programs = plan(
        tmp_path,
        PERENNIAL_GATEWAY_PORT=gateway_port,
        PERENNIAL_LOG_LEVEL="DEBUG",
        PERENNIAL_DATABASE_URL="postgresql://elsewhere",
        HTTPS_PROXY="http://proxy",
    ).programs()
    told = programs["auth-api"].environment

    assert told["PERENNIAL_LOG_LEVEL"] == "DEBUG"
    assert told["HTTPS_PROXY"] == "http://proxy"
    assert "elsewhere" not in told["PERENNIAL_DATABASE_URL"]
    assert "PERENNIAL_GATEWAY_PORT" not in told


def test_production_has_neither_the_sandbox_nor_the_staff_user_of_development(
    tmp_path: Path, gateway_port: str
) -> None:
    made = plan(tmp_path, PERENNIAL_GATEWAY_PORT=gateway_port, PERENNIAL_ENVIRONMENT="production")
    told = made.deployment.migrate("auth")

    assert "sandbox" not in made.programs()
    assert "PERENNIAL_STAFF_EMAIL" not in told
    assert "PERENNIAL_STAFF_PASSWORD" not in told
    assert told["PERENNIAL_ENVIRONMENT"] == "production"


def test_each_service_has_credentials_of_its_own(tmp_path: Path, gateway_port: str) -> None:
    made = plan(tmp_path, PERENNIAL_GATEWAY_PORT=gateway_port)
    urls = [made.deployment.service(service)["PERENNIAL_DATABASE_URL"] for service in SERVICES]

    assert [urlsplit(url).username for url in urls] == list(SERVICES)
    assert len({urlsplit(url).password for url in urls}) == len(SERVICES)
    assert (tmp_path / "secrets.json").stat().st_mode & 0o777 == 0o600
    assert plan(tmp_path, PERENNIAL_GATEWAY_PORT=gateway_port).passwords == made.passwords


def test_passwords_are_as_rabbitmq_hashes_them() -> None:
    made = definitions(dict.fromkeys((*SERVICES, DEPLOYER), "secret"))
    hashed = base64.b64decode(made["users"][0]["password_hash"])
    salt, rest = hashed[:4], hashed[4:]

    assert rest == hashlib.sha256(salt + b"secret").digest()


# ---- replicas and ports ---------------------------------------------------------------------


def test_replicas_get_ports_of_their_own_and_a_place_in_the_gateway(
    tmp_path: Path, gateway_port: str
) -> None:
    made = plan(tmp_path, PERENNIAL_GATEWAY_PORT=gateway_port, SCALE="auth=2, invoicing-worker=3")
    names = list(made.programs())

    assert [name for name in names if name.startswith("auth-api")] == ["auth-api", "auth-api-2"]
    assert [name for name in names if name.startswith("invoicing-worker")] == [
        "invoicing-worker",
        "invoicing-worker-2",
        "invoicing-worker-3",
    ]
    assert len(set(made.ports.values())) == len(made.ports)
    for name in ("auth-api", "auth-api-2"):
        assert f"server 127.0.0.1:{made.ports[name]} " in made.gateway_conf


@pytest.mark.parametrize("wrong", ["nobody=2", "auth", "auth=0", "auth=many", "auth-cook=2"])
def test_a_wrong_scale_is_named(wrong: str, tmp_path: Path, gateway_port: str) -> None:
    with pytest.raises(Failed, match=wrong):
        plan(tmp_path, PERENNIAL_GATEWAY_PORT=gateway_port, SCALE=wrong)


def test_a_taken_gateway_port_is_refused_with_its_holder(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(Failed, match=rf"Port {port}.* \(process {os.getpid()}\)"):
            plan(tmp_path, PERENNIAL_GATEWAY_PORT=str(port))


def test_a_taken_port_of_a_server_is_stepped_around() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]

        assert ports.Ports().pick(port) != port


def test_what_runs_keeps_its_ports(tmp_path: Path, gateway_port: str) -> None:
    made = plan(tmp_path, PERENNIAL_GATEWAY_PORT=gateway_port)
    before = dict(made.ports)

    with socket.create_server(("127.0.0.1", before["postgres"])):
        made.choose_ports({"postgres": None, "gateway": None})

    assert made.ports["postgres"] == before["postgres"]
    assert made.ports["gateway"] == int(gateway_port)


# ---- processes ------------------------------------------------------------------------------


def shell(tmp_path: Path, name: str, script: str) -> Program:
    return Program(
        name=name,
        command=["/bin/sh", "-c", script],
        environment={"PATH": os.environ["PATH"]},
        directory=tmp_path,
    )


def test_a_process_that_ends_is_reported_with_the_line_that_says_why(tmp_path: Path) -> None:
    program = shell(tmp_path, "cook", "echo hello; echo 'Error: no salt'; echo bye; exit 3")
    process = start(program, tmp_path / "cook.log")

    with pytest.raises(Failed, match=r"cook did not start: Error: no salt \(log: .*cook.log\)"):
        wait_ready({process: lambda: False}, 10)


def test_json_log_lines_are_read_out(tmp_path: Path) -> None:
    line = json.dumps({"event": "Failed", "error": "no pepper"})
    process = start(shell(tmp_path, "cook", f"echo '{line}'"), tmp_path / "cook.log")

    with pytest.raises(Failed, match=r"cook did not start: Failed: no pepper \(log"):
        wait_ready({process: lambda: False}, 10)


def test_an_earlier_run_s_lines_are_not_taken_for_this_one_s(tmp_path: Path) -> None:
    (tmp_path / "cook.log").write_text("Error: yesterday\n")
    process = start(shell(tmp_path, "cook", "exit 1"), tmp_path / "cook.log")

    with pytest.raises(Failed, match="it said nothing"):
        wait_ready({process: lambda: False}, 10)


def test_who_does_not_stop_is_killed_and_named(tmp_path: Path) -> None:
    stubborn = start(
        shell(tmp_path, "stubborn", "trap '' TERM; echo up; while :; do sleep 0.05; done"),
        tmp_path / "stubborn.log",
    )
    polite = start(shell(tmp_path, "polite", "exec sleep 60"), tmp_path / "polite.log")
    wait_ready({stubborn: lambda: "up" in stubborn.said()}, 10)

    assert stop([stubborn, polite], grace=0.5) == ["stubborn"]
    assert not stubborn.alive()
    assert not polite.alive()


def test_jobs_that_fail_are_all_named(tmp_path: Path) -> None:
    jobs = [shell(tmp_path, name, "echo fatal: $0; exit 1") for name in ("one", "two")]

    with pytest.raises(Failed, match=r"one failed: fatal: .* Also failed: two\."):
        run_all(jobs, tmp_path, 10)


def test_a_process_is_not_mistaken_for_a_later_one_with_its_number(tmp_path: Path) -> None:
    state = State(path=tmp_path / "state.json")
    process = start(shell(tmp_path, "cook", "exec sleep 60"), tmp_path / "cook.log")
    state.add(process)
    assert list(State.load(state.path).alive()) == ["cook"]

    stored = json.loads(state.path.read_text())
    stored["processes"][0]["born"] = "another boot/1"
    state.path.write_text(json.dumps(stored))

    assert State.load(state.path).alive() == {}
    stop([process], grace=2)


def test_half_a_state_file_counts_as_none(tmp_path: Path) -> None:
    (tmp_path / "state.json").write_text('{"processes": [')

    assert State.load(tmp_path / "state.json").processes == []


def test_processes_are_found_again_when_the_state_is_lost(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    program = shell(tmp_path, "cook", "exec sleep 60").with_environment({MARK: str(run)})
    process = start(program, tmp_path / "cook.log")
    wait_ready({process: lambda: Path(f"/proc/{process.pid}/comm").read_text() == "sleep\n"}, 10)

    System(run, {}).down()

    assert not process.alive()


def test_two_launchers_do_not_work_at_once(tmp_path: Path) -> None:
    first, second = System(tmp_path, {}), System(tmp_path, {})

    with first._alone(), pytest.raises(Failed, match="Another make up or make down"):
        second.down()


# ---- what is missing ------------------------------------------------------------------------


def test_a_missing_program_is_named_with_its_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(install, "find", lambda name: None if name == "nginx" else Path("/bin"))
    monkeypatch.setattr(install, "_as_root", lambda: None)

    with pytest.raises(install.Missing, match=r"Missing programs: install the packages nginx \("):
        install.ensure(["postgres", "nginx"], tmp_path / "install.log")


# ---- for real -------------------------------------------------------------------------------


@pytest.mark.servers
@native
async def test_temporary_servers_hold_what_a_deployment_needs() -> None:
    with temporary_servers() as urls:
        database = with_database(urls["postgres_admin_url"], "perennial")
        await provision(database, dict.fromkeys(SERVICES, "secret"))
        await provision(database, dict.fromkeys(SERVICES, "secret"))  # harmless to repeat
        at = urlsplit(database)
        connection = await asyncpg.connect(
            f"postgresql://auth:secret@127.0.0.1:{at.port}/perennial"
        )
        assert await connection.fetchval("SHOW search_path") == "auth"
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute("CREATE TABLE invoicing.mine ()")
        await connection.close()

        cache = redis.asyncio.Redis.from_url(urls["redis_url"])
        assert await cache.ping()
        await cache.aclose()

        await _a_service_may_do_its_own_things_alone(urls["rabbitmq_url"])
        folder = at.port
    assert ports.is_free(folder or 0)


async def _a_service_may_do_its_own_things_alone(url: str) -> None:
    deployer = await aio_pika.connect(url)
    channel = await deployer.channel()
    await channel.declare_exchange("billing.events", aio_pika.ExchangeType.TOPIC, durable=True)
    await channel.declare_exchange("other", aio_pika.ExchangeType.TOPIC, durable=True)
    for queue in ("auth.greet", "payments.collect"):
        await channel.declare_queue(queue, durable=True)
    await deployer.close()

    at = urlsplit(url)
    mine = f"amqp://auth:{at.password}@127.0.0.1:{at.port}/{VHOST}"

    async def refused(act: Callable[[aio_pika.abc.AbstractChannel], object]) -> bool:
        connection = await aio_pika.connect(mine)
        try:
            result = act(await connection.channel())
            assert asyncio.iscoroutine(result)
            await result
        except aio_pika.exceptions.ChannelClosed:
            return True
        finally:
            await connection.close()
        return False

    async def consume(channel: aio_pika.abc.AbstractChannel, name: str) -> None:
        queue = await channel.get_queue(name)
        await queue.get(fail=False)

    async def declare(channel: aio_pika.abc.AbstractChannel) -> None:
        await channel.declare_queue("auth.new", durable=True)

    assert not await refused(lambda channel: consume(channel, "auth.greet"))
    assert await refused(lambda channel: consume(channel, "payments.collect"))
    assert await refused(declare)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that Postgres' user may enter, which pytest's own are not."""
    with tempfile.TemporaryDirectory(prefix="perennial-", ignore_cleanup_errors=True) as made:
        Path(made).chmod(0o711)
        yield Path(made)


@pytest.mark.servers
@native
def test_servers_of_a_killed_test_run_are_gone(open_folder: Path) -> None:
    runner = subprocess.Popen(
        [sys.executable, "-m", "infra.native", "servers"],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(open_folder)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    with runner:
        assert runner.stdout
        urls = json.loads(runner.stdout.readline())
        assert all(ports.accepts(urlsplit(url).port or 0) for url in urls.values())
        os.kill(runner.pid, signal.SIGKILL)
        runner.wait(10)
    deadline = time.monotonic() + 10
    while any(ports.accepts(urlsplit(url).port or 0) for url in urls.values()):
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture
def copy(open_folder: Path) -> Iterator[Path]:
    """The code as it is now: others may be at work on it."""
    for name in ("infra", "services", "shared"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, open_folder / name, ignore=ignored)
    yield open_folder
    System(open_folder / ".run", {}).down()


@pytest.mark.servers
@pytest.mark.timeout(300)
@native
def test_up_and_down_and_all_that_can_lie_between(copy: Path, gateway_port: str) -> None:
    def launch(verb: str, **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "infra.native", verb],
            cwd=copy,
            env={**os.environ, "PERENNIAL_GATEWAY_PORT": gateway_port, **more},
            capture_output=True,
            text=True,
            check=False,
        )

    def alive() -> dict[str, int]:
        processes = State.load(copy / ".run" / "state.json").alive()
        return {name: process.pid for name, process in processes.items()}

    # A setting that is wrong stops the start with one message, and nothing stays.
    refused = launch("up", PERENNIAL_PREFETCH="much")
    assert refused.returncode == 1
    assert refused.stderr.count("PERENNIAL_PREFETCH") == 1
    assert alive() == {}

    assert launch("up").returncode == 0
    everything = alive()
    assert {f"{service}-{kind}" for service in SERVICES for kind in ("api", "worker")} <= set(
        everything
    )
    assert launch("status").returncode == 0

    # Again: nothing is touched.
    again = launch("up")
    assert "already runs" in again.stdout
    assert alive() == everything

    # A process and the gateway die: they alone come back.
    os.kill(everything["payments-worker"], signal.SIGKILL)
    os.kill(everything["gateway"], signal.SIGKILL)
    assert launch("status").returncode == 1
    assert launch("up").returncode == 0
    healed = alive()
    assert {name for name in everything if everything[name] != healed[name]} == {
        "payments-worker",
        "gateway",
    }

    # One more replica joins the gateway without a restart, and leaves it again.
    assert launch("up", SCALE="auth=2").returncode == 0
    assert alive()["gateway"] == healed["gateway"]
    assert "auth-api-2" in alive()
    assert launch("up").returncode == 0
    assert alive() == healed

    # A launcher that was killed before the servers were ready for anything: all is begun anew.
    state = State.load(copy / ".run" / "state.json")
    state.prepared = False
    state.save()
    assert "left of a run that was killed" in launch("up").stdout
    assert set(alive()) == set(healed)
    assert not set(alive().values()) & set(healed.values())

    stopped = launch("down")
    assert stopped.returncode == 0
    assert "had to be killed" not in stopped.stdout
    assert alive() == {}
    assert launch("down").stdout.startswith("Perennial does not run")


def test_every_password_has_a_name_once() -> None:
    assert len(PASSWORDS) == len(set(PASSWORDS))
