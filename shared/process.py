"""`python -m services.<name> api|worker|migrate`: one way to start every process."""

import argparse
import asyncio
import contextlib
import importlib
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import uvicorn
from sqlalchemy.exc import DBAPIError
from starlette.applications import Starlette

from shared.errors import DomainError, MigrationFailed
from shared.files import write_for_owner_only
from shared.health import Check, health_routes, metrics_route
from shared.messaging.partitions import begin_partitions
from shared.observability import configure_logging, logger, redact_text
from shared.runtime import Runtime
from shared.service import Service
from shared.settings import Settings, load

log = logger(__name__)

VERBS = ("api", "worker", "migrate")


def main(name: str, argv: list[str] | None = None) -> None:
    """Run one process of a service. Bad settings and bad words end with 2, a failure with 1."""
    service: Service[Any, Any] = importlib.import_module(f"services.{name}.main").service
    parser = argparse.ArgumentParser(prog=f"python -m services.{name}", allow_abbrev=False)
    parser.add_argument("verb", choices=[*VERBS, *service.commands])
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="of the verb; try --help")
    given = parser.parse_args(argv)
    if given.arguments and given.verb in VERBS:
        parser.error(f"{given.verb} takes no arguments")
    settings = load(service.settings)
    write_for_owner_only()
    configure_logging(name, given.verb, settings.log_level)
    try:
        code = _run(service, settings, given.verb, given.arguments)
    except DomainError as refusal:
        sys.stderr.write(f"{refusal.detail}\n")
        raise SystemExit(2) from None
    except (OSError, DBAPIError, MigrationFailed) as error:
        cause = error.orig if isinstance(error, DBAPIError) else error
        sys.stderr.write(f"{name} {given.verb} failed: {redact_text(str(cause))}\n")
        raise SystemExit(1) from None
    raise SystemExit(code)


def _run(service: Service[Any, Any], settings: Settings, verb: str, rest: list[str]) -> int:
    if verb == "migrate":
        url = settings.database_url.get_secret_value()
        with _reaching("Postgres", url):
            _migrations().upgrade(service.name, url)
        return _loop(_deploy(service, settings))
    if verb == "api":
        return _loop(_api(service, settings))
    if verb == "worker":
        return _loop(_worker(service, settings))
    return _loop(_command(service, settings, verb, rest))


def _migrations() -> Any:
    """Alembic is loaded only where it is needed: every process of ours is light."""
    return importlib.import_module("shared.migrations")


@contextlib.contextmanager
def _reaching(server: str, url: str) -> Iterator[None]:
    """Say which server it was that could not be reached."""
    try:
        yield
    except OSError as error:
        address = urlsplit(url).netloc.rpartition("@")[2]
        raise ConnectionError(f"{server} at {address} is out of reach ({error})") from error


def _loop(main: Any) -> int:
    with asyncio.Runner(loop_factory=_new_loop) as runner:
        return int(runner.run(main) or 0)


def _new_loop() -> asyncio.AbstractEventLoop:
    loop: asyncio.AbstractEventLoop = importlib.import_module("uvloop").new_event_loop()
    return loop


async def _deploy(service: Service[Any, Any], settings: Settings) -> None:
    # Only here: the other processes do without FastStream, and with less memory.
    topology = importlib.import_module("shared.messaging.topology")
    broker = (settings.broker_admin_url or settings.broker_url).get_secret_value()
    with _reaching("RabbitMQ", broker):
        await topology.declare(service.name, service.consumers, settings)
    async with service.open(settings) as runtime:
        try:
            await begin_partitions(runtime)
        except DBAPIError as error:
            # The default partitions take the rows of this day.
            log.warning("Partitions were not made", error=str(error.orig))
        if service.after_migrate is not None:
            await service.after_migrate(runtime)
    log.info("Migrated", revision=_migrations().head(service.name))


async def _command(
    service: Service[Any, Any], settings: Settings, verb: str, rest: list[str]
) -> int:
    async with service.open(settings) as runtime:
        return await service.commands[verb](runtime, rest)


async def _api(service: Service[Any, Any], settings: Settings) -> None:
    async with service.open(settings) as runtime, _internal(runtime):
        server = _server(service.create_api(runtime), settings, settings.port)
        await server.serve()
        if not server.started:
            raise OSError(f"cannot listen on {settings.host}:{settings.port}")


async def _worker(service: Service[Any, Any], settings: Settings) -> None:
    async with service.open(settings) as runtime:
        worker = service.create_worker(runtime)
        stopping = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stopping.set)
        async with _internal(runtime, {"worker": worker.check}):
            with _reaching("RabbitMQ", settings.broker_url.get_secret_value()):
                await worker.start()
            log.info("Working")
            await stopping.wait()
            await worker.stop()


@asynccontextmanager
async def _internal(
    runtime: Runtime[Any, Any], checks: dict[str, Check] | None = None
) -> AsyncIterator[None]:
    """Health and metrics on the internal port, for as long as the block runs."""
    settings = runtime.settings
    if not settings.internal_port:
        yield
        return
    app = Starlette(routes=[*health_routes(runtime, checks), metrics_route()])
    server = _server(app, settings, settings.internal_port)
    # The process's own server (or the worker) answers signals; this one follows it.
    server.capture_signals = contextlib.nullcontext  # type: ignore[method-assign,assignment]
    serving = asyncio.create_task(server.serve())
    try:
        yield
    finally:
        server.should_exit = True
        await serving


def _server(app: Any, settings: Settings, port: int) -> uvicorn.Server:
    return uvicorn.Server(
        uvicorn.Config(
            app,
            host=settings.host,
            port=port,
            log_config=None,
            access_log=False,
            server_header=False,
            # The gateway overwrites X-Forwarded-For; nobody else reaches this port.
            proxy_headers=True,
            timeout_graceful_shutdown=int(settings.shutdown_grace_seconds),
            timeout_keep_alive=75,
        )
    )
