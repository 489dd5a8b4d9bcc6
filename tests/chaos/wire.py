"""The wires between the processes: a TCP proxy that delays, holds, resets and redirects.

`python -m tests.chaos.wire <file>` reads `{"control": port, "links": {name: {"port": …, "to":
[port, …]}}}` and listens. On the control port it takes one JSON object per line: `links` (names),
and `set` (see `Mood`), `to` (other targets) or `reset` (end what is open, at once).

A held direction behaves as a network that swallows packets: nothing arrives, nobody is told, and
what was sent arrives when the network is back.
"""

import asyncio
import json
import socket
import struct
import sys
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import uvloop

#: Closing with this sends a reset instead of an orderly end.
RESET = struct.pack("ii", 1, 0)


@dataclass(frozen=True)
class Mood:
    """How a link treats its bytes."""

    #: Seconds added to each direction.
    latency: float = 0.0
    hold_to_server: bool = False
    hold_to_client: bool = False
    #: New connections are reset, as by a host without the program.
    refuse: bool = False


@dataclass(eq=False)
class Link:
    """One listening port and the ports behind it, tried in order."""

    name: str
    to: list[int]
    mood: Mood = field(default_factory=Mood)
    ends: set["End"] = field(default_factory=set)

    def change(self, mood: Mood) -> None:
        """From now on; what was held goes on its way."""
        self.mood = mood
        for end in list(self.ends):
            end.pump()

    def reset(self) -> None:
        """End every open connection, on both sides, at once."""
        for end in list(self.ends):
            end.abort()

    async def accept(self, client: "End") -> None:
        """Connect a client to the first target that answers."""
        loop = asyncio.get_running_loop()
        for port in self.to if not self.mood.refuse else []:
            with suppress(OSError):
                _, server = await loop.create_connection(
                    lambda: End(self, to_server=False), "127.0.0.1", port
                )
                client.join(server)
                return
        client.abort()


class End(asyncio.Protocol):
    """One side of a connection; what it receives goes to its peer."""

    def __init__(self, link: Link, *, to_server: bool) -> None:
        self._link = link
        self._to_server = to_server
        self._transport: Any = None
        self._peer: End | None = None
        #: What has arrived and not been passed on, with the instant before which it may not be.
        self._waiting: deque[tuple[float, bytes]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._is_over = False

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._link.ends.add(self)
        if self._to_server:
            _TASKS.add(task := asyncio.ensure_future(self._link.accept(self)))
            task.add_done_callback(_TASKS.discard)

    def join(self, peer: Any) -> None:
        """Both sides are there, unless this one has gone meanwhile."""
        if self._is_over:
            peer.abort()
            return
        self._peer, peer._peer = peer, self
        self.pump()

    def data_received(self, data: bytes) -> None:
        mood, peer = self._link.mood, self._peer
        if peer is not None and not self._is_held and not mood.latency and not self._waiting:
            peer._transport.write(data)
            return
        loop = asyncio.get_running_loop()
        self._waiting.append((loop.time() + mood.latency, data))
        self.pump()

    @property
    def _is_held(self) -> bool:
        mood = self._link.mood
        return mood.hold_to_server if self._to_server else mood.hold_to_client

    def pump(self) -> None:
        """Pass on what may go by now."""
        if self._peer is None or self._is_held:
            return
        loop = asyncio.get_running_loop()
        while self._waiting:
            due, data = self._waiting[0]
            if due > loop.time():
                if self._timer is None:
                    self._timer = loop.call_at(due, self._tick)
                return
            self._waiting.popleft()
            self._peer._transport.write(data)
        if self._is_over:
            self._link.ends.discard(self)
            self._peer._transport.close()

    def _tick(self) -> None:
        self._timer = None
        self.pump()

    def pause_writing(self) -> None:
        if self._peer is not None:
            self._peer._transport.pause_reading()

    def resume_writing(self) -> None:
        if self._peer is not None:
            with suppress(RuntimeError):
                self._peer._transport.resume_reading()

    def connection_lost(self, error: Exception | None) -> None:
        self._is_over = True
        if self._peer is None:
            self._link.ends.discard(self)
        elif error is not None and not self._is_held:
            self.abort()
        else:
            self.pump()

    def abort(self) -> None:
        """End it with a reset."""
        self._waiting.clear()
        self._is_over = True
        self._link.ends.discard(self)
        if self._transport is not None:
            with suppress(OSError):
                self._transport.get_extra_info("socket").setsockopt(
                    socket.SOL_SOCKET, socket.SO_LINGER, RESET
                )
            self._transport.abort()
        if self._peer is not None and self._peer in self._link.ends:
            self._peer.abort()


_TASKS: set[Any] = set()


async def serve(told: dict[str, Any]) -> None:
    """Listen on every link and on the control port, for ever."""
    loop = asyncio.get_running_loop()
    links = {name: Link(name, list(one["to"])) for name, one in told["links"].items()}
    for name, one in told["links"].items():
        link = links[name]
        await loop.create_server(
            lambda link=link: End(link, to_server=True),  # type: ignore[misc]
            "127.0.0.1",
            one["port"],
            backlog=500,
        )

    async def control(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            order(links, json.loads(line))
            writer.write(b"done\n")
        writer.close()

    server = await asyncio.start_server(control, "127.0.0.1", told["control"])
    await server.serve_forever()


def order(links: dict[str, Link], asked: dict[str, Any]) -> None:
    """What the control port was told."""
    known = {one.name for one in fields(Mood)}
    for name in asked["links"]:
        link = links[name]
        if "to" in asked:
            link.to = list(asked["to"])
        if "set" in asked:
            link.change(replace(Mood(), **{k: v for k, v in asked["set"].items() if k in known}))
        if asked.get("reset"):
            link.reset()


if __name__ == "__main__":
    uvloop.run(serve(json.loads(Path(sys.argv[1]).read_text())))
