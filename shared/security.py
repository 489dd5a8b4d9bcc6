"""Verifying access tokens; issuing them is auth's business."""

import asyncio
import hashlib
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from http import HTTPStatus
from ipaddress import ip_address, ip_network
from typing import Any
from urllib.parse import urljoin
from uuid import UUID

import httpx
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet

from shared.db import Scope
from shared.errors import Forbidden, Unauthenticated, Unavailable
from shared.http import HttpClient
from shared.observability import logger
from shared.revocations import (
    UNKNOWN,
    Ground,
    News,
    RevocationCache,
    Revocations,
    Revoked,
    Source,
    SourceAway,
)
from shared.runtime import Runtime
from shared.secret_keys import is_secret_key, is_well_formed

log = logger(__name__)

#: The only algorithm; `none`, HMAC and RSA are refused whatever a header says.
ALGORITHMS = ["ES256"]
TOKEN_TYPE = "at+jwt"  # noqa: S105  (RFC 9068)
KEYS_TTL_SECONDS = 300
REFRESH_AT_MOST_EVERY_SECONDS = 5

#: What every API key begins with; it is traded for an access token before anything else.
API_KEY_PREFIX = "prn_"
#: How long the access token that a key was traded for is used, so that its last use is noted.
EXCHANGED_TTL_SECONDS = 60
#: For how long it is used when auth does not answer: nearly as long as it lives.
EXCHANGED_USABLE_SECONDS = 840
#: How long auth is left alone after it did not answer.
EXCHANGE_REST_SECONDS = 1
MOST_EXCHANGED = 10_000
MOST_VERIFIED = 10_000


class KeyScope(StrEnum):
    """What a key may be for; the key rules of each service say which operation needs which."""

    ACCOUNTS_READ = "accounts:read"
    ACCOUNTS_WRITE = "accounts:write"
    BILLING_READ = "billing:read"
    BILLING_WRITE = "billing:write"
    CATALOG_READ = "catalog:read"
    CATALOG_WRITE = "catalog:write"
    CREDIT_WRITE = "credit:write"
    CUSTOMER_SESSIONS_WRITE = "customer-sessions:write"
    INVOICES_READ = "invoices:read"
    INVOICES_WRITE = "invoices:write"
    LEDGER_READ = "ledger:read"
    PAYMENTS_READ = "payments:read"
    PAYMENTS_WRITE = "payments:write"
    PROJECTS_READ = "projects:read"
    PROJECTS_WRITE = "projects:write"
    REFUNDS_WRITE = "refunds:write"
    SETTINGS_READ = "settings:read"
    SETTINGS_WRITE = "settings:write"
    SUBSCRIPTIONS_READ = "subscriptions:read"
    SUBSCRIPTIONS_WRITE = "subscriptions:write"
    TEST_CLOCKS_WRITE = "test-clocks:write"
    TOKENS_WRITE = "tokens:write"
    USAGE_WRITE = "usage:write"


#: What only the operator does: keys of an account cannot have these.
OPERATOR_SCOPES = frozenset(
    {
        KeyScope.CATALOG_READ,
        KeyScope.CATALOG_WRITE,
        KeyScope.CREDIT_WRITE,
        KeyScope.CUSTOMER_SESSIONS_WRITE,
        KeyScope.LEDGER_READ,
        KeyScope.REFUNDS_WRITE,
        KeyScope.SETTINGS_READ,
        KeyScope.SETTINGS_WRITE,
        KeyScope.TEST_CLOCKS_WRITE,
    }
)


class LogInEnded(Unauthenticated):
    """The session behind the token was ended: by log-out, a new password, staff or its account."""

    code = "log-in-ended"

    def __init__(self) -> None:
        super().__init__("This log-in has ended. Log in again.")


class RoleChanged(Unauthenticated):
    """The role in the account is another one since the token was made: refresh it."""

    code = "role-changed"

    def __init__(self) -> None:
        super().__init__("Your role in this account changed. Ask for a new access token.")


class RevocationsUnknown(Unavailable):
    """Nobody could say for five seconds whose access has ended; only reading goes on meanwhile."""

    code = "revocations-unknown"

    def __init__(self) -> None:
        super().__init__("It cannot be checked right now whether this access still holds.")


FetchKeys = Callable[[], Awaitable[dict[str, Any]]]
#: An access token for an API key, or `Unauthenticated`.
Exchange = Callable[[str], Awaitable[str]]


