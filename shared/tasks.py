"""Tasks that are ended for good."""

import asyncio
from collections.abc import Iterable

#: A task that has not ended so long after it was cancelled has not noticed.
AGAIN_SECONDS = 1.0


async def end(tasks: Iterable[asyncio.Task[None]]) -> None:
    """Cancel them until each has ended, however it ends.

    Once is not enough: `asyncio.wait_for` before Python 3.12, on which the drivers of Redis and
    Postgres build, loses a cancellation that comes as its result does
    (github.com/python/cpython/issues/86296). The task then goes on as if nobody had asked.
    """
    ending = list(tasks)
    while going := [task for task in ending if not task.done()]:
        for task in going:
            task.cancel()
        await asyncio.wait(going, timeout=AGAIN_SECONDS)
    for task in ending:
        if not task.cancelled():
            task.exception()  # or asyncio tells of one that nobody has asked for
