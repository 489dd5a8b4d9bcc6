"""What Redis remembers of the inbox: it saves work and decides nothing."""

import time
from collections.abc import Sequence
from uuid import UUID

from redis.asyncio import Redis
from redis.exceptions import RedisError

#: A claim ends by itself when its holder dies, and only tells that somebody is at it.
LEASE_MS = 60_000
DONE_MS = 24 * 3_600_000
#: A Redis that failed is left alone for so long; a slow cache must not slow the truth.
REST_SECONDS = 5.0

#: Claims what nobody has, and answers with the numbers of those that are done.
_CLAIM = """
local done = {}
for number, key in ipairs(KEYS) do
    local mark = redis.call('get', key)
    if mark == 'done' then
        done[#done + 1] = number
    elseif not mark then
        redis.call('set', key, 'in progress', 'px', ARGV[1])
    end
end
return done
"""
_DONE = "for _, key in ipairs(KEYS) do redis.call('set', key, 'done', 'px', ARGV[1]) end"


class Marks:
    """The claims and marks of one process. Without Redis nothing is remembered, and all works."""

    def __init__(self, redis: Redis) -> None:
        self._claim = redis.register_script(_CLAIM)
        self._done = redis.register_script(_DONE)
        self._resting_until = 0.0

    async def done(self, queue: str, event_ids: Sequence[UUID]) -> set[UUID]:
        """Those that are done for sure; the others may be, and the inbox knows."""
        if not event_ids or time.monotonic() < self._resting_until:
            return set()
        try:
            numbers = await self._claim(keys=_keys(queue, event_ids), args=[LEASE_MS])
        except (RedisError, OSError):
            self._resting_until = time.monotonic() + REST_SECONDS
            return set()
        return {event_ids[number - 1] for number in numbers}

    async def remember(self, queue: str, event_ids: Sequence[UUID]) -> None:
        """Their effects have committed."""
        if time.monotonic() < self._resting_until:
            return
        try:
            await self._done(keys=_keys(queue, event_ids), args=[DONE_MS])
        except (RedisError, OSError):
            self._resting_until = time.monotonic() + REST_SECONDS


def _keys(queue: str, event_ids: Sequence[UUID]) -> list[str]:
    return [f"inbox:{queue}:{event_id.hex}" for event_id in event_ids]
