"""Collects once per line of its input, in a process that is killed at the place the line names.

Started once by test_crash.py; forks for every run, so that a run costs no new interpreter.
"""

import asyncio
import os
import signal
import sys
import threading

from sqlalchemy import text

from services.payments import schedule
from services.payments.main import service
from services.payments.providers import provider
from shared import crashpoint
from shared.clock import utc_now
from shared.observability import configure_logging
from shared.schedule import Due

#: Kills while the provider works on the charge, or a moment after it has.
DURING_THE_CALL = "during_the_call"
SECONDS_INTO_THE_CALL = 0.03


async def kill_soon(_request: object) -> None:
    threading.Timer(SECONDS_INTO_THE_CALL, os.kill, args=(os.getpid(), signal.SIGKILL)).start()


async def collect_and_reconcile(point: str) -> None:
    async with service.open(service.settings()) as runtime:
        if point == DURING_THE_CALL:
            provider("sandbox")._http.event_hooks = {"request": [kill_soon]}  # type: ignore[attr-defined]
        due = Due(utc_now(), runtime.database.platform)
        while await schedule.collect_due(runtime, due):
            pass
        await schedule.collector_of(runtime).drain()
        async with runtime.begin() as uow:
            # Whoever owned what is open is dead: the time of all deadlines has come.
            await uow.session.execute(
                text(
                    "UPDATE attempts SET ask_at = now(), deadline = now()"
                    " WHERE status IN ('unknown', 'requires_action')"
                )
            )
        await schedule.ask_providers(runtime, Due(utc_now(), runtime.database.platform))


def run(point: str) -> None:
    """One run, in a process of its own."""
    crashpoint._WANTED = point
    configure_logging("payments", "crash", "ERROR")
    asyncio.run(collect_and_reconcile(point))
    os._exit(0)


def main() -> None:
    for line in sys.stdin:
        child = os.fork()
        if not child:
            run(line.strip())
        _, status = os.waitpid(child, 0)
        killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
        sys.stdout.write("killed\n" if killed else f"ended {status}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