class ApiKeyRefused(Unauthenticated):
    """Unknown, expired or revoked: one answer for all of them."""

    code = "api-key-refused"

    def __init__(self) -> None:
        super().__init__("The API key is unknown, expired or revoked.")


class KeyMistyped(Unauthenticated):
    """The key cannot be one: a letter is wrong, or a part is missing. Copy it again."""

    code = "key-mistyped"


class AddressNotAllowed(Forbidden):
    """The key may be used from some addresses alone, and this request came from another one."""

    code = "address-not-allowed"


@dataclass(frozen=True, slots=True)
class Caller:
    """Who is asking: a person or a key of one account, or staff or a key of the operator."""

    subject: str
    account_id: UUID | None
    role: str | None = None
    staff: str | None = None
    #: What a key may do; None for a person, who may do what their role allows.
    scopes: frozenset[str] | None = None
    #: A person's log-in: which, and when they gave their password.
    session_id: UUID | None = None
    authenticated_at: datetime | None = None
    #: A key of the operator: it stands where staff do, as far as its scopes go.
    operator_key: bool = False
    #: Of a customer session: the key of the operator that opened it.
    opened_by: UUID | None = None
    #: From which networks (CIDR) a key may be used; from everywhere when there are none.
    networks: tuple[str, ...] = ()

    @property
    def is_operator(self) -> bool:
        """Staff, or a key of the operator: whoever may act for every account."""
        return self.staff is not None or self.operator_key

    @property
    def actor(self) -> str:
        """Who acts, for the audit log."""
        kind = "customer" if self.opened_by else "user" if self.scopes is None else "key"
        return f"{kind}:{self.subject}"

    def require_staff(self, *roles: str) -> None:
        """Only staff, of one of these roles when any is named; `admin` may do all.

        What a key of the operator may do is in its scopes, which were looked at before.
        """
        if self.operator_key:
            return
        if self.staff is None or (roles and self.staff not in {*roles, "admin"}):
            raise Forbidden("This needs a staff user" + (f" ({' or '.join(roles)})." * bool(roles)))

    def require_role(self, *roles: str) -> None:
        """One of these roles in the account (an owner may do all), or the operator."""
        if not self.is_operator and self.role not in {*roles, "owner"}:
            raise Forbidden(f"This needs the role {' or '.join(roles)} in the account.")

    def require_address(self, address: str | None) -> None:
        """A key that is bound to networks is good from there alone, wherever its token went."""
        require_network(self.networks, address, key=self.subject)

    def scope(self, act_for: UUID | None = None) -> Scope:
        """Whose rows the caller's transactions see. The operator may act for one account."""
        if self.is_operator:
            return Scope(account_id=act_for, actor=self.actor)
        if self.account_id is None:
            raise Forbidden("This token belongs to no account.")
        return Scope(account_id=self.account_id, actor=self.actor)


def require_network(networks: Sequence[str], address: str | None, *, key: str) -> None:
    """Raises `AddressNotAllowed`, and tells the operator: perhaps the key has a thief."""
    if networks and not _lies_in(address, networks):
        log.warning("A key was used from where it may not be", key=key)
        raise AddressNotAllowed("This key may not be used from this address.")


def _lies_in(address: str | None, networks: Sequence[str]) -> bool:
    try:
        found = ip_address(address or "")
    except ValueError:
        return False
    mapped = getattr(found, "ipv4_mapped", None)
    return any((mapped or found) in ip_network(network) for network in networks)


def fetch_from(url: str) -> FetchKeys:
    """Keys from auth's JWKS endpoint."""

    async def fetch() -> dict[str, Any]:
        async with HttpClient(timeout=3) as client:
            answer = await client.get(url)
            answer.raise_for_status()
            keys: dict[str, Any] = answer.json()
            return keys

    return fetch


def exchange_at(jwks_url: str) -> Exchange:
    """Trade API keys at auth, which is where its keys are published."""
    url = urljoin(jwks_url, "/v1/auth/token")

    async def exchange(key: str) -> str:
        try:
            async with HttpClient(timeout=3) as client:
                answer = await client.post(url, headers={"Authorization": f"Bearer {key}"})
        except httpx.HTTPError as error:
            raise Unavailable("API keys cannot be checked right now.") from error
        if answer.status_code == HTTPStatus.UNAUTHORIZED:
            raise ApiKeyRefused
        if answer.status_code != HTTPStatus.OK:
            raise Unavailable("API keys cannot be checked right now.")
        return str(answer.json()["access_token"])

    return exchange


