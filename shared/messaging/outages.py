"""Telling a database that is out of reach from a message that cannot be handled."""

import asyncio
from typing import Any

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm.exc import StaleDataError

from shared.observability import logger
from shared.runtime import Runtime

log = logger(__name__)

#: Connection, resources, shutdown, system and read-only (a standby that was just promoted).
STATES = ("08", "53", "57P", "58", "25006")
COLLISIONS = {"40001", "40P01", "55P03"}
#: Failures that look like an outage and are forgiven although the database answers.
FORGIVEN = 3
LONGEST_PAUSE_SECONDS = 5.0


def _state(error: BaseException) -> str:
    return str(getattr(getattr(error, "orig", None), "sqlstate", None) or "")


def is_outage(error: BaseException) -> bool:
    """Whether it looks as if the database was out of reach."""
    if isinstance(error, DBAPIError):
        return error.connection_invalidated or (
            _state(error).startswith(STATES)
            if _state(error)
            else isinstance(error, OperationalError | InterfaceError)
        )
    return isinstance(error, PoolTimeout | OSError)


def is_collision(error: BaseException) -> bool:
    """Whether two writers met: a deadlock, a serialization failure, a stale version."""
    return isinstance(error, StaleDataError) or _state(error) in COLLISIONS


class Patience:
    """Waits an outage out, so that no message is blamed for it."""

    def __init__(self, runtime: Runtime[Any, Any]) -> None:
        self._engine = runtime.database.engine
        self._forgiven = 0
        self._pause = 0.1

    async def waits_out(self, error: BaseException) -> bool:
        """Whether to try again, after a pause where that helps.

        An error that looks like an outage but comes again while the database answers is the
        message's own.
        """
        if not is_outage(error):
            return False
        if await self._answers():
            self._forgiven += 1
            return self._forgiven <= FORGIVEN
        log.warning("The database is out of reach", error=type(error).__name__)
        await asyncio.sleep(self._pause)
        self._pause = min(self._pause * 2, LONGEST_PAUSE_SECONDS)
        return True

    async def _answers(self) -> bool:
        try:
            async with asyncio.timeout(5), self._engine.connect() as connection:
                read_only = await connection.scalar(text("SHOW transaction_read_only"))
                return bool(read_only == "off")
        except (DBAPIError, PoolTimeout, OSError):
            return False
