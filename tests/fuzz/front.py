"""All services behind one address, and what they answered that nobody declared."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import httpx
import uvicorn
from fastapi import FastAPI
from fastapi.routing import iter_route_contexts
from starlette.responses import PlainTextResponse

from tests.declared import DeclaredTransport, undeclared

#: Whose path it is, is asked in this order, as the gateway does: both know `/v1/invoices/…`.
ORDER = ("payments", "subscriptions", "auth", "invoicing")
#: A 503 that says what is being waited for, and not that something broke.
WAITS = {"account-not-ready"}


class Front:
    """An ASGI application that hands each request to its service, and looks at the answer."""

    def __init__(self) -> None:
        self.apps: dict[str, FastAPI] = {}
        #: By operation: how often each status was answered.
        self.answers: dict[str, Counter[int]] = {}
        self.faults: set[str] = set()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        app: Any = next((self.apps[n] for n in ORDER if self._routes(n, scope["path"])), None)
        if app is None:
            app = self.apps.get("auth", PlainTextResponse("Not yet.", 503))
        status, headers, body = 0, [], bytearray()

        async def look(message: Any) -> None:
            nonlocal status, headers
            if message["type"] == "http.response.start":
                status, headers = message["status"], message["headers"]
            else:
                body.extend(message.get("body", b""))
            await send(message)

        await app(scope, receive, look)
        if not isinstance(app, FastAPI):
            return
        self._judge(app, scope, httpx.Response(status, headers=headers, content=bytes(body)))

    def _routes(self, name: str, path: str) -> bool:
        app = self.apps.get(name)
        if app is None:
            return False
        return any(route.path_regex.match(path) for route in iter_route_contexts(app.routes))

    def _judge(self, app: FastAPI, scope: Any, answer: httpx.Response) -> None:
        request = httpx.Request(
            scope["method"], httpx.URL("http://test").copy_with(raw_path=scope["raw_path"])
        )
        operation = DeclaredTransport(app)._operation(request)
        if operation is None:
            return
        self.answers.setdefault(operation["operationId"], Counter())[answer.status_code] += 1
        fault = undeclared(operation, answer)
        if answer.is_server_error and json.loads(answer.content).get("code") not in WAITS:
            fault = f"{answer.status_code} {answer.text[:300]}"
        if fault is not None:
            self.faults.add(f"{operation['operationId']}: {fault}")

    @asynccontextmanager
    async def served(self) -> AsyncIterator[str]:
        """Its address, while it is served on a port of its own."""
        config = uvicorn.Config(self, port=0, log_config=None, access_log=False, lifespan="off")
        server = uvicorn.Server(config)
        task = asyncio.create_task(server.serve())
        while not server.started:  # noqa: ASYNC110  (nobody announces it)
            await asyncio.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            server.should_exit = True
            await task


def with_known_ids(document: dict[str, Any], known: Mapping[str, str]) -> dict[str, Any]:
    """The document, with ids of things that there are beside those that nobody has.

    A made-up id is not found, and what comes after that is never tried.
    """
    for path, item in document["paths"].items():
        for method, operation in item.items():
            for parameter in operation.get("parameters", ()):
                name = parameter["name"]
                # Else the account is closed by the first of them, and nothing else is tried.
                if name in known and not (method == "delete" and path.startswith("/v1/accounts")):
                    parameter["schema"] = _one_of(parameter["schema"], known[name])
    for schema in document["components"]["schemas"].values():
        for name, field in schema.get("properties", {}).items():
            if name in known:
                schema["properties"][name] = _one_of(field, known[name])
    return document


def _one_of(schema: dict[str, Any], known: str) -> dict[str, Any]:
    return {"anyOf": [{"const": known}, schema]}
