"""Statements beneath SQLAlchemy: in its transaction, on its connection, with its errors."""

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, IntegrityError

from services.auth.main import service
from shared.ids import new_id
from shared.messaging.outages import is_collision, is_outage
from tests.harness import Deployment, Running, running
from tests.messaging.probe import eventually

COUNT = "SELECT count(*) FROM auth.inbox WHERE consumer = $1"
ADD = "INSERT INTO auth.inbox (consumer, event_id) VALUES ($1, $2)"
TRANSACTION = "SELECT txid_current()"
SLEEPS = "SELECT 1 FROM pg_stat_activity WHERE pid = ANY($1::int[]) AND wait_event = 'PgSleep'"
GONE = "SELECT 1 WHERE NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = ANY($1::int[]))"


@pytest.fixture
async def auth(deployment: Deployment) -> AsyncIterator[Running]:
    async with running(service, deployment, None, worker=False) as made:
        yield made


async def counted(auth: Running, consumer: str) -> int:
    async with auth.runtime.begin() as uow:
        [[count]] = await uow.fetch(COUNT, consumer)
    return int(count)


async def test_both_share_one_transaction_whoever_begins_it(auth: Running) -> None:
    name = f"driver-{new_id()}"
    async with auth.runtime.begin() as uow:
        [[begun]] = await uow.fetch(TRANSACTION)
        assert await uow.session.scalar(text(TRANSACTION)) == begun
        await uow.fetch(ADD, name, new_id())
    async with auth.runtime.begin() as uow:
        second = await uow.session.scalar(text(TRANSACTION))
        [[same]] = await uow.fetch(TRANSACTION)

    assert same == second != begun
    assert await counted(auth, name) == 1


async def test_it_is_rolled_back_with_everything_else(auth: Running) -> None:
    name = f"driver-{new_id()}"

    async def whole() -> None:
        async with auth.runtime.begin() as uow:
            await uow.fetch(ADD, name, new_id())
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await whole()

    assert await counted(auth, name) == 0


async def test_what_the_database_refuses_is_the_error_that_others_get(auth: Running) -> None:
    name, event_id = f"driver-{new_id()}", new_id()

    async def twice() -> None:
        async with auth.runtime.begin() as uow:
            await uow.fetch(ADD, name, event_id)
            await uow.fetch(ADD, name, event_id)

    with pytest.raises(IntegrityError) as refused:
        await twice()

    assert not is_outage(refused.value)
    assert str(event_id) not in str(refused.value)
    assert await counted(auth, name) == 0


async def test_a_session_that_is_ended_is_an_outage_and_the_pool_heals(auth: Running) -> None:
    async def ended() -> None:
        async with auth.runtime.begin() as uow:
            [[pid]] = await uow.fetch("SELECT pg_backend_pid()")
            async with auth.runtime.begin() as other:
                await other.fetch("SELECT pg_terminate_backend($1)", pid)
            await uow.fetch(TRANSACTION)

    with pytest.raises(DBAPIError) as lost:
        await ended()

    assert is_outage(lost.value)
    assert await counted(auth, "nobody") == 0


async def test_what_the_database_refuses_only_at_the_commit_is_such_an_error_too(
    auth: Running,
) -> None:
    name = f"driver-{new_id()}"

    async def twice() -> None:
        async with auth.runtime.begin() as uow:
            await uow.fetch(ADD, name, new_id())
            await uow.fetch(
                "CREATE TEMPORARY TABLE checked_late"
                " (id int UNIQUE DEFERRABLE INITIALLY DEFERRED) ON COMMIT DROP"
            )
            await uow.fetch("INSERT INTO checked_late VALUES (1), (1)")

    with pytest.raises(IntegrityError) as refused:
        await twice()

    assert not is_outage(refused.value)
    assert await counted(auth, name) == 0


async def test_a_session_that_is_ended_before_the_commit_is_an_outage(auth: Running) -> None:
    name = f"driver-{new_id()}"

    async def ended() -> None:
        async with auth.runtime.begin() as uow:
            await uow.fetch(ADD, name, new_id())
            [[pid]] = await uow.fetch("SELECT pg_backend_pid()")
            async with auth.runtime.begin() as other:
                await other.fetch("SELECT pg_terminate_backend($1)", pid)

    with pytest.raises(DBAPIError) as lost:
        await ended()

    assert is_outage(lost.value)
    assert await counted(auth, name) == 0


