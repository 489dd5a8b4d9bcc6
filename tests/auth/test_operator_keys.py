"""The operator's secret keys: made once, rotated without a gap, bound, and ended."""

import asyncio
import io
from contextlib import redirect_stdout
from datetime import timedelta
from typing import Any
from uuid import uuid4

import httpx
import pytest

from services.auth import commands
from services.auth.domain.roles import StaffRole
from services.auth.main import service
from services.auth.use_cases.exchange_operator_key import exchange_operator_key
from shared.clock import utc_now
from shared.errors import Unauthenticated
from shared.secret_keys import is_well_formed, new_secret_key
from tests.auth.people import People, Person, claims

KEYS = "/v1/ops/auth/keys"


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


async def made(people: People, staff: Person, *scopes: str, **more: Any) -> dict[str, Any]:
    answer = await people.http.post(
        KEYS,
        json={"name": "backend", "scopes": scopes or ["accounts:read"], **more},
        headers=staff.headers,
    )
    assert answer.status_code == 201, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def test_a_key_is_shown_once_and_acts_for_the_operator(people: People) -> None:
    staff = await people.staff()
    customer = await people.logged_in(account_name="Engines")

    key = await made(people, staff, "accounts:read", name="billing backend")
    listed = await people.http.get(KEYS, headers=staff.headers)
    theirs = await people.http.get(
        f"/v1/accounts/{customer.account_id}", headers=bearer(key["key"])
    )

    assert key["key"].startswith("prn_sk_")
    assert is_well_formed(key["key"])
    found = next(one for one in listed.json()["data"] if one["id"] == key["id"])
    assert "key" not in found
    assert found["secrets"][0]["prefix"] == key["key"][:15]
    assert (found["name"], found["created_by"]) == ("billing backend", f"user:{staff.user_id}")
    assert theirs.json()["name"] == "Engines"


async def test_a_repeat_of_the_request_does_not_show_the_key_again(people: People) -> None:
    staff = await people.staff()
    headers = {**staff.headers, "Idempotency-Key": str(uuid4())}
    body = {"name": "backend", "scopes": ["accounts:read"]}

    first = await people.http.post(KEYS, json=body, headers=headers)
    again = await people.http.post(KEYS, json=body, headers=headers)

    assert first.json()["key"]
    assert again.json() == {**first.json(), "key": None}


async def test_it_does_what_its_scopes_say_and_nothing_of_people(people: People) -> None:
    staff = await people.staff()
    key = await made(people, staff, "accounts:read")
    calls = [
        ("POST", "/v1/accounts", {"name": "x"}, "scope-missing"),
        ("GET", "/v1/projects", None, "scope-missing"),
        ("GET", "/v1/me", None, "not-for-keys"),
        ("GET", "/v1/admin/users", None, "not-for-keys"),
        ("GET", "/v1/ops/auth/outbox", None, "not-for-keys"),
        ("GET", KEYS, None, "not-for-keys"),
        ("POST", KEYS, {"name": "x", "scopes": ["accounts:read"]}, "not-for-keys"),
        ("DELETE", f"{KEYS}/{key['id']}", None, "not-for-keys"),
        ("POST", f"{KEYS}/{key['id']}/rotate", {}, "not-for-keys"),
        ("GET", "/v1/ops/auth/stuck", None, "not-for-keys"),
    ]

    for method, url, body, code in calls:
        answer = await people.http.request(method, url, json=body, headers=bearer(key["key"]))
        assert (answer.status_code, answer.json()["code"]) == (403, code), (method, url)


async def test_only_staff_admins_make_see_and_end_keys(people: People) -> None:
    admin = await people.staff()
    key = await made(people, admin)
    others = [
        await people.logged_in(),
        await people.staff(StaffRole.SUPPORT),
        await people.staff(StaffRole.FINANCE),
    ]

    for person in others:
        for method, url, body in (
            ("GET", KEYS, None),
            ("GET", f"{KEYS}/{key['id']}", None),
            ("POST", KEYS, {"name": "x", "scopes": ["accounts:read"]}),
            ("POST", f"{KEYS}/{key['id']}/rotate", {}),
            ("DELETE", f"{KEYS}/{key['id']}", None),
        ):
            answer = await people.http.request(method, url, json=body, headers=person.headers)
            assert answer.status_code == 403, (person.email, method, url)
    refused: list[dict[str, Any]] = [
        {"scopes": []},
        {"scopes": ["everything"]},
        {"scopes": ["accounts:read"], "networks": ["10.0.0.300/8"]},
        {"scopes": ["accounts:read"], "expires_at": "2020-01-01T00:00:00Z"},
    ]
    for bad in refused:
        answer = await people.http.post(KEYS, json={"name": "x", **bad}, headers=admin.headers)
        assert answer.status_code == 422, bad


