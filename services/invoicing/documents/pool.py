"""Rendering processes: few, recycled, and gone when nothing is to be rendered."""

import asyncio
import multiprocessing
import os
import time
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from services.invoicing.documents.rendering import Rendered, render

#: A compiler's cache grows: a process ends after so many documents, or when it had so much.
DOCUMENTS_PER_PROCESS = 300
BYTES_PER_PROCESS = 600 * 1024 * 1024
TIMEOUT_SECONDS = 60.0
IDLE_SECONDS = 30.0
#: Whoever waits for a request or an event goes first.
NICENESS = 10


class RenderPool:
    """At most `size` documents at once, each in a process that renders nothing else meanwhile.

    What kills its process, or has to be killed, takes no other document with it.
    """

    def __init__(self, size: int, *, more_fonts: str | None = None) -> None:
        self._idle: asyncio.LifoQueue[_Renderer] = asyncio.LifoQueue()
        self._all = [_Renderer(more_fonts) for _ in range(size)]
        for renderer in self._all:
            self._idle.put_nowait(renderer)

    async def render(self, paper: dict[str, Any], logo: bytes | None = None) -> Rendered:
        """One document. Raises when it cannot be made, takes too long or kills its process."""
        renderer = await self._idle.get()
        try:
            return await renderer.render(paper, logo)
        finally:
            self._idle.put_nowait(renderer)

    def rest(self) -> None:
        """Give back the memory of what has rendered nothing for a while."""
        for renderer in self._all:
            renderer.rest()

    def close(self) -> None:
        for renderer in self._all:
            renderer.kill()


class _Renderer:
    """One process, which starts with the first document and is followed by another."""

    def __init__(self, more_fonts: str | None) -> None:
        self._more_fonts = more_fonts
        self._executor: ProcessPoolExecutor | None = None
        self._made = 0
        self._last_used = 0.0
        self._busy = False

    async def render(self, paper: dict[str, Any], logo: bytes | None) -> Rendered:
        executor = self._executor = self._executor or self._start()
        loop = asyncio.get_running_loop()
        self._busy = True
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS):
                rendered = await loop.run_in_executor(
                    executor, render, paper, logo, self._more_fonts
                )
        except (BrokenProcessPool, TimeoutError, asyncio.CancelledError):
            self.kill()
            raise
        finally:
            self._busy = False
            self._last_used = time.monotonic()
        self._made += 1
        if self._made >= DOCUMENTS_PER_PROCESS or rendered.memory > BYTES_PER_PROCESS:
            self._end()
        return rendered

    def rest(self) -> None:
        if not self._busy and time.monotonic() - self._last_used > IDLE_SECONDS:
            self._end()

    def kill(self) -> None:
        """End it in the middle of whatever it does."""
        processes = list((self._executor._processes or {}).values()) if self._executor else []  # noqa: SLF001
        self._end()
        for process in processes:
            process.kill()

    def _start(self) -> ProcessPoolExecutor:
        self._made = 0
        # Spawned, not forked: this process has threads and open connections.
        return ProcessPoolExecutor(
            1,
            mp_context=multiprocessing.get_context("spawn"),
            initializer=os.nice,
            initargs=(NICENESS,),
        )

    def _end(self) -> None:
        if self._executor is not None:
            self._executor.shutdown(wait=False, cancel_futures=True)
            self._executor = None