def revocations_at(jwks_url: str) -> Source:
    """What was revoked, from auth itself: for when Redis cannot say."""
    url = urljoin(jwks_url, "/internal/revocations")

    async def ask(after: int) -> News:
        found: list[Revoked] = []
        try:
            async with HttpClient(timeout=1) as client:
                while True:
                    answer = await client.get(url, params={"after": after})
                    answer.raise_for_status()
                    page = answer.json()
                    found += [Revoked(*entry) for entry in page["revoked"]]
                    after = page["position"]
                    if not page["more"]:
                        return News(found, after)
        except (httpx.HTTPError, ValueError) as error:
            raise SourceAway from error

    return ask


@dataclass(frozen=True, slots=True)
class Traded:
    """The access token that a key was traded for, and when, by this process's clock."""

    token: str
    fresh_until: float
    at: float


class Verifier:
    """Checks access tokens against auth's published keys (RFC 7517, RFC 9068).

    Keys are kept for five minutes, asked for again when a token names an unknown one (at most
    once in five seconds), and kept in use when auth does not answer.
    """

    def __init__(
        self,
        fetch: FetchKeys,
        *,
        issuer: str,
        audience: str,
        exchange: Exchange | None = None,
        revocations: Revocations | None = None,
    ) -> None:
        self._fetch = fetch
        #: Without them a token is good until it expires.
        self._revocations = revocations
        #: Auth, which needs not ask itself by HTTP, puts its own here.
        self.exchange = exchange
        #: By the key's hash.
        self._exchanged: dict[bytes, Traded] = {}
        #: By the token's hash: claims whose signature was checked, and by which keys. Checking it
        #: costs more than the rest of a cheap request, and callers ask again and again.
        self._verified: dict[bytes, tuple[KeySet, dict[str, Any]]] = {}
        self._keys: KeySet | None = None
        self._fetched = -float("inf")
        self._lock = asyncio.Lock()
        self._claims = jwt.JWTClaimsRegistry(
            leeway=5,
            iss={"essential": True, "value": issuer},
            aud={"essential": True, "value": audience},
            exp={"essential": True},
            iat={"essential": True},
            sub={"essential": True},
        )

    async def verify(self, token: str, *, reads: bool = False) -> Caller:
        """Who the token, or the API key, speaks for. Raises `Unauthenticated` for any other.

        When nobody can say whose access has ended, only what `reads` goes on, and not for staff:
        anything else is `RevocationsUnknown`.
        """
        claims = await self._claims_of(token)
        if self._revocations is not None:
            known = await self._revocations.are_known()
            ended = self._revocations.ended(claims)
            if ended is not None:
                claims = await self._traded_again(token, ended)
            if not known:
                self._go_on_unknowing(claims, reads=reads)
        try:
            return _caller(claims)
        except (ValueError, KeyError, TypeError) as error:
            raise Unauthenticated("The access token is not valid, or no longer.") from error

    async def _traded_again(self, token: str, ended: Ground) -> dict[str, Any]:
        """A key may be good although its token is not: its maker's role, or a secret, is another.

        Else raises what ended.
        """
        refusal = _refusal(ended)
        if not self._is_key(token) or not ended.version:
            raise refusal
        self._exchanged.pop(_name(token), None)
        try:
            claims = await self._claims_of(token)
        except Unavailable:
            raise refusal from None
        if self._revocations is not None and self._revocations.ended(claims) is not None:
            raise refusal
        return claims

    def _go_on_unknowing(self, claims: dict[str, Any], *, reads: bool) -> None:
        """Let through what reads: an account's own data, for no longer than the token lives."""
        goes_on = reads and claims.get("staff") is None
        UNKNOWN.labels("let through" if goes_on else "refused").inc()
        if not goes_on:
            raise RevocationsUnknown

    def _is_key(self, token: str) -> bool:
        return token.startswith(API_KEY_PREFIX) and self.exchange is not None

    async def _claims_of(self, token: str) -> dict[str, Any]:
        """What the token says, or what the key was traded for."""
        if is_secret_key(token) and not is_well_formed(token):
            raise KeyMistyped("This is not a whole key: its checksum does not fit. Copy it again.")
        if token.startswith(API_KEY_PREFIX) and self.exchange is not None:
            token = await self._traded(token, self.exchange)
        keys = await self._current(older_than=KEYS_TTL_SECONDS)
        try:
            try:
                claims = self._decode(token, keys)
            except (JoseError, ValueError):
                # Perhaps signed with a key that was published since.
                refreshed = await self._current(older_than=REFRESH_AT_MOST_EVERY_SECONDS)
                if refreshed is keys:
                    raise
                claims = self._decode(token, refreshed)
        except (JoseError, ValueError, KeyError, TypeError) as error:
            raise Unauthenticated("The access token is not valid, or no longer.") from error
        return claims

    async def _traded(self, key: str, exchange: Exchange) -> str:
        name = _name(key)
        traded = self._exchanged.get(name)
        now = time.monotonic()
        if traded is None or now >= traded.fresh_until:
            try:
                traded = Traded(await exchange(key), now + EXCHANGED_TTL_SECONDS, now)
            except Unavailable:
                # The token is good for longer; whether the key still is, revocations tell.
                if traded is None or now >= traded.at + EXCHANGED_USABLE_SECONDS:
                    raise
                traded = replace(traded, fresh_until=now + EXCHANGE_REST_SECONDS)
            if len(self._exchanged) >= MOST_EXCHANGED:
                self._exchanged.clear()
            self._exchanged[name] = traded
        return traded.token

    def _decode(self, token: str, keys: KeySet) -> dict[str, Any]:
        """The claims. A signature is checked once by the same keys, its time at each use."""
        name = _name(token)
        by, claims = self._verified.get(name, (None, {}))
        if by is not keys:
            decoded = jwt.decode(token, keys, algorithms=ALGORITHMS)
            if decoded.header.get("typ") != TOKEN_TYPE:
                raise ValueError("not an access token")
            claims = dict(decoded.claims)
            if len(self._verified) >= MOST_VERIFIED:
                self._verified.clear()
            self._verified[name] = (keys, claims)
        self._claims.validate(claims)
        return claims

    async def _current(self, *, older_than: float) -> KeySet:
        if self._keys is not None and time.monotonic() - self._fetched < older_than:
            return self._keys
        async with self._lock:
            if self._keys is None or time.monotonic() - self._fetched >= older_than:
                try:
                    self._keys = KeySet.import_key_set(await self._fetch())  # type: ignore[arg-type]
                except (httpx.HTTPError, OSError, ValueError) as error:
                    if self._keys is None:
                        raise Unavailable("Tokens cannot be checked right now.") from error
                self._fetched = time.monotonic()
            return self._keys


