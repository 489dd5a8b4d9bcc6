"""Customers whom the operator's backend lets in, to one account and for a short while."""

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any
from uuid import uuid4

import httpx
import pytest

from services.auth.domain.roles import StaffRole
from services.auth.main import service
from services.auth.use_cases.create_operator_key import create_operator_key
from services.payments.main import service as payments_service
from shared.clock import utc_now
from shared.runtime import Runtime
from shared.security import KeyScope, Verifier
from shared.settings import Settings
from tests.auth.people import People, claims
from tests.harness import Deployment, Running, running

Headers = dict[str, str]
SESSIONS = "/v1/customer-sessions"


class OfAuth:
    """Has another service believe the tokens of this test's auth."""

    def __init__(self, auth: Runtime[Any, Any]) -> None:
        self._auth = auth

    def verifier(self, _settings: Settings) -> Verifier:
        assert service.verifier is not None
        return service.verifier(self._auth)


@pytest.fixture
async def payments(people: People, deployment: Deployment) -> AsyncIterator[Running]:
    issuer: Any = OfAuth(people.auth.runtime)
    async with running(payments_service, deployment, issuer, worker=False) as started:
        yield started


async def key_with(people: People, *scopes: KeyScope) -> Headers:
    async with people.auth.runtime.begin() as uow:
        _, _, plain = await create_operator_key(
            uow, name="backend", scopes=scopes or list(KeyScope), now=utc_now()
        )
    return {"Authorization": f"Bearer {plain}"}


@pytest.fixture
async def backend(people: People) -> Headers:
    return await key_with(people)


async def account_of(people: People, backend: Headers) -> str:
    answer = await people.http.post("/v1/accounts", json={"name": "Acme"}, headers=backend)
    return str(answer.json()["id"])


async def opened(people: People, backend: Headers, **body: Any) -> dict[str, Any]:
    answer = await people.http.post(SESSIONS, json=body, headers=backend)
    assert answer.status_code == 201, answer.text
    assert answer.headers["cache-control"] == "no-store"
    found: dict[str, Any] = answer.json()
    return found


def bearer(session: dict[str, Any]) -> Headers:
    return {"Authorization": f"Bearer {session['token']}"}


async def test_a_customer_is_let_in_to_one_account_for_a_quarter_of_an_hour(
    people: People, backend: Headers
) -> None:
    mine, other = [await account_of(people, backend) for _ in range(2)]

    session = await opened(people, backend, account_id=mine)
    read = await people.http.get(f"/v1/accounts/{mine}", headers=bearer(session))
    foreign = await people.http.get(f"/v1/accounts/{other}", headers=bearer(session))
    acting = await people.http.get(
        "/v1/projects", headers={**bearer(session), "Perennial-Account": other}
    )

    held = claims(session["token"])
    assert (held["account_id"], held["role"]) == (mine, "billing")
    assert held["exp"] - held["iat"] == 900
    assert session["url"] is None
    assert read.json()["id"] == mine
    assert foreign.status_code == 404
    assert acting.status_code == 403


async def test_its_token_is_a_customers_in_every_service(
    people: People, backend: Headers, payments: Running
) -> None:
    mine, other = [await account_of(people, backend) for _ in range(2)]
    session = await opened(people, backend, account_id=mine, role="billing")
    member = await opened(people, backend, account_id=mine, role="member")
    attach = {"provider": "nobody", "token": "tok_ok"}

    listed = await payments.http.get("/v1/payment-methods", headers=bearer(session))
    theirs = await payments.http.get(
        "/v1/payment-methods", headers={**bearer(session), "Perennial-Account": other}
    )
    may = await payments.http.post("/v1/payment-methods", json=attach, headers=bearer(session))
    may_not = await payments.http.post("/v1/payment-methods", json=attach, headers=bearer(member))
    refund = await payments.http.post(
        f"/v1/payments/{uuid4()}/refunds",
        json={},
        headers={**bearer(session), "Idempotency-Key": "k1"},
    )
    books = await payments.http.get("/v1/ledger/balances", headers=bearer(session))
    operator = await payments.http.get("/v1/ledger/balances", headers=backend)

    assert listed.status_code == 200
    assert theirs.status_code == 403
    assert may.json()["code"] == "provider-unknown"
    assert may_not.status_code == 403
    assert (refund.status_code, books.status_code) == (403, 403)
    assert operator.status_code == 200


