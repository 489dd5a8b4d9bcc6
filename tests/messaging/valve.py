"""A TCP proxy that a test can shut: what a server does that stops reading, and says nothing."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit


class Valve:
    """Passes bytes on both ways while it is open; `connections` counts who came."""

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._open = asyncio.Event()
        self._open.set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self.connections = 0
        self.url = ""

    def shut(self) -> None:
        self._open.clear()

    def open(self) -> None:
        self._open.set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.add(writer)
        there, away = await asyncio.open_connection(*self._target)
        self._writers.add(away)
        self._tasks |= {
            asyncio.create_task(self._pass_on(reader, away)),
            asyncio.create_task(self._pass_on(there, writer)),
        }

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                await self._open.wait()
                writer.write(data)
                await writer.drain()
        writer.close()

    async def close(self) -> None:
        """Both ends of every connection lose it."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for writer in self._writers:
            writer.transport.abort()


@asynccontextmanager
async def a_valve(url: str) -> AsyncIterator[Valve]:
    """A valve before the server that the URL names; `valve.url` goes through it."""
    parts = urlsplit(url)
    valve = Valve(str(parts.hostname), int(parts.port or 5672))
    server = await asyncio.start_server(valve.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    login = parts.netloc.rpartition("@")[0]
    valve.url = parts._replace(netloc=f"{login}@127.0.0.1:{port}").geturl()
    try:
        yield valve
    finally:
        server.close()
        await valve.close()
