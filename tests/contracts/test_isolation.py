"""Each service starts with only itself and `shared` on the path, as in its image."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.servers

SERVICES = ("auth", "subscriptions", "invoicing", "payments")

#: Builds the API and the worker without contacting anything, and looks for neighbors.
START = """
import asyncio, importlib, sys
from pydantic import SecretStr

name = sys.argv[1]
service = importlib.import_module(f"services.{name}.main").service

async def build() -> None:
    settings = service.settings(
        database_url=SecretStr("postgresql://nobody:x@127.0.0.1:1/none"),
        broker_url=SecretStr("amqp://nobody:x@127.0.0.1:1/"),
        redis_url=SecretStr("redis://127.0.0.1:1/0"),
    )
    async with service.open(settings) as runtime:
        assert service.create_api(runtime).routes
        service.create_worker(runtime)

asyncio.run(build())
for other in {"auth", "subscriptions", "invoicing", "payments"} - {name}:
    try:
        importlib.import_module(f"services.{other}")
    except ModuleNotFoundError:
        continue
    raise SystemExit(f"{name} can see {other}")
"""


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_starts_with_only_itself_and_shared(service: str, tmp_path: Path) -> None:
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree("shared", tmp_path / "shared", ignore=ignored)
    shutil.copytree(Path("services") / service, tmp_path / "services" / service, ignore=ignored)

    started = subprocess.run(
        [sys.executable, "-c", START, service],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path), "PYTHONSAFEPATH": "1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert started.returncode == 0, started.stderr
