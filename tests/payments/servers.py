"""The sandbox as a process of its own, for tests."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

SECRET = "whsec_test"

#: One for all: making a client takes longer than what it is asked.
CLIENT = httpx.Client(timeout=10, verify=False, trust_env=False)  # noqa: S501  (plain HTTP)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass(frozen=True)
class Sandbox:
    """Where it is, and what it says that it charged."""

    url: str
    webhook_port: int

    @property
    def webhook_url(self) -> str:
        return f"http://127.0.0.1:{self.webhook_port}/v1/webhooks/sandbox"

    def get(self, path: str, **parameters: Any) -> Any:
        return CLIENT.get(f"{self.url}{path}", params=parameters).json()

    def post(self, path: str, body: dict[str, Any] | None = None) -> Any:
        return CLIENT.post(f"{self.url}{path}", json=body).json()

    def charges(self, invoice_id: object | None = None) -> list[dict[str, Any]]:
        """All charges, or those of an invoice of ours."""
        found: list[dict[str, Any]] = []
        after: int | None = 0
        while after is not None:
            page = self.get("/v1/charges", after=after, limit=1000)
            found += page["data"]
            after = page["next"]
        if invoice_id is None:
            return found
        return [row for row in found if row["metadata"].get("invoice_id") == str(invoice_id)]

    def amounts(self, invoice_id: object) -> list[int]:
        """What was taken for an invoice, charge by charge."""
        return [row["captured"] for row in self.charges(invoice_id) if row["captured"]]

    def taken(self, invoice_id: object) -> int:
        """How often money was taken for an invoice."""
        return sum(1 for row in self.charges(invoice_id) if row["captured"])


@contextmanager
def sandbox_process(folder: Path, **settings: object) -> Iterator[Sandbox]:
    """Run a sandbox until the block ends."""
    port, webhook_port = free_port(), free_port()
    made = Sandbox(f"http://127.0.0.1:{port}", webhook_port)
    environment = {
        **os.environ,
        "PERENNIAL_SANDBOX_PORT": str(port),
        "PERENNIAL_SANDBOX_DATABASE": str(folder / "sandbox.sqlite3"),
        "PERENNIAL_SANDBOX_WEBHOOK_URL": made.webhook_url,
        "PERENNIAL_SANDBOX_WEBHOOK_SECRET": SECRET,
        "PERENNIAL_SANDBOX_HANG_SECONDS": "2.5",
        **{f"PERENNIAL_SANDBOX_{name.upper()}": str(value) for name, value in settings.items()},
    }
    process = subprocess.Popen([sys.executable, "-m", "services.payments.sandbox"], env=environment)
    try:
        _wait_for(made.url, process)
        yield made
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"the sandbox ended with {process.returncode}")
        try:
            if CLIENT.get(f"{url}/health/live", timeout=1).is_success:
                return
        except httpx.HTTPError:
            time.sleep(0.05)
    raise TimeoutError("the sandbox does not answer")
