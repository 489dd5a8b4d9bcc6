"""Rendering processes: few, recycled, and gone when nothing is to be rendered."""

import asyncio
import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from services.invoicing.documents.rendering import Rendered, render

#: A compiler's cache grows up to 500 MB: a process ends after so many documents.
DOCUMENTS_PER_PROCESS = 300
TIMEOUT_SECONDS = 60.0
IDLE_SECONDS = 30.0


class RenderPool:
    """At most `size` documents at once, in processes that start with the first of them."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._slots = asyncio.Semaphore(size)
        self._executor: ProcessPoolExecutor | None = None
        self._last_used = 0.0

    async def render(self, paper: dict[str, Any], logo: bytes | None = None) -> Rendered:
        """One document. Raises when it cannot be made, takes too long or kills its process."""
        async with self._slots:
            executor = self._executor = self._executor or self._start()
            loop = asyncio.get_running_loop()
            try:
                async with asyncio.timeout(TIMEOUT_SECONDS):
                    return await loop.run_in_executor(executor, render, paper, logo)
            except (BrokenProcessPool, TimeoutError):
                self._drop(executor)
                raise
            finally:
                self._last_used = time.monotonic()

    def rest(self) -> None:
        """Give the memory back when nothing was rendered for a while."""
        idle = time.monotonic() - self._last_used > IDLE_SECONDS
        if self._executor is not None and idle and self._slots._value == self._size:  # noqa: SLF001
            self._executor.shutdown(wait=False)
            self._executor = None

    def close(self) -> None:
        if self._executor is not None:
            self._drop(self._executor)

    def _start(self) -> ProcessPoolExecutor:
        return ProcessPoolExecutor(
            self._size,
            # Spawned, not forked: this process has threads and open connections.
            mp_context=multiprocessing.get_context("spawn"),
            max_tasks_per_child=DOCUMENTS_PER_PROCESS,
        )

    def _drop(self, executor: ProcessPoolExecutor) -> None:
        processes = list((executor._processes or {}).values())  # noqa: SLF001
        executor.shutdown(wait=False, cancel_futures=True)
        for process in processes:
            process.terminate()
        if self._executor is executor:
            self._executor = None
