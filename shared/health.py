"""Whether a process lives, and whether it can serve now."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from sqlalchemy import text
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from shared.runtime import Runtime

Check = Callable[[], Awaitable[None]]

CHECK_SECONDS = 2.0


async def _state(check: Check) -> str:
    try:
        await asyncio.wait_for(check(), CHECK_SECONDS)
    except Exception as error:  # noqa: BLE001  (whatever is wrong, it is not ready)
        return f"down: {type(error).__name__}"
    return "ok"


def health_routes(
    runtime: Runtime[Any, Any], extra: dict[str, Check] | None = None
) -> list[BaseRoute]:
    """`/health/live` looks at nothing; `/health/ready` names each dependency and its state.

    Without Redis a service is degraded, not unready; the broker is not asked, since the outbox
    keeps what it cannot take.
    """

    async def postgres() -> None:
        async with runtime.database.engine.connect() as connection:
            await connection.execute(text("SELECT 1"))

    async def redis() -> None:
        await runtime.redis.ping()

    async def live(_request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def ready(_request: Request) -> Response:
        needed = {"postgres": postgres, **(extra or {})}
        names = [*needed, "redis"]
        states = dict(
            zip(
                names,
                await asyncio.gather(*map(_state, [*needed.values(), redis])),
                strict=True,
            )
        )
        serving = all(states[name] == "ok" for name in needed)
        degraded = states["redis"] != "ok"
        status = "unready" if not serving else "degraded" if degraded else "ready"
        return JSONResponse(
            {"status": status, "checks": states}, status_code=200 if serving else 503
        )

    return [Route("/health/live", live), Route("/health/ready", ready)]


def metrics_route() -> BaseRoute:
    """Prometheus text; only ever on the internal port."""

    async def metrics(_request: Request) -> Response:
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)

    return Route("/metrics", metrics)