def verifier_over_http(runtime: Runtime[Any, Any]) -> Verifier:
    """The verifier of every service but auth, which it asks for its keys."""
    settings = runtime.settings
    cache = RevocationCache(runtime.redis, settings.issuer)
    sources = {"redis": cache.read, "auth": revocations_at(settings.jwks_url)}
    return Verifier(
        fetch_from(settings.jwks_url),
        issuer=settings.issuer,
        audience=settings.audience,
        exchange=exchange_at(settings.jwks_url),
        revocations=Revocations(sources),
    )


def _name(token: str) -> bytes:
    """What a token or key is remembered by."""
    return hashlib.sha256(token.encode()).digest()


def _refusal(ended: Ground) -> Unauthenticated:
    if ended.kind == "session":
        return LogInEnded()
    if ended.kind == "membership":
        return RoleChanged()
    if ended.kind == "account":
        return LogInEnded()
    return ApiKeyRefused()


def _caller(claims: dict[str, Any]) -> Caller:
    account = claims.get("account_id")
    scopes = claims.get("scope")
    return Caller(
        subject=str(claims["sub"]),
        account_id=UUID(account) if account else None,
        role=claims.get("role"),
        staff=claims.get("staff"),
        scopes=frozenset(str(scopes).split()) if scopes is not None else None,
        operator_key=claims.get("operator") is True,
        opened_by=UUID(claims["opened_by"]) if "opened_by" in claims else None,
        networks=tuple(claims.get("networks") or ()),
        session_id=UUID(claims["sid"]) if "sid" in claims else None,
        authenticated_at=(
            datetime.fromtimestamp(int(claims["auth_time"]), UTC) if "auth_time" in claims else None
        ),
    )
