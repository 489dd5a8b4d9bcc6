"""Entitlements in Redis: one round trip for a hit, one refill for many who miss at once.

Redis may be gone at any time: then a small memory of this process answers for a few seconds, and
the database for everything else. A generation per account makes what was read before a change
worthless after it, also when the slow reader stores it late; one for everybody does so when what
many hold is edited.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable
from typing import Any
from uuid import UUID

import orjson
from prometheus_client import Counter
from redis.asyncio import Redis
from redis.exceptions import RedisError

LOOKUPS = Counter("entitlement_lookups_total", "Entitlement checks by where found.", ["source"])

NAMESPACE = "entitlements"
KEPT_SECONDS = 300
#: Without Redis nobody tells us of changes, so that memory is trusted for a moment only.
REMEMBERED_SECONDS = 2.0
MOST_REMEMBERED = 10_000
#: After Redis failed it is left alone for a moment: its time-outs would slow every check.
REST_SECONDS = 1.0
#: Stands for all accounts where a change of the catalog makes what is cached of each out of date.
EVERYBODY = UUID(int=0)

Found = dict[str, Any]
Refill = Callable[[], Awaitable[Found]]


class EntitlementCache:
    def __init__(self, redis: "Redis") -> None:
        self._redis = redis
        self._memory: OrderedDict[UUID, tuple[float, Found]] = OrderedDict()
        self._refills: dict[UUID, asyncio.Task[Found]] = {}
        self._rest_until = 0.0
        self.counts = {"hit": 0, "miss": 0, "memory": 0}

    async def get(self, account_id: UUID, refill: Refill) -> Found:
        """The account's entitlements, from wherever they are found first."""
        generation, found = await self._look(account_id)
        if found is not None:
            self._count("hit")
            return found
        if generation is None and (remembered := self._remembered(account_id)) is not None:
            self._count("memory")
            return remembered
        self._count("miss")
        return await self._refill_once(account_id, generation, refill)

    async def forget(self, account_ids: Iterable[UUID]) -> None:
        """What is cached of these accounts is out of date. Raises when Redis cannot be told."""
        names = [f"{NAMESPACE}:generation:{account_id}" for account_id in account_ids]
        async with self._redis.pipeline(transaction=False) as pipe:
            for name in names:
                pipe.incr(name)
                pipe.expire(name, KEPT_SECONDS * 2)
            await pipe.execute()

    async def clear(self, pattern: str) -> int:
        """Drop the keys of this cache that match; returns how many."""
        self._memory.clear()
        dropped = 0
        async for name in self._redis.scan_iter(f"{NAMESPACE}:{pattern}", count=500):
            dropped += int(await self._redis.delete(name))
        return dropped

    async def size(self) -> int | None:
        """How many keys there are; None when Redis does not say."""
        try:
            return sum([1 async for _ in self._redis.scan_iter(f"{NAMESPACE}:*", count=500)])
        except (RedisError, OSError):
            return None

    async def _look(self, account_id: UUID) -> tuple[bytes | None, Found | None]:
        """The account's generation and what is cached of it; no generation without Redis."""
        if time.monotonic() < self._rest_until:
            return None, None
        try:
            own, everybodys, stored = await self._redis.mget(
                [
                    f"{NAMESPACE}:generation:{account_id}",
                    f"{NAMESPACE}:generation:{EVERYBODY}",
                    f"{NAMESPACE}:of:{account_id}",
                ]
            )
        except (RedisError, OSError):
            self._rest_until = time.monotonic() + REST_SECONDS
            return None, None
        current = bytes(own or b"0") + b"." + bytes(everybodys or b"0")  # type: ignore[arg-type]
        if stored is not None:
            of, _, body = bytes(stored).partition(b"\n")  # type: ignore[arg-type]
            if of == current:
                return current, orjson.loads(body)
        return current, None

    async def _refill_once(
        self, account_id: UUID, generation: bytes | None, refill: Refill
    ) -> Found:
        """Everybody who misses at once waits for one refill."""
        running = self._refills.get(account_id)
        if running is None:
            running = asyncio.create_task(self._refill(account_id, generation, refill))
            self._refills[account_id] = running
            running.add_done_callback(lambda _: self._refills.pop(account_id, None))
        return await asyncio.shield(running)

    async def _refill(self, account_id: UUID, generation: bytes | None, refill: Refill) -> Found:
        found = await refill()
        self._memory[account_id] = (time.monotonic(), found)
        while len(self._memory) > MOST_REMEMBERED:
            self._memory.popitem(last=False)
        if generation is not None:
            try:
                body = generation + b"\n" + orjson.dumps(found)
                await self._redis.set(f"{NAMESPACE}:of:{account_id}", body, ex=KEPT_SECONDS)
            except (RedisError, OSError):
                self._rest_until = time.monotonic() + REST_SECONDS
        return found

    def _remembered(self, account_id: UUID) -> Found | None:
        at, found = self._memory.get(account_id, (0.0, {}))
        return found if time.monotonic() - at < REMEMBERED_SECONDS else None

    def _count(self, source: str) -> None:
        self.counts[source] += 1
        LOOKUPS.labels(source).inc()


def cache_of(own: dict[str, Any]) -> EntitlementCache:
    """The process's own, as `main.py` has put it there."""
    cache: EntitlementCache = own["entitlements"]
    return cache
