"""Statements of the message path, beneath SQLAlchemy's layers but in its transaction.

Each layer costs a statement more than Postgres does (docs/adr/0011-statements-at-the-driver.md).
The transaction, the connection and the errors stay SQLAlchemy's.
"""

from collections.abc import Sequence
from typing import Any

from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection


async def fetch(connection: AsyncConnection, statement: str, *arguments: object) -> Sequence[Any]:
    """The rows of a statement with `$1`, `$2`, …: asyncpg's types in, its records out.

    The first statement of a transaction begins it, here as elsewhere. Raises what SQLAlchemy
    would raise.
    """
    sync: Any = connection.sync_connection
    adapted: Any = sync.connection.dbapi_connection
    cursor = adapted.cursor()
    try:
        # What `cursor.execute` waits for, without the greenlet that it needs to wait.
        await cursor._prepare_and_execute(statement, arguments)  # noqa: SLF001
    except sync.dialect.loaded_dbapi.Error as error:
        is_lost = sync.dialect.is_disconnect(error, adapted, None)
        if is_lost:
            await connection.invalidate(error)
        raised = DBAPIError.instance(
            statement,
            arguments,
            error,
            sync.dialect.loaded_dbapi.Error,
            hide_parameters=True,
            connection_invalidated=is_lost,
            dialect=sync.dialect,
        )
        raise raised from error
    rows: Sequence[Any] = cursor._rows  # noqa: SLF001
    return rows
