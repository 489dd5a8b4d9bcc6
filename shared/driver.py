"""A transaction of the message path, beneath SQLAlchemy's layers but on its connection.

Each layer costs a statement more than Postgres does, and a greenlet that waits costs more still
(docs/adr/0011-statements-at-the-driver.md). The connection, its pool and the errors stay
SQLAlchemy's, and so does a transaction that it takes part in.
"""

from collections.abc import Sequence
from typing import Any, NoReturn

from sqlalchemy.dialects.postgresql.asyncpg import AsyncAdapt_asyncpg_dbapi
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

Error = AsyncAdapt_asyncpg_dbapi.Error


def begin(connection: AsyncConnection) -> None:
    """Have what follows be one transaction; Postgres hears of it with the first statement."""
    _sync(connection).begin()


async def fetch(connection: AsyncConnection, statement: str, *arguments: object) -> Sequence[Any]:
    """The rows of a statement with `$1`, `$2`, …: asyncpg's types in, its records out.

    Raises what SQLAlchemy would raise.
    """
    adapted = _adapted(connection)
    try:
        if adapted._transaction is None:  # noqa: SLF001
            await adapted._start_transaction()  # noqa: SLF001
        rows: Sequence[Any] = await adapted.driver_connection.fetch(statement, *arguments)
    except BaseException as error:  # noqa: BLE001  (raised again, as what it is to SQLAlchemy)
        await _fail(error, connection, statement)
    return rows


async def commit(connection: AsyncConnection) -> None:
    """Commit what was begun. Raises what SQLAlchemy would raise."""
    adapted = _adapted(connection)
    if adapted._transaction is not None:  # noqa: SLF001
        try:
            await adapted._call_and_discard(adapted._transaction.commit)  # noqa: SLF001
        except BaseException as error:  # noqa: BLE001  (raised again, as what it is to SQLAlchemy)
            await _fail(error, connection, "COMMIT")
    # All that this has left to do is to take note.
    _sync(connection).commit()


def _sync(connection: AsyncConnection) -> Any:
    return connection.sync_connection


def _adapted(connection: AsyncConnection) -> Any:
    return _sync(connection).connection.dbapi_connection


async def _fail(error: BaseException, connection: AsyncConnection, statement: str) -> NoReturn:
    """Raise what SQLAlchemy would. A connection that nothing is known of leaves the pool."""
    sync, adapted = _sync(connection), _adapted(connection)
    if not isinstance(error, Exception):  # cancelled, somewhere between here and Postgres
        await connection.invalidate(error)
        raise error
    try:
        adapted._handle_exception(error)  # noqa: SLF001  (raises what the driver makes of it)
    except Error as found:
        is_lost = sync.dialect.is_disconnect(found, adapted, None)
        if is_lost:
            await connection.invalidate(found)
        raised = DBAPIError.instance(
            statement,
            (),
            found,
            Error,
            connection_invalidated=is_lost,
            dialect=sync.dialect,
        )
        raise raised from error
    raise error
