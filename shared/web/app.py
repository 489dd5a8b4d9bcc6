"""A service's HTTP application: routes, problem documents, request ids, metrics, health."""

import re
import time
from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter, FastAPI, Request, Response
from prometheus_client import Counter, Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shared.context import Cause, caused_by, child_of, coming_in, new_traceparent
from shared.health import health_routes
from shared.ids import new_id
from shared.observability import logger
from shared.runtime import Runtime
from shared.web import problems
from shared.web.edge import Replayed
from shared.web.key_rules import KeyRules, install_key_rules
from shared.web.openapi import describe
from shared.web.routing import close_doors

log = logger(__name__)

REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{8,128}")
TRACEPARENT = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")

REQUESTS = Counter("http_requests_total", "Requests answered.", ["method", "route", "status"])
DURATION = Histogram(
    "http_request_duration_seconds",
    "Time to answer.",
    ["method", "route"],
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)


class RequestContext:
    """Takes or makes the request id and trace, returns them, measures, and answers for faults."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        cause = _cause_of(dict(scope["headers"]))
        started = time.perf_counter()
        status = 0

        async def send_with_ids(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [
                    *message["headers"],
                    (b"x-request-id", cause.correlation_id.encode()),
                    (b"traceparent", cause.traceparent.encode()),
                ]
            await send(message)

        with caused_by(cause), coming_in(time.monotonic()):
            try:
                await self.app(scope, receive, send_with_ids)
            except Exception as error:
                if status:  # half an answer is out: only ending the connection is left
                    raise
                answer = await problems.fault(Request(scope), error)
                await answer(scope, receive, send_with_ids)
            finally:
                _measure(scope, status, time.perf_counter() - started)


def _cause_of(headers: dict[bytes, bytes]) -> Cause:
    request_id = headers.get(b"x-request-id", b"").decode("latin-1")
    if not REQUEST_ID.fullmatch(request_id):
        request_id = str(new_id())
    traceparent = headers.get(b"traceparent", b"").decode("latin-1")
    traced = TRACEPARENT.fullmatch(traceparent)
    return Cause(request_id, child_of(traceparent) if traced else new_traceparent())


def _measure(scope: Scope, status: int, seconds: float) -> None:
    # The route's pattern, never the path: ids would make a series each.
    route = getattr(scope.get("route"), "path", "unknown")
    REQUESTS.labels(scope["method"], route, str(status)).inc()
    DURATION.labels(scope["method"], route).observe(seconds)
    if not route.startswith("/health"):
        log.info(
            "Answered",
            method=scope["method"],
            route=route,
            status=status,
            milliseconds=round(seconds * 1000, 1),
        )


async def _replay(_request: Request, replayed: Exception) -> Response:
    if not isinstance(replayed, Replayed):
        raise replayed
    return replayed.response


def create_app(
    name: str,
    description: str,
    runtime: Runtime[Any, Any],
    routers: Sequence[APIRouter],
    key_rules: KeyRules,
) -> FastAPI:
    """The application. It serves its OpenAPI at `/openapi/<name>.json`."""
    app = FastAPI(
        title=f"Perennial {name}",
        description=description,
        version="1",
        openapi_url=f"/openapi/{name}.json",
        docs_url=None,
        redoc_url=None,
        separate_input_output_schemas=False,
        # A redirect would go to whatever name the Host header holds.
        redirect_slashes=False,
    )
    app.state.runtime = runtime
    problems.install(app)
    app.add_exception_handler(Replayed, _replay)
    for router in routers:
        app.include_router(router)
    close_doors(app)
    install_key_rules(app, key_rules)
    app.router.routes.extend(health_routes(runtime))
    app.add_middleware(RequestContext)
    describe(app)
    return app