async def test_a_typo_is_told_from_a_key_that_is_unknown(people: People) -> None:
    staff = await people.staff()
    key = (await made(people, staff))["key"]
    letter = "a" if key[20] != "a" else "b"
    wrong = {
        key[:20] + letter + key[21:]: "key-mistyped",
        key[:-5]: "key-mistyped",
        key + "x": "key-mistyped",
        new_secret_key(): "api-key-refused",
    }

    for text, code in wrong.items():
        traded = await people.http.post("/v1/auth/token", headers=bearer(text))
        used = await people.http.get("/v1/accounts", headers=bearer(text))
        assert (traded.status_code, traded.json()["code"]) == (401, code)
        assert (used.status_code, used.json()["code"]) == (401, code)


async def test_a_rotation_leaves_time_to_change_over_and_then_none(people: People) -> None:
    staff = await people.staff()
    first = await made(people, staff)
    url = f"{KEYS}/{first['id']}"

    rotated = await people.http.post(
        f"{url}/rotate", json={"overlap_hours": 2}, headers=staff.headers
    )
    second = rotated.json()

    assert rotated.status_code == 200, rotated.text
    assert second["id"] == first["id"]
    assert second["key"] != first["key"]
    newest, older = second["secrets"]
    assert (newest["ends_at"], older["prefix"]) == (None, first["key"][:15])
    now = utc_now()
    async with people.auth.runtime.begin() as uow:
        for plain in (first["key"], second["key"]):
            found = await exchange_operator_key(
                uow, secret=plain, now=now + timedelta(hours=1, minutes=59)
            )
            assert found.subject == first["id"]
        later = now + timedelta(hours=2, minutes=1)
        assert await exchange_operator_key(uow, secret=second["key"], now=later)
        with pytest.raises(Unauthenticated):
            await exchange_operator_key(uow, secret=first["key"], now=later)

    at_once = await people.http.post(
        f"{url}/rotate", json={"overlap_hours": 0}, headers=staff.headers
    )
    for plain, status in (
        (first["key"], 401),
        (second["key"], 401),
        (at_once.json()["key"], 200),
    ):
        answer = await people.http.post("/v1/auth/token", headers=bearer(plain))
        assert answer.status_code == status


async def test_two_rotations_at_once_leave_one_newest_secret(people: People) -> None:
    staff = await people.staff()
    key = await made(people, staff)
    url = f"{KEYS}/{key['id']}"

    answers = await asyncio.gather(
        *(people.http.post(f"{url}/rotate", json={}, headers=staff.headers) for _ in range(4))
    )
    seen = await people.http.get(url, headers=staff.headers)
    stale = await people.http.post(
        f"{url}/rotate", json={}, headers={**staff.headers, "If-Match": f'"{key["version"]}"'}
    )

    assert [answer.status_code for answer in answers] == [200] * 4
    assert len(seen.json()["secrets"]) == 5
    assert [one["ends_at"] for one in seen.json()["secrets"]].count(None) == 1
    assert stale.status_code == 412


async def test_a_revoked_or_expired_key_is_over(people: People) -> None:
    staff = await people.staff()
    soon = (utc_now() + timedelta(hours=1)).isoformat()
    key = await made(people, staff, expires_at=soon)
    url = f"{KEYS}/{key['id']}"

    async with people.auth.runtime.begin() as uow:
        with pytest.raises(Unauthenticated):
            await exchange_operator_key(
                uow, secret=key["key"], now=utc_now() + timedelta(minutes=61)
            )
    ended = [await people.http.delete(url, headers=staff.headers) for _ in range(2)]
    traded = await people.http.post("/v1/auth/token", headers=bearer(key["key"]))
    again = await people.http.post(f"{url}/rotate", json={}, headers=staff.headers)
    seen = await people.http.get(url, headers=staff.headers)

    assert [answer.status_code for answer in ended] == [204, 204]
    assert (traded.status_code, traded.json()["code"]) == (401, "api-key-refused")
    assert (again.status_code, again.json()["code"]) == (409, "operator-key-over")
    assert seen.json()["revoked_at"]


