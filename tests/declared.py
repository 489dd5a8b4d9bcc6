"""Compares every answer that a test receives with what the service's OpenAPI declares."""

from collections.abc import Mapping
from typing import Any

import httpx
from fastapi import FastAPI
from fastapi.routing import APIRoute, iter_route_contexts

from shared.web.problems import MEDIA_TYPE


class DeclaredTransport(httpx.ASGITransport):
    """Calls an application in this process, and fails the test that gets what was not promised.

    An answer's status has to be declared for its operation, and of a refusal its code too.
    """

    def __init__(self, app: FastAPI, **options: Any) -> None:
        super().__init__(app, **{"raise_app_exceptions": False, **options})
        self._application = app

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        answer = await super().handle_async_request(request)
        operation = self._operation(request)
        if operation is not None:
            await answer.aread()
            fault = undeclared(operation, answer)
            assert fault is None, f"{request.method} {request.url.path}: {fault}"
        return answer

    def _operation(self, request: httpx.Request) -> dict[str, Any] | None:
        """What is declared about the operation that was asked; None for no operation."""
        for route in iter_route_contexts(self._application.routes):
            if (
                isinstance(route.original_route, APIRoute)
                and route.include_in_schema
                and request.method in (route.methods or ())
                and route.path_regex.match(request.url.path)
            ):
                paths = self._application.openapi()["paths"]
                operation: dict[str, Any] = paths[route.path_format][request.method.lower()]
                return operation
        return None


def undeclared(operation: Mapping[str, Any], answer: httpx.Response) -> str | None:
    """What of the answer was not promised, if anything."""
    promised = operation["responses"].get(str(answer.status_code))
    if promised is None:
        return f"the status {answer.status_code} is not declared: {answer.text[:300]}"
    kind = answer.headers.get("content-type", "").partition(";")[0]
    if answer.status_code < httpx.codes.BAD_REQUEST:
        return None
    if kind != MEDIA_TYPE:
        return f"{answer.status_code} came as {kind}, not as a problem"
    code = answer.json()["code"]
    if code not in promised["description"].split(", "):
        return f"the code {code} is not among the declared: {promised['description']}"
    return None
