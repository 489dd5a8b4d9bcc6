"""The unit of work: rows, outgoing events and the inbox commit together or not at all."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Generic, Self, TypeVar, cast
from uuid import UUID

from sqlalchemy import (
    Enum,
    MetaData,
    Table,
    insert,
    make_url,
    or_,
    select,
    true,
)
from sqlalchemy import (
    event as sqlalchemy_event,
)
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.exc import DisconnectionError, InvalidatePoolError
from sqlalchemy.ext.asyncio import (
    AsyncConnection,
    AsyncEngine,
    AsyncSession,
    create_async_engine,
)
from sqlalchemy.orm import ORMExecuteState, Session, with_loader_criteria
from sqlalchemy.pool import ConnectionPoolEntry

from shared import driver
from shared.clock import utc_now
from shared.context import current_cause
from shared.errors import TestClockBusy
from shared.events.base import Event
from shared.ids import new_id
from shared.messaging.envelope import outbox_row
from shared.messaging.outbox import store
from shared.messaging.tables import add_messaging_tables
from shared.observability import logger
from shared.platform_tables import add_platform_tables
from shared.settings import Settings

log = logger(__name__)

NAMING = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s",
    "pk": "pk_%(table_name)s",
}

#: What belongs to the operator and not to an account carries this account id.
OPERATOR = UUID(int=0)


def service_metadata(service: str) -> MetaData:
    """A service's tables live in the schema of its name, beside those that all services have."""
    metadata = MetaData(schema=service, naming_convention=NAMING)
    add_messaging_tables(metadata)
    add_platform_tables(metadata)
    return metadata


def stored(kind: type[StrEnum]) -> Enum:
    """A column type that keeps an enumeration as checked text and gives its members back."""
    return Enum(
        kind,
        native_enum=False,
        create_constraint=True,
        length=40,
        name=kind.__name__.lower(),
        values_callable=lambda members: [member.value for member in members],
    )


@dataclass(frozen=True, slots=True)
class Scope:
    """Whose rows a transaction may see: one account's, or (staff and the system) everybody's."""

    account_id: UUID | None
    #: Who acts, for the audit log: `user:<id>`, `key:<id>` or `system`.
    actor: str = "system"


SYSTEM = Scope(account_id=None)


@sqlalchemy_event.listens_for(Session, "do_orm_execute")
def _keep_to_the_account(state: ORMExecuteState) -> None:
    """Narrow every read and bulk write of a mapped class that has `account_id` to the scope.

    A row whose `account_id` may be null and is belongs to everybody. Bare tables are not
    narrowed: code that serves accounts selects mapped classes.
    """
    scope: Scope | None = state.session.info.get("scope")
    if scope is None or scope.account_id is None or state.is_column_load:
        return
    account_id = scope.account_id
    for mapper in state.all_mappers:
        column = mapper.columns.get("account_id")
        if column is None:
            continue
        attribute = mapper.class_.account_id
        mine = attribute == account_id
        state.statement = state.statement.options(
            with_loader_criteria(
                mapper.class_,
                or_(attribute.is_(None), mine) if column.nullable else mine,
                include_aliases=True,
                track_closure_variables=False,
            )
        )


