"""Passwords: how they are kept, and which are refused."""

import asyncio
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import ParamSpec, TypeVar

from pwdlib import PasswordHash
from pwdlib.hashers.argon2 import Argon2Hasher

from services.auth.domain.users import PasswordRefused
from shared.errors import TooManyRequests

P = ParamSpec("P")
T = TypeVar("T")

MINIMUM_LENGTH = 12
#: Nothing is truncated; this only bounds the work.
MAXIMUM_LENGTH = 256
#: A password of fewer different characters is a pattern.
FEWEST_DIFFERENT = 5
#: Without common and personal words this much must be left, or some letters at least.
ENOUGH_LEFT = 8

#: OWASP's minimum for argon2id: 19 MiB, 2 passes, about 25 ms here. Old hashes are renewed at the
#: next log-in when these numbers grow.
_HASHER = PasswordHash((Argon2Hasher(time_cost=2, memory_cost=19_456, parallelism=1),))
#: A hash of nothing anybody knows: an unknown address costs what a known one does.
_DECOY = _HASHER.hash("an address that nobody has registered")

#: Words of this product and of every list of common passwords; one that is little more than
#: these, whatever digits and signs surround them, is guessed first.
COMMON = (
    "perennial", "subscription", "billing", "invoice", "password", "passwort", "passw0rd", "admin",
    "administrator", "welcome", "letmein", "qwertyuiop", "qwertzuiop", "qwerty", "qwertz", "azerty",
    "asdfghjkl", "yxcvbnm", "zxcvbnm", "iloveyou", "sunshine", "princess", "football", "baseball",
    "superman", "batman", "starwars", "trustno1", "dragon", "monkey", "shadow", "master", "michael",
    "jennifer", "changeme", "secret", "default", "company", "summer", "winter", "spring", "autumn",
    "january", "february", "september", "october", "november", "december", "london", "berlin",
    "abcdefghijklmnopqrstuvwxyz", "abcdefgh", "01234567890", "1234567890", "12345678", "123456789",
    "987654321", "0987654321", "1q2w3e4r5t6y", "1q2w3e4r", "1qaz2wsx", "qazwsxedc", "test", "login",
    "google", "facebook", "linkedin", "whatever", "computer", "internet", "hello", "charlie",
)  # fmt: skip


class PasswordBusy(TooManyRequests):
    """More people log in at this moment than passwords can be checked."""

    code = "too-many-log-ins"


def check_strength(password: str, *, personal: tuple[str, ...] = ()) -> None:
    """Refuse what is guessed first. No rules of composition: length is what counts (NIST 800-63B).

    `personal` are words about the person: their name and the parts of their address.
    """
    if len(password) < MINIMUM_LENGTH:
        raise PasswordRefused(
            f"Use at least {MINIMUM_LENGTH} characters; a few words do well.", field="password"
        )
    if len(password) > MAXIMUM_LENGTH:
        raise PasswordRefused(f"Use at most {MAXIMUM_LENGTH} characters.", field="password")
    lowered = password.lower()
    if len(set(lowered)) < FEWEST_DIFFERENT:
        raise PasswordRefused("This repeats too few characters.", field="password")
    words = {word for text in personal for word in re.findall(r"\w{4,}", text.lower())}
    rest = lowered
    for word in sorted({*words, *COMMON}, key=len, reverse=True):
        rest = rest.replace(word, "")
    if len(rest) < ENOUGH_LEFT and len(re.sub(r"[\W\d_]", "", rest)) < FEWEST_DIFFERENT:
        raise PasswordRefused(
            "This is made of common words, your name or your address. Choose other words.",
            field="password",
        )


class Passwords:
    """Hashing off the event loop, so many at a time and no more: each takes 19 MiB."""

    def __init__(self, *, workers: int = 2, waiting: int = 100) -> None:
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="argon2")
        self._most = workers + waiting
        self._in_hand = 0

    async def hash(self, password: str) -> str:
        return await self._run(_HASHER.hash, password)

    async def verify(self, password: str, kept: str | None) -> tuple[bool, str | None]:
        """Whether it is right, and a new hash when the kept one is of an older make.

        Without a kept hash the answer is no, after the same work.
        """
        right, renewed = await self._run(_HASHER.verify_and_update, password, kept or _DECOY)
        return (right, renewed) if kept else (False, None)

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def _run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        if self._in_hand >= self._most:
            raise PasswordBusy("Too many people log in right now.", retry_after_seconds=2)
        self._in_hand += 1
        try:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._pool, partial(work, *args, **kwargs))
        finally:
            self._in_hand -= 1
