"""Keep in Redis what was revoked, and say until when that is all there is."""

import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

from redis.exceptions import RedisError

from services.auth import queries
from services.auth.repository import AuthUnitOfWork
from shared.revocations import RevocationCache

Begin = Callable[[], AbstractAsyncContextManager[AuthUnitOfWork]]


async def publish_revocations(begin: Begin, cache: RevocationCache) -> None:
    """Without Redis nothing is published, and the services ask auth's API."""
    try:
        after = await cache.position()
        read_at = time.monotonic()
        async with begin() as uow:
            news = await queries.revocations(uow, after=after or 0)
        await cache.publish(news, after=after, read_at=read_at)
    except (RedisError, OSError):
        return