async def test_what_the_pool_has_no_room_for_is_closed(auth: Running) -> None:
    settings = auth.runtime.settings
    pids: list[int] = []
    together = asyncio.Barrier(settings.database_pool_size + 2)

    async def one() -> None:
        async with auth.runtime.begin() as uow:
            [[pid]] = await uow.fetch("SELECT pg_backend_pid()")
            pids.append(pid)
            await together.wait()

    await asyncio.gather(*(one() for _ in range(together.parties)))

    async def as_many_as_it_keeps() -> bool:
        async with auth.runtime.begin() as uow:
            rows = await uow.fetch("SELECT pid FROM pg_stat_activity WHERE pid = ANY($1)", pids)
        return bool(len(rows) <= settings.database_pool_size)

    assert len(set(pids)) == together.parties
    await eventually(as_many_as_it_keeps)


LATE = (
    """
    CREATE FUNCTION pg_temp.take_long() RETURNS trigger LANGUAGE plpgsql
        AS $$ BEGIN PERFORM pg_sleep(60); RETURN NULL; END $$
    """,
    "CREATE TEMPORARY TABLE looked_at_late (id int) ON COMMIT DROP",
    """
    CREATE CONSTRAINT TRIGGER late AFTER INSERT ON looked_at_late
        DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION pg_temp.take_long()
    """,
    "INSERT INTO looked_at_late VALUES (1)",
)


@pytest.mark.parametrize(
    "statements", [("SELECT pg_sleep(60)",), LATE], ids=["in a statement", "in the commit"]
)
async def test_one_that_is_cancelled_takes_its_connection_with_it(
    auth: Running, statements: tuple[str, ...]
) -> None:
    name = f"driver-{new_id()}"
    pids: list[int] = []

    async def long() -> None:
        async with auth.runtime.begin() as uow:
            [[pid]] = await uow.fetch("SELECT pg_backend_pid()")
            await uow.fetch(ADD, name, new_id())
            pids.append(pid)
            for statement in statements:
                await uow.fetch(statement)

    async def state(question: str) -> bool:
        async with auth.runtime.begin() as uow:
            return bool(await uow.fetch(question, pids))

    task = asyncio.create_task(long())
    await eventually(lambda: state(SLEEPS))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    await eventually(lambda: state(GONE))
    assert await counted(auth, name) == 0


async def test_what_follows_one_that_was_cancelled_as_it_began_is_committed(auth: Running) -> None:
    """Or the pool hands out a connection inside of a transaction that nobody ever ends."""
    name = f"driver-{new_id()}"
    pool = auth.runtime.settings.database_pool_size
    together = asyncio.Barrier(pool)

    async def cancelled() -> None:
        async with auth.runtime.begin() as uow:
            fetching = asyncio.create_task(uow.fetch(TRANSACTION))
            await asyncio.sleep(0)  # as far as its wait for BEGIN
            fetching.cancel()
            await fetching

    async def follows() -> None:
        async with auth.runtime.begin() as uow:
            await uow.fetch(ADD, name, new_id())
            await together.wait()

    for _ in range(pool):
        with pytest.raises(asyncio.CancelledError):
            await cancelled()
    await asyncio.gather(*(follows() for _ in range(pool)))

    # Not on one of these connections: what they see, the others have to see too.
    outside = await asyncpg.connect(auth.runtime.settings.database_url.get_secret_value())
    assert await outside.fetchval(COUNT, name) == pool
    await outside.close()


async def test_a_connection_that_was_left_in_a_transaction_is_not_used_again(auth: Running) -> None:
    name, engine = f"driver-{new_id()}", auth.runtime.database.engine
    await engine.dispose()  # so that the next one is the only one
    async with engine.connect() as connection:
        raw = await connection.get_raw_connection()
        left: asyncpg.Connection = raw.driver_connection
        await left.transaction().start()

    async with auth.runtime.begin() as uow:
        await uow.fetch(ADD, name, new_id())
    await engine.dispose()

    assert await counted(auth, name) == 1


async def test_a_lock_that_is_not_had_is_a_collision(auth: Running) -> None:
    async def impatient() -> None:
        async with auth.runtime.begin() as uow:
            await uow.session.execute(text("SET LOCAL lock_timeout = '50ms'"))
            await uow.fetch(COUNT, "nobody")

    async with auth.runtime.begin() as holder:
        await holder.fetch("LOCK TABLE auth.inbox IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(DBAPIError) as refused:
            await impatient()

    assert is_collision(refused.value)
