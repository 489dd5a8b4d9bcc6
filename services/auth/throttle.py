"""Slowing down who guesses: a growing delay and never a lock-out.

A guess is counted before it is looked at, so that of many at once no more are checked than one
after the other would be; one that was right is taken back. It is judged by when its request came
in: a busy process does not let it outwait a delay. docs/services/auth.md says which counts
there are, and why nobody can keep an owner out with them.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from uuid import UUID

from services.auth.counters import Bucket, Counters, hashed, network_of
from services.auth.domain.mfa import SecondFactorWrong
from services.auth.domain.sessions import TokenRefused
from services.auth.domain.users import WrongCredentials
from shared.context import came_in
from shared.errors import TooManyRequests

#: What a wrong guess ends in. Anything else that ends a request says nothing about the guess.
WRONG = (WrongCredentials, SecondFactorWrong, TokenRefused)


class TooManyTries(TooManyRequests):
    """Too many wrong guesses; the delay grows with each."""

    code = "too-many-tries"


@dataclass(slots=True)
class Guess:
    """One that is being looked at. `right`: it was, so the owner starts over here."""

    buckets: list[Bucket] = field(default_factory=list)
    right: bool = False


class Throttle:
    """What may be guessed: passwords, codes of a second factor, mailed tokens."""

    def __init__(self, counters: Counters) -> None:
        self._counters = counters

    @asynccontextmanager
    async def password(
        self, who: str, ip: str | None, *, device: bytes | None
    ) -> AsyncIterator[Guess]:
        """Look at a password of `who`. `device` is one that they are known at."""
        async with self._guess(_at_password(who, ip, device)) as guess:
            yield guess

    @asynccontextmanager
    async def code(self, user_id: UUID, *, device: bytes | None) -> AsyncIterator[Guess]:
        """Look at a code of a user's second factor: whoever sends it knows the password."""
        async with self._guess(_at_code(user_id, device)) as guess:
            yield guess

    @asynccontextmanager
    async def token(self, ip: str | None) -> AsyncIterator[Guess]:
        """Look at a mailed token."""
        bucket = Bucket(
            name=f"auth:tries:tokens:{network_of(ip)}",
            free=30,
            longest_seconds=60,
            per_seconds=3600,
        )
        async with self._guess([bucket]) as guess:
            yield guess

    async def start_over(self, address: str, user_id: UUID, ip: str | None) -> None:
        """They have shown by mail who they are: what strangers guessed does not delay them here."""
        pair, _, anywhere = _at_password(address, ip, None)
        await self._counters.forget([pair, anywhere, *_at_code(user_id, None)])

    @asynccontextmanager
    async def _guess(self, buckets: list[Bucket]) -> AsyncIterator[Guess]:
        left = await self._counters.try_once(buckets, came_in=came_in())
        if left:
            raise TooManyTries(
                "Too many failed tries. Wait, then try again.",
                retry_after_seconds=-(-left // 1000),
            )
        guess = Guess(buckets)
        try:
            yield guess
        except WRONG:
            raise
        except Exception:
            await self._counters.take_back(buckets)
            raise
        if guess.right:
            # The first one is theirs alone; the others count for more than this guess.
            await self._counters.forget(buckets[:1])
            buckets = buckets[1:]
        if buckets:
            await self._counters.take_back(buckets)


def _at_password(who: str, ip: str | None, device: bytes | None) -> list[Bucket]:
    name = f"auth:tries:{hashed(who)}"
    if device is not None:
        at = Bucket(name=f"{name}:at:{device.hex()[:32]}", free=5, longest_seconds=900)
        return [at]
    network = network_of(ip)
    return [
        Bucket(name=f"{name}:{network}", free=5, longest_seconds=900),
        # Somebody who tries one password with many addresses. Many people may be behind this one.
        Bucket(name=f"auth:tries:from:{network}", free=100, longest_seconds=60, per_seconds=3600),
        # Many who try one address. Not for long: it is all who do not come from a known device.
        Bucket(name=name, free=100, longest_seconds=30),
    ]


def _at_code(user_id: UUID, device: bytes | None) -> list[Bucket]:
    """Guessing from anywhere is slowed down to some thirty in a day.

    Of a million codes three are good at any time. Who guesses has the password, and a reset of it
    starts this over.
    """
    name = f"auth:tries:code:{user_id}"
    if device is not None:
        name = f"{name}:at:{device.hex()[:32]}"
    return [Bucket(name=name, free=5, longest_seconds=7200)]
