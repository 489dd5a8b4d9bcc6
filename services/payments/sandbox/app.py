"""The sandbox's HTTP surface, put together."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

from fastapi import FastAPI, Request

from services.payments.sandbox import charges, methods, returns
from services.payments.sandbox.books import Books, Row
from services.payments.sandbox.edge import InBooks, Refusal, refuse
from services.payments.sandbox.settings import SandboxSettings
from services.payments.sandbox.webhooks import Sender


async def health(books: InBooks) -> Row:
    books.one("SELECT 1")
    return {"status": "ok"}


def create_app(settings: SandboxSettings) -> FastAPI:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        books = Books(settings.database)
        app.state.books = books
        sender = Sender(books, url=settings.webhook_url, secret=settings.webhook_secret)
        task = asyncio.create_task(sender.run())
        yield
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        books.close()

    app = FastAPI(title="Perennial sandbox payment provider", lifespan=lifespan)
    app.state.settings = settings
    app.add_exception_handler(Refusal, refuse)

    if settings.latency_seconds:

        @app.middleware("http")
        async def far_away(request: Request, call_next: Callable[[Request], Awaitable[Any]]) -> Any:
            await asyncio.sleep(settings.latency_seconds)
            return await call_next(request)

    app.get("/health/live")(health)
    app.get("/health/ready")(health)
    for part in (methods, charges, returns):
        app.include_router(part.router)
    return app
