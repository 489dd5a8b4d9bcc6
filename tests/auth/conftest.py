"""Auth as it runs: API and worker in the test's process, against real servers."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from fastapi import FastAPI

from services.auth.main import service
from tests.auth.people import People, an_address, from_address
from tests.harness import Deployment, Running, running


@pytest.fixture(scope="session")
def mail_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("mailbox")


@pytest.fixture(scope="session")
async def auth(deployment: Deployment, mail_dir: Path) -> AsyncIterator[Running]:
    async with running(service, deployment, None, mail_dir=mail_dir) as started:
        yield started


@pytest.fixture(scope="session")
def app(auth: Running) -> FastAPI:
    return service.create_api(auth.runtime)


@pytest.fixture
async def people(auth: Running, app: FastAPI, mail_dir: Path) -> AsyncIterator[People]:
    """Each test comes from a network address of its own, so that none uses up another's tries."""
    ip = an_address()
    async with from_address(app, ip) as http:
        yield People(auth, mail_dir, http, app, ip)
