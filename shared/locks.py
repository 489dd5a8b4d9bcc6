"""Redis for what may be lost: short locks and rate limits. Never the truth."""

import secrets
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from shared.errors import TooManyRequests

#: Only the owner may release: compare and delete in one step.
_RELEASE = "if redis.call('get', KEYS[1]) == ARGV[1] then return redis.call('del', KEYS[1]) end"
#: Count a use of the window and give it an end in one step.
_COUNT = (
    "local n = redis.call('incr', KEYS[1]) "
    "if n == 1 then redis.call('pexpire', KEYS[1], ARGV[1]) end "
    "return {n, redis.call('pttl', KEYS[1])}"
)


class _Lost:
    """Over a connection: that it is closed is an error of the network.

    uvloop refuses to write on a socket that it has closed with a `RuntimeError`, which would pass
    every handler of lost connections by.
    """

    async def _send_packed_command(self, command: Iterable[bytes]) -> None:
        try:
            await super()._send_packed_command(command)  # type: ignore[misc]
        except RuntimeError as error:
            raise ConnectionResetError(str(error)) from error


def connect(url: str) -> "Redis":
    """A client that gives up quickly: a slow cache must not slow the truth.

    Whatever goes wrong on the way to the server is a `RedisError`.
    """
    redis = Redis.from_url(
        url,
        socket_timeout=0.5,
        socket_connect_timeout=0.5,
        retry=Retry(NoBackoff(), 1),
        health_check_interval=30,
    )
    pool = redis.connection_pool
    kind = pool.connection_class
    pool.connection_class = type(kind.__name__, (_Lost, kind), {})
    return redis


class LockNotTaken(Exception):
    """Somebody else holds it."""


@asynccontextmanager
async def lock(redis: "Redis", name: str, *, lease_seconds: float) -> AsyncIterator[str]:
    """Hold `name` for the block or the lease, whichever is shorter; yields the owner's token.

    Saves work and never decides: the database's constraints do. Raises `LockNotTaken` when
    somebody else holds it, and lets `RedisError` through when nobody can say.
    """
    token = secrets.token_hex(16)
    if not await redis.set(f"lock:{name}", token, nx=True, px=int(lease_seconds * 1000)):
        raise LockNotTaken(name)
    try:
        yield token
    finally:
        await release(redis, name, token)


async def release(redis: "Redis", name: str, token: str) -> bool:
    """Give the lock back if `token` still owns it; whether it did."""
    try:
        return bool(await redis.eval(_RELEASE, 1, f"lock:{name}", token))
    except RedisError:
        return False  # the lease ends by itself


async def limit(redis: "Redis", name: str, *, most: int, per_seconds: float) -> None:
    """Count one use of `name`; raises `TooManyRequests` past `most` in the window.

    Without Redis nothing is limited: the gateway's own limits still hold.
    """
    try:
        used, left = await redis.eval(_COUNT, 1, f"limit:{name}", str(int(per_seconds * 1000)))
    except RedisError:
        return
    if int(used) > most:
        raise TooManyRequests(
            "Too many tries. Wait a moment and try again.",
            retry_after_seconds=max(1, -(-int(left) // 1000)),
        )
