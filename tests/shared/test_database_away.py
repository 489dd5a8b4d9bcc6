"""A database that is out of reach is told as such, whatever it says while it comes back."""

from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy.exc import DBAPIError

from shared.web.problems import install


class Said(Exception):
    """What the driver raises: the database's own state in five characters."""

    def __init__(self, sqlstate: str) -> None:
        super().__init__("the database system is starting up")
        self.sqlstate = sqlstate


@pytest.mark.parametrize("sqlstate", ["57P03", "57P01", "53300", "25006"])
async def test_a_database_that_starts_or_ends_is_a_reason_to_try_again(sqlstate: str) -> None:
    app = FastAPI()
    install(app)

    @app.get("/")
    async def read() -> Any:
        raise DBAPIError("SELECT 1", None, Said(sqlstate))

    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        answer = await client.get("/")

    assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
    assert answer.headers["Retry-After"] == "1"
