"""Counting what may be done so many times, over all processes: first count, then look.

The counts are in Redis. While it is away each process counts for itself, so that a limit is then
as loose as there are processes, and never gone; with Redis back the counts there go on.
"""

import hashlib
import ipaddress
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from redis.asyncio import Redis
from redis.exceptions import RedisError

#: After a failure Redis is not asked for so long: nobody waits for it at every request.
LEFT_ALONE_SECONDS = 1.0
#: What one process remembers while Redis is away.
REMEMBERED = 10_000

#: A delay is remembered so much longer than it lasts: a try that came in before its end, and was
#: kept waiting by a busy process, is still one of those that it is to hold back.
REMEMBERED_SECONDS = 60

#: Unless a delay ran for any of the buckets when the try came in, count it in all of them; past
#: the free ones a try begins the delay: doubling up to the longest. Gives how long to wait, or 0.
_TRY = """
local time = redis.call('time')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local came_in, left = now - tonumber(ARGV[1]), 0
for i = 2, #KEYS, 2 do
  local ends = tonumber(redis.call('get', KEYS[i]) or '0')
  if ends > came_in then left = math.max(left, ends - now, 1) end
end
if left > 0 then return left end
for i = 1, #KEYS, 2 do
  local at = (i - 1) / 2 * 3 + 1
  local n = redis.call('incr', KEYS[i])
  if n == 1 then redis.call('pexpire', KEYS[i], ARGV[at + 1]) end
  local over = n - tonumber(ARGV[at + 2])
  if over >= 0 then
    local wait = math.min(2 ^ math.min(over, 20), tonumber(ARGV[at + 3])) * 1000
    local ends = string.format('%.0f', now + wait)
    redis.call('set', KEYS[i + 1], ends, 'px', string.format('%.0f', wait + ARGV[#ARGV] * 1000))
  end
end
return 0
"""
#: Take one try back; the delay that it began is over.
_TAKE_BACK = """
for i = 1, #KEYS, 2 do
  if redis.call('exists', KEYS[i]) == 1 then redis.call('decr', KEYS[i]) end
  redis.call('del', KEYS[i + 1])
end
"""
#: Count one use of each, unless one of them is used up. Gives how long that one lasts, or 0.
_USE = """
for i = 1, #KEYS do
  if tonumber(redis.call('get', KEYS[i]) or '0') >= tonumber(ARGV[i * 2 - 1]) then
    return math.max(1, redis.call('pttl', KEYS[i]))
  end
end
for i = 1, #KEYS do
  if redis.call('incr', KEYS[i]) == 1 then redis.call('pexpire', KEYS[i], ARGV[i * 2]) end
end
return 0
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bucket:
    """So many tries are free; each further one begins a delay that doubles up to the longest."""

    name: str
    free: int
    longest_seconds: int
    per_seconds: int = 86_400

    @property
    def until(self) -> str:
        return f"{self.name}:until"


@dataclass(frozen=True, slots=True, kw_only=True)
class Allowance:
    """So many uses in a window of time."""

    name: str
    most: int
    per_seconds: int


def hashed(text: str) -> str:
    """What stands for an address in a key: Redis is not where personal data belongs."""
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def network_of(ip: str | None) -> str:
    """Whom a network address stands for: of IPv6 everybody has a whole /64."""
    try:
        address = ipaddress.ip_address(ip or "")
    except ValueError:
        return "nowhere"
    if address.version == 6:  # noqa: PLR2004 -- IPv6
        mapped = address.ipv4_mapped
        return str(mapped or ipaddress.ip_network((address, 64), strict=False))
    return str(address)


class Counters:
    """Tries and uses, counted over all processes."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._own = _OwnCounts()
        self._left_alone_until = 0.0

    async def try_once(self, buckets: Sequence[Bucket], *, came_in: float | None = None) -> int:
        """Count a try. Milliseconds to wait, in which case nothing was counted; or 0: go on.

        `came_in` says when, as `time.monotonic` told it; now, if it says nothing.
        """
        now = time.monotonic()
        came_in = now if came_in is None else came_in
        keys = [key for bucket in buckets for key in (bucket.name, bucket.until)]
        numbers = [
            str(number)
            for bucket in buckets
            for number in (bucket.per_seconds * 1000, bucket.free, bucket.longest_seconds)
        ]
        age = str(int((now - came_in) * 1000))
        left = await self._ask(_TRY, keys, [age, *numbers, str(REMEMBERED_SECONDS)])
        return self._own.try_once(buckets, came_in) if left is None else left

    async def take_back(self, buckets: Sequence[Bucket]) -> None:
        """It was no guess after all."""
        keys = [key for bucket in buckets for key in (bucket.name, bucket.until)]
        await self._ask(_TAKE_BACK, keys, [])
        self._own.take_back(buckets)

    async def forget(self, buckets: Sequence[Bucket]) -> None:
        """Start over."""
        keys = [key for bucket in buckets for key in (bucket.name, bucket.until)]
        await self._ask("redis.call('del', unpack(KEYS))", keys, [])
        self._own.forget(buckets)

    async def use(self, allowances: Sequence[Allowance]) -> int:
        """Count a use of each. Milliseconds until the one that is used up begins anew, or 0."""
        numbers = [
            str(number) for one in allowances for number in (one.most, one.per_seconds * 1000)
        ]
        left = await self._ask(_USE, [one.name for one in allowances], numbers)
        return self._own.use(allowances) if left is None else left

    async def _ask(self, script: str, keys: list[str], numbers: list[str]) -> int | None:
        """None: Redis is away."""
        if time.monotonic() < self._left_alone_until:
            return None
        try:
            return int(await self._redis.eval(script, len(keys), *keys, *numbers) or 0)
        except RedisError:
            self._left_alone_until = time.monotonic() + LEFT_ALONE_SECONDS
            return None


