"""The client of Redis, under the event loop that processes run on."""

import asyncio

import pytest
import uvloop
from redis.exceptions import ConnectionError as RedisConnectionError

from shared.locks import connect
from tests.servers import Servers


def test_a_connection_that_is_closed_already_is_an_error_of_the_network(
    servers: Servers,
) -> None:
    async def write_after_the_end() -> None:
        redis = connect(servers.redis_url)
        connection = redis.connection_pool.make_connection()  # type: ignore[no-untyped-call]
        await connection.connect()
        connection._writer.transport.abort()
        try:
            with pytest.raises(RedisConnectionError):
                await connection.send_command("PING")
            assert await redis.ping()
        finally:
            await connection.disconnect()
            await redis.aclose()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(write_after_the_end())
