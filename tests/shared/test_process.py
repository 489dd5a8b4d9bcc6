"""A process that cannot start says why in one sentence and leaves with the right code."""

import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.servers

GOOD = {
    "PERENNIAL_DATABASE_URL": "postgresql://auth:hunter2@127.0.0.1:1/none",
    "PERENNIAL_BROKER_URL": "amqp://auth:hunter2@127.0.0.1:1/",
    "PERENNIAL_REDIS_URL": "redis://:hunter2@127.0.0.1:1/0",
}


def start(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if "PERENNIAL" not in name}
    return subprocess.run(
        [sys.executable, "-m", "services.auth", *words],
        env={**clean, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def last_line(ended: subprocess.CompletedProcess[str]) -> str:
    assert "Traceback" not in ended.stderr
    assert "hunter2" not in ended.stderr
    return ended.stderr.strip().splitlines()[-1]


def test_every_fault_of_the_settings_is_named_at_once() -> None:
    ended = start("api", PERENNIAL_DATABASE_URL="somewhere", PERENNIAL_PORT="high")

    assert ended.returncode == 2
    said = last_line(ended)
    for name in ("DATABASE_URL", "BROKER_URL", "REDIS_URL", "PORT"):
        assert f"PERENNIAL_{name}:" in said


@pytest.mark.parametrize(("verb", "server"), [("migrate", "Postgres"), ("worker", "RabbitMQ")])
def test_a_server_that_is_away_is_named(verb: str, server: str) -> None:
    ended = start(verb, **GOOD)

    assert ended.returncode == 1
    assert last_line(ended).startswith(
        f"auth {verb} failed: {server} at 127.0.0.1:1 is out of reach"
    )


def test_a_word_that_is_no_verb_is_refused_with_those_that_are() -> None:
    ended = start("serve", **GOOD)

    assert ended.returncode == 2
    assert "api" in last_line(ended)


def test_a_verb_explains_itself() -> None:
    ended = start("replay", "--help", **GOOD)

    assert ended.returncode == 0
    assert "--since" in ended.stdout
