"""Access tokens: ES256 JWTs (RFC 9068), signed with keys from the database."""

import time
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any

from joserfc import jwt
from joserfc.jwk import ECKey

from services.auth.domain.bearer import Bearer
from services.auth.domain.keys import ACCESS_LIFE, PUBLISHED_BEFORE, SigningKey, signing
from shared.ids import new_id
from shared.security import TOKEN_TYPE

ALGORITHM = "ES256"
#: How long an API process signs and publishes from memory. A new key is published long before it
#: signs, so that this delay is never seen.
KEPT_SECONDS = 30


def new_key(*, signs_from: datetime, at: datetime) -> SigningKey:
    pair = ECKey.generate_key("P-256", private=True)
    return SigningKey(
        kid=pair.thumbprint(),
        private_jwk=dict(pair.as_dict(private=True)),
        signs_from=signs_from,
        created_at=at,
    )


def next_key(*, at: datetime) -> SigningKey:
    """A successor: published now, signing once every verifier has fetched it."""
    return new_key(signs_from=at + PUBLISHED_BEFORE, at=at)


def public_jwk(key: SigningKey) -> dict[str, Any]:
    pair = ECKey.import_key(dict(key.private_jwk))
    return {**pair.as_dict(private=False), "kid": key.kid, "alg": ALGORITHM, "use": "sig"}


class KeyRing:
    """The keys that are in use, from memory for half a minute at a time."""

    def __init__(self, load: Callable[[], Awaitable[list[SigningKey]]]) -> None:
        self._load = load
        self._keys: list[SigningKey] = []
        self._loaded = -float("inf")

    async def current(self) -> list[SigningKey]:
        if not self._keys or time.monotonic() - self._loaded > KEPT_SECONDS:
            self._keys = await self._load()
            self._loaded = time.monotonic()
        return self._keys

    async def published(self, *, at: datetime) -> dict[str, Any]:
        """The JWK set (RFC 7517) that verifiers fetch."""
        keys = await self.current()
        return {"keys": [public_jwk(key) for key in keys if key.is_published(at=at)]}

    def forget(self) -> None:
        """Read them again at the next use."""
        self._keys = []


def end_of(bearer: Bearer, *, at: datetime) -> datetime:
    """Until when a token that is issued now is good."""
    return bearer.ends_at or at + ACCESS_LIFE


class Issuer:
    """Signs access tokens."""

    def __init__(self, keys: KeyRing, *, issuer: str, audience: str) -> None:
        self._keys = keys
        self._issuer = issuer
        self._audience = audience

    async def access_token(self, bearer: Bearer, *, at: datetime) -> str:
        key = signing(await self._keys.current(), at=at)
        issued = int(at.timestamp())
        claims: dict[str, Any] = {
            "iss": self._issuer,
            "aud": self._audience,
            "sub": bearer.subject,
            "account_id": str(bearer.account_id) if bearer.account_id else None,
            "role": bearer.role,
            "staff": bearer.staff,
            "jti": str(new_id()),
            "iat": issued,
            "exp": int(end_of(bearer, at=at).timestamp()),
        }
        if bearer.scopes is not None:
            claims["scope"] = " ".join(bearer.scopes)
        if bearer.opened_by is not None:
            claims["opened_by"] = str(bearer.opened_by)
        if bearer.is_operator:
            claims["operator"] = True
        if bearer.networks:
            claims["networks"] = list(bearer.networks)
        if bearer.session_id is not None:
            claims["sid"] = str(bearer.session_id)
        if bearer.authenticated_at is not None:
            claims["auth_time"] = int(bearer.authenticated_at.timestamp())
        if bearer.key_version:
            claims["key_version"] = bearer.key_version
        if bearer.membership is not None:
            claims["membership"] = bearer.membership
        header = {"alg": ALGORITHM, "typ": TOKEN_TYPE, "kid": key.kid}
        pair = ECKey.import_key(dict(key.private_jwk))
        return jwt.encode(header, claims, pair, algorithms=[ALGORITHM])