@dataclass
class _OwnCounts:
    """The same in this process alone. By name: how many, and until when they count."""

    _counts: dict[str, tuple[int, float]] = field(default_factory=dict)
    _delays: dict[str, float] = field(default_factory=dict)

    def try_once(self, buckets: Sequence[Bucket], came_in: float) -> int:
        now = time.monotonic()
        ends = max(self._delays.get(bucket.name, 0.0) for bucket in buckets)
        if ends > came_in:
            return max(1, int((ends - now) * 1000))
        for bucket in buckets:
            over = self._count(bucket.name, bucket.per_seconds, now) - bucket.free
            if over >= 0:
                self._delays[bucket.name] = now + min(2 ** min(over, 20), bucket.longest_seconds)
        return 0

    def take_back(self, buckets: Sequence[Bucket]) -> None:
        for bucket in buckets:
            count, until = self._counts.get(bucket.name, (0, 0.0))
            if count:
                self._counts[bucket.name] = (count - 1, until)
            self._delays.pop(bucket.name, None)

    def forget(self, buckets: Sequence[Bucket]) -> None:
        for bucket in buckets:
            self._counts.pop(bucket.name, None)
            self._delays.pop(bucket.name, None)

    def use(self, allowances: Sequence[Allowance]) -> int:
        now = time.monotonic()
        for one in allowances:
            count, until = self._counts.get(one.name, (0, now))
            if count >= one.most and until > now:
                return max(1, int((until - now) * 1000))
        for one in allowances:
            self._count(one.name, one.per_seconds, now)
        return 0

    def _count(self, name: str, per_seconds: int, now: float) -> int:
        if len(self._counts) >= REMEMBERED:
            self._counts = {key: kept for key, kept in self._counts.items() if kept[1] > now}
            self._delays = {key: until for key, until in self._delays.items() if until > now}
            if len(self._counts) >= REMEMBERED:
                self._counts.clear()
        count, until = self._counts.get(name, (0, 0.0))
        if until <= now:
            count, until = 0, now + per_seconds
        self._counts[name] = (count + 1, until)
        return count + 1
