"""Slowing down who guesses: a growing delay per address and network address, never a lock-out."""

import hashlib
from dataclasses import dataclass

from redis.asyncio import Redis
from redis.exceptions import RedisError

from shared.errors import TooManyRequests

#: Failures of one address from one network address that cost nothing …
FREE_TRIES = 5
LONGEST_SECONDS = 900
#: … and of one address from anywhere in a day, after which everybody waits, but not for long:
#: whoever guesses must not keep the owner out.
FREE_TRIES_ANYWHERE = 100
LONGEST_ANYWHERE_SECONDS = 30
DAY_MILLISECONDS = 86_400_000

#: Count a failure and, past the free ones, set the delay: doubling up to the longest.
_FAIL = """
local n = redis.call('incr', KEYS[1])
if n == 1 then redis.call('pexpire', KEYS[1], ARGV[1]) end
local over = n - tonumber(ARGV[2])
if over >= 0 then
  local wait = math.min(2 ^ math.min(over, 20), tonumber(ARGV[3]))
  redis.call('set', KEYS[2], '1', 'px', math.floor(wait * 1000))
end
return n
"""


class TooManyTries(TooManyRequests):
    """Too many wrong passwords for this address; the delay grows with each."""

    code = "too-many-tries"


@dataclass(frozen=True, slots=True)
class _Counter:
    name: str
    free: int
    longest_seconds: int

    @property
    def until(self) -> str:
        return f"{self.name}:until"


class Throttle:
    """Keeps its counts in Redis; without it nothing is delayed (the gateway's limits still are).

    Addresses are hashed, since Redis is not where personal data belongs.
    """

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    async def check(self, address: str, ip: str | None) -> None:
        """Raises `TooManyTries` while a delay runs."""
        try:
            for counter in _counters(address, ip):
                left = int(await self._redis.pttl(counter.until))
                if left > 0:
                    raise TooManyTries(
                        "Too many failed tries. Wait, then try again.",
                        retry_after_seconds=-(-left // 1000),
                    )
        except RedisError:
            return

    async def failed(self, address: str, ip: str | None) -> None:
        """Count a failure."""
        try:
            for counter in _counters(address, ip):
                await self._redis.eval(
                    _FAIL,
                    2,
                    counter.name,
                    counter.until,
                    str(DAY_MILLISECONDS),
                    str(counter.free),
                    str(counter.longest_seconds),
                )
        except RedisError:
            return

    async def succeeded(self, address: str, ip: str | None) -> None:
        """Start over for this address from this network address."""
        mine = _counters(address, ip)[0]
        try:
            await self._redis.delete(mine.name, mine.until)
        except RedisError:
            return


def _counters(address: str, ip: str | None) -> tuple[_Counter, _Counter]:
    who = hashlib.sha256(address.encode()).hexdigest()[:32]
    return (
        _Counter(f"auth:tries:{who}:{ip}", FREE_TRIES, LONGEST_SECONDS),
        _Counter(f"auth:tries:{who}", FREE_TRIES_ANYWHERE, LONGEST_ANYWHERE_SECONDS),
    )
