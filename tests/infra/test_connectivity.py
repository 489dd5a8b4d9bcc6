"""Every service reaches each of its servers, as it is configured to and no further."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import aio_pika
import pytest
from aiormq.exceptions import ChannelAccessRefused
from redis.asyncio import Redis
from sqlalchemy import text
from sqlalchemy.exc import TimeoutError as PoolTimeout

from infra.native.system import System
from shared.errors import TooManyRequests
from shared.ids import new_id
from shared.locks import LockNotTaken, limit, lock, release
from tests.conftest import SERVICES, service_named
from tests.harness import Deployment
from tests.whole_system import WholeSystem

pytestmark = pytest.mark.servers


@pytest.mark.parametrize("name", SERVICES)
async def test_a_service_reaches_its_servers_as_configured(
    name: str, deployment: Deployment
) -> None:
    service = service_named(name)
    settings = deployment.settings(service, database_pool_size=2, database_max_overflow=1)
    async with service.open(settings) as runtime:
        engine = runtime.database.engine
        async with engine.connect() as connection:
            level = await connection.scalar(text("SHOW transaction_isolation"))
            zone = await connection.scalar(text("SHOW timezone"))
            path = await connection.scalar(text("SELECT current_schema()"))
        assert (level, zone, path) == ("read committed", "UTC", name)
        assert await runtime.redis.ping()
        connections = [await engine.connect() for _ in range(3)]
        try:
            assert engine.pool.size() == 2
            assert engine.pool.overflow() == 1
            assert engine.pool.checkedout() == 3
        finally:
            for connection in connections:
                await connection.close()
    broker = await aio_pika.connect(settings.broker_url.get_secret_value())
    async with broker:
        channel = await broker.channel()
        for queue in service.consumers.handlers:
            assert (await channel.declare_queue(queue, passive=True)).name == queue


@pytest.mark.parametrize("name", SERVICES)
async def test_keys_are_uuids(name: str, deployment: Deployment) -> None:
    service = service_named(name)
    async with service.open(deployment.settings(service)) as runtime, runtime.begin() as uow:
        types = await uow.session.execute(
            text(
                "SELECT table_name, data_type FROM information_schema.columns "
                "WHERE table_schema = :schema AND column_name = 'id' "
            ),
            {"schema": name},
        )
    found = {row.table_name: row.data_type for row in types}
    found.pop("usage_events", None)  # those carry the id that their sender gave them

    assert found
    assert {table: kind for table, kind in found.items() if kind != "uuid"} == {}


def test_ids_sort_by_the_time_they_were_made() -> None:
    made = [new_id() for _ in range(1000)]

    assert made == sorted(made)
    assert {one.version for one in made} == {7}
    assert len(set(made)) == 1000
    assert all(isinstance(one, UUID) for one in made)


@pytest.fixture
async def redis(deployment: Deployment) -> AsyncIterator["Redis"]:
    client = Redis.from_url(deployment.redis_url)
    try:
        yield client
    finally:
        await client.aclose()


async def test_a_lock_is_released_by_its_owner_alone(redis: "Redis") -> None:
    name = f"test:{new_id()}"

    async with lock(redis, name, lease_seconds=30) as token:
        with pytest.raises(LockNotTaken):
            async with lock(redis, name, lease_seconds=30):
                pytest.fail("two owners")
        assert not await release(redis, name, "somebody else's token")
        assert await redis.get(f"lock:{name}") == token.encode()
    assert await redis.get(f"lock:{name}") is None


async def test_a_lock_whose_lease_ended_is_not_taken_from_its_next_owner(redis: "Redis") -> None:
    name = f"test:{new_id()}"
    async with lock(redis, name, lease_seconds=30) as first:
        await redis.delete(f"lock:{name}")  # as if the lease had ended
        async with lock(redis, name, lease_seconds=30) as second:
            assert not await release(redis, name, first)
            assert await redis.get(f"lock:{name}") == second.encode()


async def test_a_limit_counts_its_window_and_says_when_it_ends(redis: "Redis") -> None:
    name = f"test:{new_id()}"
    for _ in range(3):
        await limit(redis, name, most=3, per_seconds=60)

    with pytest.raises(TooManyRequests) as refused:
        await limit(redis, name, most=3, per_seconds=60)

    assert 0 < refused.value.retry_after_seconds <= 60


async def test_without_redis_nothing_is_limited() -> None:
    nowhere: Redis = Redis.from_url("redis://127.0.0.1:1/0")

    await limit(nowhere, "anything", most=0, per_seconds=60)

    await nowhere.aclose()


@pytest.mark.parametrize("name", SERVICES)
async def test_a_services_broker_user_declares_nothing_and_reads_only_its_own(
    name: str, whole_system: WholeSystem
) -> None:
    url = _broker(whole_system.system, name)
    other = next(service for service in SERVICES if service != name)
    connection = await aio_pika.connect(url)
    async with connection:

        async def refused(attempt: Any) -> None:
            channel = await connection.channel()
            with pytest.raises(ChannelAccessRefused):
                await attempt(channel)

        await refused(lambda channel: channel.declare_queue(f"{name}.mine", durable=True))
        await refused(lambda channel: channel.declare_exchange(f"{name}.mine"))

        async def take_from_another(channel: Any) -> None:
            queue = await channel.get_queue(f"{other}.dead", ensure=False)
            await queue.get(fail=False)

        await refused(take_from_another)

        async def publish_elsewhere(channel: Any) -> None:
            exchange = await channel.get_exchange(f"{other}.deliver", ensure=False)
            await exchange.publish(aio_pika.Message(b"{}"), routing_key="x", timeout=5)

        await refused(publish_elsewhere)


async def test_a_pool_that_is_used_up_is_a_refusal_not_a_hang(deployment: Deployment) -> None:
    service = service_named("auth")
    settings = deployment.settings(service, database_pool_size=1, database_max_overflow=0)
    async with service.open(settings) as runtime:
        runtime.database.engine.pool._timeout = 0.1  # ten seconds in production
        async with runtime.database.engine.connect():
            with pytest.raises(PoolTimeout):
                async with asyncio.timeout(5), runtime.database.engine.connect():
                    pytest.fail("one connection, used twice")


def _broker(system: System, name: str) -> str:
    return system.plan.deployment.broker(name)
