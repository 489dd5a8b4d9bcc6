"""Export, erasure, and that secrets and personal data stay where they belong."""

import json
import logging
from collections.abc import Iterator

import asyncpg
import pytest
import structlog

from services.auth.domain.roles import StaffRole
from shared.events.auth import AccountClosed, UserErased
from tests.auth.people import PASSWORD, People
from tests.eventlog import EventLog
from tests.harness import Deployment


async def test_everything_about_me_is_exported(people: People) -> None:
    person = await people.verified(full_name="Grace Hopper")
    await people.log_in(person, device_secret="a secret that this test's client made once")

    export = (await people.http.get("/v1/me/export", headers=person.headers)).json()

    assert export["profile"]["full_name"] == "Grace Hopper"
    assert export["accounts"][0]["id"] == str(person.account_id)
    assert len(export["sessions"]) == 1
    assert len(export["known_devices"]) == 1
    assert export["mails"] == []  # what confirmed the address was mailed to no user yet


async def rows_with(deployment: Deployment, text: str) -> list[str]:
    """The tables of auth in which any row holds `text`."""
    connection = await asyncpg.connect(deployment.database_urls["auth"])
    try:
        names = await connection.fetch(
            "SELECT tablename FROM pg_tables WHERE schemaname = 'auth' AND tablename <> 'outbox'"
        )
        found = []
        for (name,) in names:
            hit = await connection.fetchval(
                f"SELECT 1 FROM auth.{name} r WHERE r::text ILIKE '%' || $1 || '%' LIMIT 1",  # noqa: S608
                text,
            )
            if hit:
                found.append(name)
        return found
    finally:
        await connection.close()


async def test_an_erased_user_is_nowhere_and_an_account_of_nobody_else_closes(
    people: People, events: EventLog, deployment: Deployment
) -> None:
    person = await people.logged_in(full_name="Vanishing Vera", account_name="Vanishing Ltd")
    assert "personal_details" in await rows_with(deployment, person.email)
    renamed = await people.http.patch(
        "/v1/me",
        json={"full_name": "Vanishing Vera II"},
        headers={**person.headers, "Idempotency-Key": people.address()},
    )
    kept = renamed.content.hex()[:200]  # stored as bytes for 24 hours, for repeats
    assert "idempotency_keys" in await rows_with(deployment, kept)

    gone = await people.http.delete("/v1/me", headers=person.headers)

    assert gone.status_code == 204
    assert await rows_with(deployment, person.email) == []
    assert await rows_with(deployment, "Vanishing") == []
    assert await rows_with(deployment, kept) == []
    assert (await people.log_in(person)).status_code == 401
    assert (await people.http.get("/v1/me", headers=person.headers)).status_code == 401
    await events.next(AccountClosed, about=person.account_id)
    await events.next(UserErased, about=person.user_id)
    assert (await people.registered(person.email)).user_id != person.user_id


async def test_the_only_owner_among_others_hands_over_first(people: People) -> None:
    owner = await people.logged_in()
    await people.joined(owner, "member")

    refused = await people.http.delete("/v1/me", headers=owner.headers)

    assert refused.status_code == 409
    assert refused.json()["code"] == "last-owner"
    assert (await people.http.get("/v1/me", headers=owner.headers)).status_code == 200


async def test_staff_find_suspend_and_readmit_somebody(people: People) -> None:
    person, staff = await people.logged_in(), await people.staff(StaffRole.SUPPORT)
    found = await people.http.get(
        "/v1/admin/users", params={"q": person.email[:8]}, headers=staff.headers
    )
    base = f"/v1/admin/users/{person.user_id}"

    suspended = await people.http.post(f"{base}/suspend", headers=staff.headers)
    kept_out = await people.log_in(person)
    refreshed = await people.http.post(
        "/v1/auth/refresh", json={"refresh_token": person.refresh_token}
    )
    twice = await people.http.post(f"{base}/suspend", headers=staff.headers)
    back = await people.http.post(f"{base}/reactivate", headers=staff.headers)

    assert [one["id"] for one in found.json()["data"]] == [str(person.user_id)]
    assert suspended.json()["status"] == "suspended"
    assert (kept_out.status_code, kept_out.json()["code"]) == (403, "user-suspended")
    assert refreshed.status_code == 401
    assert twice.status_code == 409
    assert back.json()["status"] == "active"
    assert (await people.log_in(person)).status_code == 200