class UnitOfWork:
    """One transaction, of the connection that the session is bound to.

    Services add their repositories in a subclass.
    """

    #: For a change that somebody asks for, which has to wait while the account's time moves.
    awaits_clock = False

    def __init__(self, session: AsyncSession, scope: Scope, platform: "Platform") -> None:
        self.session = session
        self.scope = scope
        self.platform = platform
        self._outbox: list[dict[str, Any]] = []
        self._audits: list[dict[str, Any]] = []
        self._wakes: set[str] = set()
        self._activity: Counter[tuple[UUID, str, str]] = Counter()
        self._connection = cast("AsyncConnection", session.bind)

    async def fetch(self, statement: str, *arguments: object) -> Sequence[Any]:
        """The rows of a statement in this transaction, for hot paths (shared/driver.py).

        Nobody's rows are narrowed to the scope here, and nothing is flushed before.
        """
        return await driver.fetch(self._connection, statement, *arguments)

    def emit(self, event: Event) -> None:
        """Report `event` to the other services, once this transaction commits."""
        self._outbox.append(outbox_row(event, current_cause()))
        self._count(event.account_id, "emitted", event.name)

    def send(self, row: dict[str, Any]) -> None:
        """Put a finished outbox row beside the events: a replay to one handler."""
        self._outbox.append(row)

    def handled(self, handler: str, event_name: str, account_id: UUID) -> None:
        """Note, for test clocks, that a handler took an event of an account."""
        if not event_name.startswith("test_clock."):
            self._count(account_id, "handled", handler)

    def wake(self, job: str) -> None:
        """Have a worker run this job of the schedule at once, when this has committed."""
        self._wakes.add(job)

    def audit(
        self,
        action: str,
        subject: UUID | str,
        *,
        account_id: UUID | None = None,
        before: dict[str, Any] | None = None,
        after: dict[str, Any] | None = None,
    ) -> None:
        """Write down who did this. No personal data: ids, states and amounts."""
        self._audits.append(
            {
                "id": new_id(),
                "at": utc_now(),
                "actor": self.scope.actor,
                "action": action,
                "subject": str(subject),
                "account_id": account_id or self.scope.account_id,
                "before": before,
                "after": after,
                "request_id": current_cause().correlation_id,
            }
        )

    async def now(self, account_id: UUID | None) -> datetime:
        """The account's time: real, or its test clock's where the deployment allows those.

        With `awaits_clock`, `TestClockBusy` while that clock is on its way; otherwise it stays
        where it is until this transaction ends.
        """
        if account_id is None or not self.platform.test_clocks:
            return utc_now()
        if self.awaits_clock:
            return await self._now_at_rest(account_id)
        clocks = self.platform.account_clocks
        statement = select(clocks.c.now).where(clocks.c.account_id == account_id)
        simulated: datetime | None = await self.session.scalar(statement)
        return simulated or utc_now()

    async def require_clock_at_rest(self, account_id: UUID) -> None:
        """For a change that does not ask what time it is: `TestClockBusy` as `now` raises it."""
        await self.now(account_id)

    async def _now_at_rest(self, account_id: UUID) -> datetime:
        clocks = self.platform.account_clocks
        mine = clocks.c.account_id == account_id
        # Who has locked it is moving it, or does what is due at the account's time.
        held = (
            select(clocks.c.now, clocks.c.target)
            .where(mine)
            .with_for_update(read=True, skip_locked=True)
            .cte("held")
        )
        statement = (
            select(clocks.c.clock_id, held.c.now, held.c.target)
            .select_from(clocks.outerjoin(held, true()))
            .where(mine)
        )
        clock = (await self.session.execute(statement)).one_or_none()
        if clock is None:
            return utc_now()
        if clock.now is None or (clock.target is not None and clock.now < clock.target):
            raise TestClockBusy(
                "This account's test clock is on its way. Wait until "
                f"GET /v1/test-clocks/{clock.clock_id} says that it is ready, then ask again."
            )
        now: datetime = clock.now
        return now

    async def write(self) -> None:
        """Store what was emitted, audited and woken; called once, before the commit."""
        if self.session.new or self.session.dirty or self.session.deleted:
            await self.session.flush()
        if self._audits:
            await self.session.execute(insert(self.platform.audit_log), self._audits)
        if self._outbox:
            await store(self, self._outbox)
        for job in sorted(self._wakes):
            await self.fetch("SELECT pg_notify($1, $2)", f"jobs_{self.platform.schema}", job)
        if self._activity:
            await self._write_activity()

    def _count(self, account_id: UUID, direction: str, name: str) -> None:
        if self.platform.test_clocks and not name.startswith("test_clock."):
            self._activity[account_id, direction, name] += 1

    async def _write_activity(self) -> None:
        activity = self.platform.clock_activity
        statement = upsert(activity)
        # One order for everybody, so that two transactions never wait for each other.
        rows = [
            {"account_id": account, "direction": direction, "name": name, "count": count}
            for (account, direction, name), count in sorted(self._activity.items())
        ]
        await self.session.execute(
            statement.on_conflict_do_update(
                index_elements=["account_id", "direction", "name"],
                set_={"count": activity.c.count + statement.excluded.count},
            ),
            rows,
        )


#: A connection that rested longer is tried before it is used again.
IDLE_SECONDS = 1.0


