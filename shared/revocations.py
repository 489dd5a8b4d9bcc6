"""What was ended before its time: sessions, API keys and roles. Every API knows it within 5 s.

Auth writes each ending down in the transaction that causes it. A worker of auth keeps those that
may still matter in Redis, and says every second until when they are the whole truth. An API asks
Redis, or auth itself where Redis cannot say, only when a request comes and what it knows is older
than two seconds; otherwise it looks into its own memory
(docs/adr/0017-revocations-within-five-seconds.md).
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from prometheus_client import Counter
from redis.asyncio import Redis
from redis.exceptions import RedisError

from shared.observability import logger

log = logger(__name__)

REFRESHES = Counter(
    "revocation_refreshes_total", "How often this process asked what was revoked.", ["source"]
)
UNKNOWN = Counter(
    "revocations_unknown_total",
    "Requests that came when nobody had said for five seconds what was revoked.",
    ["answer"],
)

#: What is promised: an ending is known everywhere after this long …
KNOWN_WITHIN_SECONDS = 5.0
#: … and asked for when a request comes and what is known is older than this.
ASKED_AFTER_SECONDS = 2.0
#: Between two times of asking, after an answer and after none.
PAUSE_SECONDS = 0.5
PAUSE_AFTER_FAILURE_SECONDS = 1.0
#: How long what is in Redis is taken for the whole truth after it was read from the database.
PUBLISHED_FOR_SECONDS = 3.0
#: Entries that no token can meet any more are dropped from Redis after this long.
CACHED_FOR_SECONDS = 7200


class SourceAway(Exception):
    """This source cannot say now what was revoked."""


@dataclass(frozen=True, slots=True)
class Revoked:
    """Of `subject`, what is older than version `below` is over. Nobody can meet it after `until`.

    The subject is a session, a key, a membership or an account: ids are unique among all of them.
    """

    position: int
    subject: str
    below: int
    #: Seconds since 1970.
    until: int


@dataclass(frozen=True, slots=True)
class Ground:
    """What a token stands on. Memberships and keys of the operator have versions, from 1 on."""

    kind: str
    subject: str
    version: int = 0


@dataclass(frozen=True, slots=True)
class News:
    """All that was revoked after a position, as it was `age` seconds before it was asked for."""

    revoked: Sequence[Revoked]
    position: int
    age: float = 0.0


#: What was revoked after this position; raises `SourceAway`.
Source = Callable[[int], Awaitable[News]]


def grounds(claims: Mapping[str, Any]) -> Iterable[Ground]:
    """What an access token stands on: when one of these is over, so is the token."""
    if "sid" in claims:
        yield Ground("session", str(claims["sid"]))
    if "scope" in claims:
        yield Ground("key", str(claims["sub"]), int(claims.get("key_version", 0)))
    if "opened_by" in claims:
        yield Ground("key", str(claims["opened_by"]))
        yield Ground("account", str(claims["account_id"]))
    if membership := claims.get("membership"):
        subject, _, version = str(membership).partition(".")
        yield Ground("membership", subject, int(version))


class Revocations:
    """What this process knows of it. Asks its sources in their order, one request at a time."""

    def __init__(self, sources: Mapping[str, Source]) -> None:
        self._sources = sources
        self._known: dict[str, Revoked] = {}
        self._position = 0
        #: When what is known was the whole truth, by this process's clock.
        self._as_of = -float("inf")
        self._pause_until = -float("inf")
        self._fails = False
        self._asking: asyncio.Task[None] | None = None

    async def are_known(self) -> bool:
        """Whether what is known is at most five seconds old.

        A request waits for an answer only when nothing was asked for a while. While the sources
        are away it does not wait for them.
        """
        age = time.monotonic() - self._as_of
        if age < ASKED_AFTER_SECONDS:
            return True
        asking = self._ask_once()
        if age < KNOWN_WITHIN_SECONDS:
            return True
        if asking is not None and not self._fails:
            await asyncio.shield(asking)
        return time.monotonic() - self._as_of < KNOWN_WITHIN_SECONDS

    def ended(self, claims: Mapping[str, Any]) -> Ground | None:
        """What the token stands on that is over, as far as is known."""
        if not self._known:
            return None
        for ground in grounds(claims):
            found = self._known.get(ground.subject)
            if found is not None and ground.version < found.below:
                return ground
        return None

    def _ask_once(self) -> asyncio.Task[None] | None:
        if self._asking is None and time.monotonic() >= self._pause_until:
            self._asking = asyncio.create_task(self._ask(), name="revocations")
        return self._asking

    async def _ask(self) -> None:
        try:
            self._fails = not await self._ask_sources()
        except Exception:
            self._fails = True
            log.exception("What was revoked could not be read")
        finally:
            pause = PAUSE_AFTER_FAILURE_SECONDS if self._fails else PAUSE_SECONDS
            self._pause_until = time.monotonic() + pause
            self._asking = None

    async def _ask_sources(self) -> bool:
        for name, source in self._sources.items():
            asked = time.monotonic()
            try:
                news = await source(self._position)
            except SourceAway:
                continue
            self._take(news, as_of=asked - news.age)
            REFRESHES.labels(name).inc()
            return True
        if not self._fails:
            log.warning("Nobody can say what was revoked")
        REFRESHES.labels("none").inc()
        return False

    def _take(self, news: News, *, as_of: float) -> None:
        now = time.time()
        over = [one.subject for one in self._known.values() if one.until < now]
        for subject in over:
            del self._known[subject]
        for revoked in news.revoked:
            known = self._known.get(revoked.subject)
            if revoked.until >= now and (known is None or known.below <= revoked.below):
                self._known[revoked.subject] = revoked
        self._position = max(self._position, news.position)
        self._as_of = max(self._as_of, as_of)


#: Add what is new, drop what is over, and say until when this is all there is. One step, so that
#: no reader meets half of it. The number of entries tells a reader whether some were lost.
_PUBLISH = """
if ARGV[1] == 'whole' then redis.call('del', KEYS[1]) end
for i = 5, #ARGV, 2 do redis.call('zadd', KEYS[1], ARGV[i], ARGV[i + 1]) end
redis.call('zremrangebyscore', KEYS[1], '-inf', '(' .. ARGV[2])
redis.call('expire', KEYS[1], 7200)
redis.call('set', KEYS[2], ARGV[3] .. ' ' .. redis.call('zcard', KEYS[1]), 'px', ARGV[4])
"""


class RevocationCache:
    """What was revoked, in Redis: a sorted set by position, and the statement that it is whole.

    The statement ends by itself. So a Redis that was emptied, that came back with old data or that
    nobody writes to is not believed.
    """

    def __init__(self, redis: "Redis", installation: str) -> None:
        self._redis = redis
        self._entries = f"revocations:{installation}:entries"
        self._whole = f"revocations:{installation}:whole"

    async def read(self, after: int) -> News:
        """For an API. Raises `SourceAway` when there is no Redis, or it does not know all."""
        try:
            async with self._redis.pipeline(transaction=True) as pipe:
                self._ask_whether_whole(pipe)
                pipe.pttl(self._whole)
                pipe.zrangebyscore(self._entries, f"({after}", "+inf", withscores=True)
                statement, count, left, entries = await pipe.execute()
        except (RedisError, OSError) as error:
            raise SourceAway from error
        position = _position(statement, count)
        if position is None or left <= 0:
            raise SourceAway
        revoked = [_entry(int(score), bytes(member)) for member, score in entries]
        return News(revoked, position, age=PUBLISHED_FOR_SECONDS - left / 1000)

    async def position(self) -> int | None:
        """For who publishes: up to where Redis knows all; None when it does not, or is away."""
        async with self._redis.pipeline(transaction=True) as pipe:
            self._ask_whether_whole(pipe)
            statement, count = await pipe.execute()
        return _position(statement, count)

    async def publish(self, news: News, *, after: int | None, read_at: float) -> None:
        """Add what was revoked after a position (None: all of it), read at this monotonic time."""
        left = PUBLISHED_FOR_SECONDS - (time.monotonic() - read_at)
        if left <= 0:
            return
        arguments: list[str | int] = [
            "whole" if after is None else "more",
            int((time.time() - CACHED_FOR_SECONDS) * 1_000_000),
            news.position,
            int(left * 1000),
        ]
        for one in news.revoked:
            arguments += [one.position, f"{one.subject} {one.below} {one.until}"]
        await self._redis.eval(_PUBLISH, 2, self._entries, self._whole, *map(str, arguments))

    def _ask_whether_whole(self, pipe: Any) -> None:
        pipe.get(self._whole)
        pipe.zcard(self._entries)


def _position(statement: bytes | None, count: int) -> int | None:
    """Up to where it is all there, if as many entries are there as were then."""
    position, _, expected = (statement or b"").partition(b" ")
    return int(position) if expected and int(expected) == count else None


def _entry(position: int, member: bytes) -> Revoked:
    subject, below, until = member.decode().split(" ")
    return Revoked(position, subject, int(below), int(until))