async def test_only_admins_make_staff_and_nobody_themself(people: People) -> None:
    person, admin = await people.logged_in(), await people.staff()
    support = await people.staff(StaffRole.SUPPORT)
    base = "/v1/admin/users"
    body = {"staff": "finance"}

    by_support = await people.http.patch(
        f"{base}/{person.user_id}", json=body, headers=support.headers
    )
    by_admin = await people.http.patch(f"{base}/{person.user_id}", json=body, headers=admin.headers)
    own = await people.http.patch(f"{base}/{admin.user_id}", json=body, headers=admin.headers)

    assert by_support.status_code == 403
    assert by_admin.json()["staff"] == "finance"
    assert own.json()["code"] == "not-yourself"


class _Lines(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(json.dumps(record.__dict__, default=str))


@pytest.fixture
def everything_logged() -> Iterator[list[str]]:
    """What ours and the libraries' loggers were given, before any redaction of a formatter."""
    handler = _Lines()
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    with structlog.testing.capture_logs() as captured:
        yield handler.lines
        handler.lines += [json.dumps(entry, default=str) for entry in captured]
    root.removeHandler(handler)
    root.setLevel(level)


async def test_no_secret_and_no_personal_data_reaches_logs_events_or_problems(
    people: People,
    events: EventLog,
    everything_logged: list[str],
    deployment: Deployment,
) -> None:
    name, password = "Canary Birdsong", "canary-yellow-feather-tweet"
    person = await people.verified(full_name=name)
    seen = [name, person.email]
    answers = [
        await people.log_in(person, password=password),
        await people.http.post(
            "/v1/auth/register", json={"email": person.email, "password": password, "x": name}
        ),
        await people.http.post("/v1/auth/verify-email", json={"token": password}),
        await people.http.post("/v1/auth/refresh", json={"refresh_token": password}),
        await people.http.post(
            "/v1/auth/password/reset", json={"token": password, "password": PASSWORD}
        ),
        await people.http.post(
            "/v1/auth/token", headers={"Authorization": f"Bearer prn_{password}"}
        ),
    ]
    await people.log_in(person)
    key = await people.http.post(
        f"/v1/accounts/{person.account_id}/api-keys",
        json={"name": "k", "scopes": ["projects:read"]},
        headers={**person.headers, "Idempotency-Key": people.address()},
    )
    await people.http.delete("/v1/me", headers=person.headers)
    await events.next(UserErased, about=person.user_id)
    secrets = [password, PASSWORD, person.access_token, person.refresh_token, key.json()["key"]]

    assert all(answer.status_code >= 400 for answer in answers)
    problems = "".join(answer.text for answer in answers)
    heard = "".join(event.model_dump_json() for event in events.events)
    logged = "".join(everything_logged)
    for canary in (*seen, *secrets):
        assert canary not in problems
        assert canary not in heard
        assert canary not in logged
    for canary in secrets:
        assert await rows_with(deployment, canary) == []


async def test_a_repeated_key_does_not_log_anybody_in_again(people: People) -> None:
    person = await people.verified()
    body = {"email": person.email, "password": PASSWORD}
    headers = {"Idempotency-Key": people.address()}

    first = await people.http.post("/v1/auth/login", json=body, headers=headers)
    second = await people.http.post("/v1/auth/login", json=body, headers=headers)

    assert first.json()["refresh_token"] != second.json()["refresh_token"]
