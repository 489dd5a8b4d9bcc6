"""Forged, stale and borrowed access tokens: each is refused, by the verifier that all share."""

import base64
import hashlib
import hmac
import json
import time
from typing import Any

import pytest
from joserfc import jwt
from joserfc.jwk import ECKey

from services.auth.domain.keys import PUBLISHED_AFTER, signing
from services.auth.resources import own
from services.auth.use_cases.rotate_keys import keep_keys_fresh, rotate_keys
from shared.clock import utc_now
from tests.auth.people import People, Person, claims


def b64(value: bytes | dict[str, Any]) -> str:
    raw = json.dumps(value).encode() if isinstance(value, dict) else value
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


class Forger:
    """Knows everything but the private key, and in some tests that too."""

    def __init__(self, people: People, person: Person, private: dict[str, Any], kid: str) -> None:
        self.people = people
        self.kid = kid
        self.claims = claims(person.access_token)
        self.private = private

    def signed(self, header: dict[str, Any] | None = None, **changed: Any) -> str:
        """By the real key, with something changed. A claim that is None is left out."""
        head = {"alg": "ES256", "typ": "at+jwt", "kid": self.kid, **(header or {})}
        body = {
            k: v for k, v in {**self.claims, **changed}.items() if v is not None or k == "staff"
        }
        return jwt.encode(head, body, ECKey.import_key(self.private), algorithms=["ES256"])

    async def status(self, token: str) -> int:
        answer = await self.people.http.get("/v1/me", headers={"Authorization": f"Bearer {token}"})
        if answer.status_code == 401:
            assert answer.headers["www-authenticate"] == "Bearer"
        return answer.status_code


@pytest.fixture
async def forger(people: People) -> Forger:
    person = await people.logged_in()
    keys = await own(people.auth.runtime).keys.current()
    key = signing(keys, at=utc_now())
    return Forger(people, person, dict(key.private_jwk), key.kid)


async def test_the_forger_can_make_a_good_token(forger: Forger) -> None:
    assert await forger.status(forger.signed()) == 200


async def test_no_token_is_refused(people: People) -> None:
    for headers in ({}, {"Authorization": "Bearer"}, {"Authorization": "Basic eDp5"}):
        assert (await people.http.get("/v1/me", headers=headers)).status_code == 401


async def test_a_token_without_a_signature_is_refused(forger: Forger) -> None:
    for algorithm in ("none", "None", "NONE", ""):
        head = {"alg": algorithm, "typ": "at+jwt", "kid": forger.kid}
        assert await forger.status(f"{b64(head)}.{b64(forger.claims)}.") == 401


async def test_a_token_signed_with_the_public_key_as_hmac_secret_is_refused(
    forger: Forger,
) -> None:
    public = ECKey.import_key(forger.private)
    for secret in (
        public.as_pem(private=False),
        json.dumps(public.as_dict(private=False)).encode(),
    ):
        head = {"alg": "HS256", "typ": "at+jwt", "kid": forger.kid}
        signed = f"{b64(head)}.{b64(forger.claims)}"
        mac = hmac.new(secret, signed.encode(), hashlib.sha256).digest()
        assert await forger.status(f"{signed}.{b64(mac)}") == 401


async def test_a_key_that_the_token_brings_along_is_not_believed(forger: Forger) -> None:
    mine = ECKey.generate_key("P-256")
    public = mine.as_dict(private=False)
    for extra in (
        {"jwk": public},
        {"jku": "https://evil.example/jwks.json"},
        {"x5u": "https://evil.example/cert.pem"},
        {"kid": "another"},
        {"kid": "../../etc/passwd"},
        {},
    ):
        head = {"alg": "ES256", "typ": "at+jwt", "kid": forger.kid, **extra}
        token = jwt.encode(head, forger.claims, mine, algorithms=["ES256"])
        assert await forger.status(token) == 401


@pytest.mark.parametrize(
    "changed",
    [
        {"iss": "https://evil.example"},
        {"iss": None},
        {"aud": "another"},
        {"aud": None},
        {"exp": int(time.time()) - 60},
        {"exp": None},
        {"nbf": int(time.time()) + 86_400},
        {"sub": None},
        {"iat": None},
    ],
)
async def test_a_token_with_a_claim_that_does_not_hold_is_refused(
    forger: Forger, changed: dict[str, Any]
) -> None:
    assert await forger.status(forger.signed(**changed)) == 401


async def test_another_kind_of_token_is_not_an_access_token(forger: Forger) -> None:
    for kind in ("JWT", "id+jwt", "logout+jwt", ""):
        assert await forger.status(forger.signed({"typ": kind})) == 401


async def test_a_changed_token_is_refused(forger: Forger) -> None:
    head, _, signature = forger.signed().split(".")
    raised = {**forger.claims, "staff": "admin"}
    assert await forger.status(f"{head}.{b64(raised)}.{signature}") == 401


async def test_a_refresh_token_is_not_an_access_token(people: People) -> None:
    person = await people.logged_in()
    headers = {"Authorization": f"Bearer {person.refresh_token}"}
    assert (await people.http.get("/v1/me", headers=headers)).status_code == 401


async def test_the_published_keys_have_no_private_half(people: People) -> None:
    answer = await people.http.get("/.well-known/jwks.json")

    assert answer.headers["cache-control"] == "public, max-age=300"
    for key in answer.json()["keys"]:
        assert key.keys() == {"kty", "crv", "x", "y", "kid", "alg", "use"}


async def test_keys_rotate_without_a_gap(people: People, forger: Forger) -> None:
    runtime = people.auth.runtime
    now = utc_now()
    async with runtime.begin() as uow:
        successor = await rotate_keys(uow, now=now)
    async with runtime.begin() as uow:
        assert (await rotate_keys(uow, now=now)).kid == successor.kid  # one at a time
    own(runtime).keys.forget()

    published = (await people.http.get("/.well-known/jwks.json")).json()["keys"]
    keys = await own(runtime).keys.current()

    assert {forger.kid, successor.kid} <= {key["kid"] for key in published}
    assert signing(keys, at=now).kid == forger.kid
    assert signing(keys, at=successor.signs_from).kid == successor.kid
    old = next(key for key in keys if key.kid == forger.kid)
    assert old.is_published(at=successor.signs_from + PUBLISHED_AFTER / 2)
    assert not old.is_published(at=successor.signs_from + PUBLISHED_AFTER)
    assert await forger.status(forger.signed()) == 200
    async with runtime.begin() as uow:  # not before its time
        assert await keep_keys_fresh(uow, now=now) == 0
