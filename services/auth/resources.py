"""What a running process of auth holds beside what every service does."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from services.auth.domain.keys import SigningKey
from services.auth.mail import Mailer, mailer
from services.auth.passwords import Passwords
from services.auth.repository import AuthUnitOfWork
from services.auth.settings import AuthSettings
from services.auth.throttle import Throttle
from services.auth.tokens import Issuer, KeyRing
from services.auth.use_cases.exchange_api_key import exchange_api_key
from shared.clock import utc_now
from shared.db import Database
from shared.runtime import Runtime
from shared.security import Verifier

AuthRuntime = Runtime[AuthUnitOfWork, AuthSettings]

_NAME = "auth"


@dataclass(frozen=True, slots=True)
class Resources:
    keys: KeyRing
    issuer: Issuer
    passwords: Passwords
    throttle: Throttle
    mailer: Mailer


def _ring(database: Database[AuthUnitOfWork]) -> KeyRing:
    async def load() -> list[SigningKey]:
        async with database.begin() as uow:
            return await uow.signing_keys.list_all()

    return KeyRing(load)


@asynccontextmanager
async def resources(runtime: AuthRuntime) -> AsyncIterator[None]:
    """Fill `runtime.own` for the time that the process runs."""
    settings = runtime.settings
    keys = _ring(runtime.database)
    passwords = Passwords(workers=settings.password_workers)
    issuer = Issuer(keys, issuer=settings.issuer, audience=settings.audience)
    runtime.own[_NAME] = Resources(
        keys=keys,
        issuer=issuer,
        passwords=passwords,
        throttle=Throttle(runtime.redis),
        mailer=mailer(settings),
    )
    try:
        yield
    finally:
        passwords.close()


def own(runtime: Runtime[Any, Any]) -> Resources:
    """What `resources` put there."""
    found: Resources = runtime.own[_NAME]
    return found


def verifier(runtime: AuthRuntime) -> Verifier:
    """Auth's own: the keys that it publishes and the API keys it knows, without asking by HTTP."""
    settings = runtime.settings
    ring = _ring(runtime.database)

    async def fetch() -> dict[str, Any]:
        return await ring.published(at=utc_now())

    async def exchange(secret: str) -> str:
        async with runtime.begin() as uow:
            bearer = await exchange_api_key(uow, secret=secret, now=utc_now())
        return await own(runtime).issuer.access_token(bearer, at=utc_now())

    return Verifier(fetch, issuer=settings.issuer, audience=settings.audience, exchange=exchange)
