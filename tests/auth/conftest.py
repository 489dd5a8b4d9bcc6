"""Auth as it runs: API and worker in the test's process, against real servers."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from services.auth.main import service
from tests.auth.people import People
from tests.harness import Deployment, Running, running


@pytest.fixture(scope="session")
def mail_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("mailbox")


@pytest.fixture(scope="session")
async def auth(deployment: Deployment, mail_dir: Path) -> AsyncIterator[Running]:
    async with running(service, deployment, None, mail_dir=mail_dir) as started:
        yield started


@pytest.fixture
def people(auth: Running, mail_dir: Path) -> People:
    return People(auth, mail_dir)
