"""What a running process of auth holds beside what every service does: made at first use.

A worker sends mail and needs neither passwords nor tokens, so it does not load what they take.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any

from services.auth.domain.keys import SigningKey
from services.auth.repository import AuthUnitOfWork
from services.auth.settings import AuthSettings
from shared.clock import utc_now
from shared.db import Database
from shared.runtime import Runtime

if TYPE_CHECKING:
    from services.auth.counters import Counters
    from services.auth.mail import Mailer
    from services.auth.mail_limits import MailLimits
    from services.auth.passwords import Passwords
    from services.auth.throttle import Throttle
    from services.auth.tokens import Issuer, KeyRing
    from shared.revocations import News, RevocationCache
    from shared.security import Verifier

AuthRuntime = Runtime[AuthUnitOfWork, AuthSettings]

_NAME = "auth"


class Resources:
    def __init__(self, runtime: AuthRuntime) -> None:
        self._runtime = runtime

    @cached_property
    def keys(self) -> "KeyRing":
        return _ring(self._runtime.database)

    @cached_property
    def issuer(self) -> "Issuer":
        from services.auth.tokens import Issuer  # noqa: PLC0415

        settings = self._runtime.settings
        return Issuer(self.keys, issuer=settings.issuer, audience=settings.audience)

    @cached_property
    def passwords(self) -> "Passwords":
        from services.auth.passwords import Passwords  # noqa: PLC0415

        return Passwords(workers=self._runtime.settings.password_workers)

    @cached_property
    def counters(self) -> "Counters":
        from services.auth.counters import Counters  # noqa: PLC0415

        return Counters(self._runtime.redis)

    @cached_property
    def throttle(self) -> "Throttle":
        from services.auth.throttle import Throttle  # noqa: PLC0415

        return Throttle(self.counters)

    @cached_property
    def mail_limits(self) -> "MailLimits":
        from services.auth.mail_limits import MailLimits  # noqa: PLC0415

        return MailLimits(
            self.counters, from_one_network=self._runtime.settings.mails_from_one_network
        )

    @cached_property
    def revocations(self) -> "RevocationCache":
        from shared.revocations import RevocationCache  # noqa: PLC0415

        return RevocationCache(self._runtime.redis, self._runtime.settings.issuer)

    @cached_property
    def mailer(self) -> "Mailer":
        from services.auth.mail import mailer  # noqa: PLC0415

        return mailer(self._runtime.settings)

    def close(self) -> None:
        if "passwords" in self.__dict__:
            self.passwords.close()


def _ring(database: Database[AuthUnitOfWork]) -> "KeyRing":
    from services.auth.tokens import KeyRing  # noqa: PLC0415

    async def load() -> list[SigningKey]:
        async with database.begin() as uow:
            return await uow.signing_keys.list_all()

    return KeyRing(load)


@asynccontextmanager
async def resources(runtime: AuthRuntime) -> AsyncIterator[None]:
    """Fill `runtime.own` for the time that the process runs."""
    made = Resources(runtime)
    runtime.own[_NAME] = made
    try:
        yield
    finally:
        made.close()


def own(runtime: Runtime[Any, Any]) -> Resources:
    """What `resources` put there."""
    found: Resources = runtime.own[_NAME]
    return found


def verifier(runtime: AuthRuntime) -> "Verifier":
    """Auth's own: the keys that it publishes and the API keys it knows, without asking by HTTP."""
    from services.auth.queries import revocations  # noqa: PLC0415
    from services.auth.use_cases.exchange_api_key import exchange_api_key  # noqa: PLC0415
    from shared.revocations import Revocations  # noqa: PLC0415
    from shared.security import Verifier  # noqa: PLC0415

    settings = runtime.settings
    ring = _ring(runtime.database)

    async def fetch() -> dict[str, Any]:
        return await ring.published(at=utc_now())

    async def exchange(secret: str) -> str:
        async with runtime.begin() as uow:
            bearer = await exchange_api_key(uow, secret=secret, now=utc_now())
        return await own(runtime).issuer.access_token(bearer, at=utc_now())

    async def revoked(after: int) -> "News":
        async with runtime.begin() as uow:
            return await revocations(uow, after=after)

    return Verifier(
        fetch,
        issuer=settings.issuer,
        audience=settings.audience,
        exchange=exchange,
        revocations=Revocations({"database": revoked}),
    )