def _watch_the_pool(engine: AsyncEngine) -> None:
    """Hand out no connection that is dead, and none inside of a transaction that is not over.

    A server that restarted costs a round trip here instead of a failed request. SQLAlchemy's own
    ping costs every transaction three; a busy connection needs none, for it was heard of a moment
    ago. On one whose transaction was left open what follows would be savepoints in it, and their
    commit would keep nothing; the driver knows that without asking. Whichever it is, the pool tries
    again with a new one.
    """

    @sqlalchemy_event.listens_for(engine.sync_engine, "checkin")
    def rest(_connection: Any, record: ConnectionPoolEntry) -> None:
        record.info["rests_since"] = time.monotonic()

    @sqlalchemy_event.listens_for(engine.sync_engine, "checkout")
    def rouse(connection: Any, record: ConnectionPoolEntry, _proxy: Any) -> None:
        if connection.driver_connection.is_closed():
            raise InvalidatePoolError  # the others of its age are as dead
        if connection.driver_connection.is_in_transaction():
            log.error("A connection came back inside of a transaction and is closed")
            raise DisconnectionError
        since = record.info.get("rests_since")
        if since is None or time.monotonic() - since < IDLE_SECONDS:
            return
        try:
            engine.dialect.do_ping(connection)
        except Exception as error:
            raise InvalidatePoolError from error


@dataclass(frozen=True)
class Platform:
    """The tables that every service has, and what the deployment allows."""

    metadata: MetaData
    test_clocks: bool

    def table(self, name: str) -> Table:
        return self.metadata.tables[f"{self.schema}.{name}"]

    @property
    def schema(self) -> str:
        return str(self.metadata.schema)

    @property
    def outbox(self) -> Table:
        return self.table("outbox")

    @property
    def audit_log(self) -> Table:
        return self.table("audit_log")

    @property
    def account_clocks(self) -> Table:
        return self.table("account_clocks")

    @property
    def clock_activity(self) -> Table:
        return self.table("clock_activity")

    @property
    def idempotency_keys(self) -> Table:
        return self.table("idempotency_keys")


U = TypeVar("U", bound=UnitOfWork)


class Database(Generic[U]):
    """A service's own database. Nobody else's code holds its address."""

    def __init__(
        self,
        engine: AsyncEngine,
        unit_of_work: Callable[[AsyncSession, Scope, Platform], U],
        platform: Platform,
    ) -> None:
        self.engine = engine
        self.platform = platform
        self._unit_of_work = unit_of_work

    @classmethod
    def open(
        cls,
        settings: Settings,
        metadata: MetaData,
        unit_of_work: Callable[[AsyncSession, Scope, Platform], U],
    ) -> Self:
        url = make_url(settings.database_url.get_secret_value())
        engine = create_async_engine(
            url.set(drivername="postgresql+asyncpg"),
            pool_size=settings.database_pool_size,
            max_overflow=settings.database_max_overflow,
            pool_timeout=10,
            # What people typed has no place in an error that is logged.
            hide_parameters=True,
            isolation_level="READ COMMITTED",
            connect_args={
                "timeout": 5,
                "command_timeout": 30,
                "server_settings": {
                    "application_name": f"perennial-{metadata.schema}",
                    "jit": "off",
                    "timezone": "UTC",
                    # Nothing of ours waits for a person inside a transaction.
                    "idle_in_transaction_session_timeout": "60s",
                },
            },
        )
        _watch_the_pool(engine)
        return cls(engine, unit_of_work, Platform(metadata, settings.test_clocks))

    @asynccontextmanager
    async def begin(self, scope: Scope = SYSTEM) -> AsyncIterator[U]:
        """Open a transaction. It commits when the block ends, and rolls back if it raises."""
        connection = await self.engine.connect()
        # It joins the transaction of the connection, which ends that one alone.
        session = AsyncSession(
            connection,
            join_transaction_mode="rollback_only",
            expire_on_commit=False,
            autoflush=False,
        )
        session.info["scope"] = scope
        try:
            driver.begin(connection)
            uow = self._unit_of_work(session, scope, self.platform)
            yield uow
            await uow.write()
            await driver.commit(connection)
        except BaseException:
            # Whatever ended it: it is rolled back, and its connection returned.
            await asyncio.shield(connection.close())
            raise
        else:
            await connection.close()
        finally:
            session.sync_session.close()

    async def close(self) -> None:
        await self.engine.dispose()
