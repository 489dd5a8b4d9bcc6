"""Every place at which a process may be told to die is one that some test kills it at."""

import asyncio
import os
import signal
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import uuid4

import asyncpg
import httpx
import pytest

from infra.native.ports import Ports
from tests.chaos.faults.processes import places
from tests.harness import Deployment
from tests.messaging.probe import eventually
from tests.messaging.test_crashes import PLACES as OF_THE_PATH
from tests.payments.test_crash import POINTS as OF_A_CHARGE

ROOT = Path(__file__).parents[2]
OF_A_REQUEST = ("web.before_commit", "web.committed_not_answered")


def test_no_place_is_forgotten() -> None:
    """A new `crashpoint(…)` needs a test that dies there; the random runs take it by themselves."""
    assert set(places()) == {*OF_THE_PATH, *OF_A_CHARGE, *OF_A_REQUEST} - {"during_the_call"}


@pytest.mark.servers
@pytest.mark.timeout(300)
@pytest.mark.parametrize("place", OF_A_REQUEST)
async def test_a_request_whose_process_dies_is_done_once(
    place: str, deployment: Deployment, tmp_path: Path
) -> None:
    port = Ports().pick(28_500 + OF_A_REQUEST.index(place))
    email = f"{uuid4()}@example.com"
    async with running(deployment, port, tmp_path, crash_at=place) as dying:
        with pytest.raises(httpx.HTTPError):
            await register(port, email)
        assert await dying.wait() == -signal.SIGKILL

    async with running(deployment, port, tmp_path):
        answers = [await register(port, email), await register(port, email)]
    assert [answer.status_code for answer in answers] == [201, 201]
    assert answers[0].json() == answers[1].json()
    connection = await asyncpg.connect(deployment.database_urls["auth"])
    made = await connection.fetch("SELECT id FROM auth.registrations WHERE email = $1", email)
    await connection.close()
    assert [str(row["id"]) for row in made] == [answers[0].json()["user"]["id"]]


async def register(port: int, email: str) -> httpx.Response:
    """Under one key, as a client that is not sure whether it was done."""
    body = {
        "email": email,
        "password": "a long enough chaos passphrase",
        "full_name": "Ada",
        "account_name": email,
        "country": "DE",
        "time_zone": "Europe/Berlin",
    }
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=20) as http:
        return await http.post(
            "/v1/auth/register", json=body, headers={"Idempotency-Key": f"sign up {email}"}
        )


@asynccontextmanager
async def running(
    deployment: Deployment, port: int, folder: Path, crash_at: str = ""
) -> AsyncIterator[Process]:
    """Auth's API as a process of its own, from when it answers."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "services.auth", "api"),
        cwd=ROOT,
        env={
            **os.environ,
            "PERENNIAL_DATABASE_URL": deployment.database_urls["auth"],
            "PERENNIAL_BROKER_URL": deployment.broker_url,
            "PERENNIAL_REDIS_URL": deployment.redis_url,
            "PERENNIAL_PORT": str(port),
            "PERENNIAL_MAIL_DIR": str(folder),
            "PERENNIAL_CRASHPOINT": crash_at,
        },
    )

    async def answers() -> bool:
        try:
            async with httpx.AsyncClient() as http:
                found = await http.get(f"http://127.0.0.1:{port}/.well-known/jwks.json")
                return found.status_code == 200
        except httpx.HTTPError:
            return False

    try:
        await eventually(answers, within=100)
        yield process
    finally:
        if process.returncode is None:
            process.terminate()
            await process.wait()