async def test_what_happened_to_a_key_is_in_the_audit_log_and_its_last_use_beside_it(
    people: People,
) -> None:
    staff = await people.staff()
    key = await made(people, staff, "accounts:read", networks=["127.0.0.0/8"])
    url = f"{KEYS}/{key['id']}"
    assert key["last_used_at"] is None

    await people.http.post("/v1/auth/token", headers=bearer(key["key"]))
    await people.http.post(f"{url}/rotate", json={}, headers=staff.headers)
    await people.http.delete(url, headers=staff.headers)
    log = await people.http.get(
        "/v1/admin/audit-log", params={"subject": key["id"]}, headers=staff.headers
    )
    seen = await people.http.get(url, headers=staff.headers)

    actions = [entry["action"] for entry in reversed(log.json()["data"])]
    assert actions == ["operator_key.created", "operator_key.rotated", "operator_key.revoked"]
    created = log.json()["data"][-1]
    assert created["after"]["networks"] == ["127.0.0.0/8"]
    assert created["actor"] == f"user:{staff.user_id}"
    assert key["key"] not in log.text
    assert seen.json()["last_used_at"].endswith(":00Z")
    assert [one["last_used_at"] for one in seen.json()["secrets"]].count(None) == 1


async def test_a_key_that_is_bound_to_networks_is_good_from_there_alone(people: People) -> None:
    staff = await people.staff()
    key = await made(people, staff, networks=["203.0.113.0/24", "2001:db8::/32"])
    traded = await people.http.post("/v1/auth/token", headers=bearer(key["key"]))
    app = service.create_api(people.auth.runtime)

    async def asked(address: str, secret: str) -> int:
        transport = httpx.ASGITransport(app, client=(address, 1234))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
            return (await http.get("/v1/accounts", headers=bearer(secret))).status_code

    url = f"{KEYS}/{key['id']}"
    before = (await people.http.get(url, headers=staff.headers)).json()["last_used_at"]
    transport = httpx.ASGITransport(app, client=("203.0.114.9", 1234))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as thief:
        refused = await thief.post(
            "/v1/auth/token", headers={**bearer(key["key"]), "X-Forwarded-For": "203.0.114.9"}
        )
    assert (refused.status_code, refused.json()["code"]) == (403, "address-not-allowed")
    assert (await people.http.get(url, headers=staff.headers)).json()["last_used_at"] == before

    for secret in (key["key"], traded.json()["access_token"]):
        assert await asked("203.0.113.9", secret) == 200
        assert await asked("::ffff:203.0.113.9", secret) == 200
        assert await asked("2001:db8::1", secret) == 200
        assert await asked("203.0.114.9", secret) == 403
        assert await asked("::1", secret) == 403
    assert claims(traded.json()["access_token"])["networks"] == key["networks"]


async def test_the_command_line_makes_one_and_prints_it_alone(people: People) -> None:
    out = io.StringIO()
    with redirect_stdout(out):
        code = await commands.key(
            people.auth.runtime, ["backend", "--scopes", "accounts:read,usage:write"]
        )
    plain = out.getvalue().strip()
    traded = await people.http.post("/v1/auth/token", headers=bearer(plain))

    assert code == 0
    assert out.getvalue() == f"{plain}\n"
    assert traded.json()["scope"] == "accounts:read usage:write"
    assert claims(traded.json()["access_token"])["operator"] is True
    for bad in (
        ["backend"],
        ["backend", "--scopes", ""],
        ["backend", "--scopes", "nothing"],
        ["", "-s", "all"],
    ):
        with pytest.raises(SystemExit):
            await commands.key(people.auth.runtime, bad)


async def test_a_key_of_an_account_cannot_have_what_is_the_operators(people: People) -> None:
    owner = await people.logged_in()

    answer = await people.http.post(
        f"/v1/accounts/{owner.account_id}/api-keys",
        json={"name": "x", "role": "owner", "scopes": ["invoices:read", "credit:write"]},
        headers=owner.headers,
    )

    assert (answer.status_code, answer.json()["code"]) == (422, "scope-of-the-operator")
