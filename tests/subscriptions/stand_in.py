"""In invoicing's place, where a test wants to see what it is asked."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import orjson
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from shared.events import Event
from shared.messaging import envelope

Answer = Callable[["Asked"], Awaitable[Response]]


class Asked:
    """A request as it came."""

    def __init__(self, request: Request, body: bytes) -> None:
        self.method = request.method
        self.path = request.url.path
        self.query = request.query_params
        self.headers = request.headers
        self.body = body

    @property
    def events(self) -> list[Event]:
        """What it asks the price of."""
        return [envelope.parse(orjson.dumps(one)) for one in orjson.loads(self.body)["events"]]


class StandIn:
    """Tells what reached it, and answers what the test wants: at first, that it is away."""

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self.answer: Answer
        self.refuses(503, "unavailable", "Not yet.")

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        request = Request(scope, receive)
        asked = Asked(request, await request.body())
        self.asked.append(asked)
        await (await self.answer(asked))(scope, receive, send)

    def answers(self, body: Any) -> None:
        async def answer(_: Asked) -> Response:
            return JSONResponse(body)

        self.answer = answer

    def refuses(self, status: int, code: str, detail: str) -> None:
        problem = {"status": status, "code": code, "detail": detail}

        async def answer(_: Asked) -> Response:
            return JSONResponse(problem, status, media_type="application/problem+json")

        self.answer = answer


@asynccontextmanager
async def served(app: Any) -> AsyncIterator[str]:
    """An ASGI application on a socket of its own; the URL that it has."""
    outer = Starlette()
    outer.router.default = app
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(outer, log_config=None, timeout_graceful_shutdown=1))
    task = asyncio.create_task(server._serve([listening]))
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        await task
        listening.close()