async def test_it_does_nothing_of_what_the_account_hangs_on(
    people: People, backend: Headers
) -> None:
    account_id = await account_of(people, backend)
    session = await opened(people, backend, account_id=account_id, role="owner")
    url = f"/v1/accounts/{account_id}"

    for method, path, body in (
        ("DELETE", url, None),
        ("PATCH", url, {"name": "Mine now"}),
        ("POST", f"{url}/api-keys", {"name": "x", "scopes": []}),
        ("POST", f"{url}/invitations", {"email": people.address(), "role": "owner"}),
        ("POST", "/v1/accounts", {"name": "Another"}),
        ("GET", "/v1/me", None),
        ("GET", "/v1/admin/users", None),
        ("POST", SESSIONS, {"account_id": account_id}),
    ):
        answer = await people.http.request(method, path, json=body, headers=bearer(session))
        assert answer.status_code == 403, (method, path, answer.text)


async def test_only_a_key_with_the_scope_lets_anybody_in(people: People, backend: Headers) -> None:
    account_id = await account_of(people, backend)
    owner, staff = await people.logged_in(), await people.staff(StaffRole.ADMIN)
    without = await key_with(people, KeyScope.ACCOUNTS_READ, KeyScope.ACCOUNTS_WRITE)
    body = {"account_id": account_id}

    answers = {
        "without the scope": await people.http.post(SESSIONS, json=body, headers=without),
        "staff": await people.http.post(SESSIONS, json=body, headers=staff.headers),
        "an owner": await people.http.post(
            SESSIONS, json={"account_id": str(owner.account_id)}, headers=owner.headers
        ),
    }

    for who, answer in answers.items():
        assert answer.status_code == 403, who


@pytest.mark.parametrize(
    ("bad", "status"),
    [
        ({"expires_in": 3601}, 422),
        ({"expires_in": 59}, 422),
        ({"role": "emperor"}, 422),
        ({"scopes": ["credit:write"]}, 422),
        ({"account_id": str(uuid4())}, 404),
    ],
)
async def test_what_cannot_be_is_refused(
    people: People, backend: Headers, bad: dict[str, Any], status: int
) -> None:
    account_id = await account_of(people, backend)

    answer = await people.http.post(
        SESSIONS, json={"account_id": account_id, **bad}, headers=backend
    )

    assert answer.status_code == status


async def test_an_hour_is_the_longest_and_nobody_comes_in_to_a_closed_account(
    people: People, backend: Headers
) -> None:
    account_id = await account_of(people, backend)

    session = await opened(people, backend, account_id=account_id, expires_in=3600)
    closed = await people.http.delete(f"/v1/accounts/{account_id}", headers=backend)
    refused = await people.http.post(SESSIONS, json={"account_id": account_id}, headers=backend)

    held = claims(session["token"])
    assert held["exp"] - held["iat"] == 3600
    assert closed.status_code == 204
    assert (refused.status_code, refused.json()["code"]) == (409, "account-closed")


async def test_a_repeat_of_the_request_does_not_show_the_token_again(
    people: People, backend: Headers
) -> None:
    account_id = await account_of(people, backend)
    headers = {**backend, "Idempotency-Key": str(uuid4())}

    first = await people.http.post(SESSIONS, json={"account_id": account_id}, headers=headers)
    again = await people.http.post(SESSIONS, json={"account_id": account_id}, headers=headers)

    assert first.json()["token"]
    assert again.json() == {**first.json(), "token": None}


async def test_the_link_leads_to_the_portal_that_the_installation_names(
    people: People, backend: Headers, deployment: Deployment
) -> None:
    account_id = await account_of(people, backend)
    settings = deployment.settings(service, portal_url="https://pay.example.com/portal")
    async with service.open(settings) as runtime:
        transport = httpx.ASGITransport(service.create_api(runtime))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
            answer = await http.post(SESSIONS, json={"account_id": account_id}, headers=backend)

    found = answer.json()
    assert found["url"] == f"https://pay.example.com/portal#token={found['token']}"


async def test_who_let_whom_in_is_in_the_audit_log(people: People, backend: Headers) -> None:
    account_id = await account_of(people, backend)
    session = await opened(people, backend, account_id=account_id)
    staff = await people.staff()

    log = await people.http.get(
        "/v1/admin/audit-log", params={"subject": session["id"]}, headers=staff.headers
    )

    (entry,) = log.json()["data"]
    assert entry["action"] == "customer_session.opened"
    assert entry["account_id"] == account_id
    assert entry["actor"] == f"key:{claims(session['token'])['opened_by']}"
    assert session["token"] not in log.text


async def test_a_token_that_was_traded_ends_no_later_than_its_key(people: People) -> None:
    async with people.auth.runtime.begin() as uow:
        _, _, plain = await create_operator_key(
            uow,
            name="short",
            scopes=[KeyScope.ACCOUNTS_READ],
            expires_at=utc_now() + timedelta(minutes=3),
            now=utc_now(),
        )

    traded = await people.http.post("/v1/auth/token", headers={"Authorization": f"Bearer {plain}"})

    held = claims(traded.json()["access_token"])
    assert 170 <= held["exp"] - held["iat"] <= 180
    assert traded.json()["expires_in"] <= 180
