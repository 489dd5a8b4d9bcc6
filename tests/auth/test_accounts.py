"""Accounts, their members and invitations, projects and API keys."""

import asyncio
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from services.auth.domain.roles import StaffRole
from shared.events.auth import AccountUpdated, ProjectActivated, ProjectArchived, ProjectCreated
from shared.events.subscriptions import TestClockAdvanced
from shared.testclock import record_clock
from tests.auth.people import PASSWORD, People, claims
from tests.eventlog import EventLog


async def test_country_and_zone_change_and_are_reported(people: People, events: EventLog) -> None:
    person = await people.logged_in()
    url = f"/v1/accounts/{person.account_id}"
    before = await people.http.get(url, headers=person.headers)

    changed = await people.http.patch(
        url,
        json={"country": "FR", "time_zone": "Europe/Paris"},
        headers={**person.headers, "If-Match": before.headers["etag"]},
    )
    stale = await people.http.patch(
        url,
        json={"country": "IT"},
        headers={**person.headers, "If-Match": before.headers["etag"]},
    )

    assert changed.status_code == 200
    assert (changed.json()["country"], changed.json()["time_zone"]) == ("FR", "Europe/Paris")
    assert changed.headers["etag"] == '"2"'
    assert stale.status_code == 412
    heard = await events.next(AccountUpdated, about=person.account_id)
    assert (heard.country, heard.time_zone, heard.sequence) == ("FR", "Europe/Paris", 2)


async def test_another_account_is_not_found_whatever_is_asked_of_it(people: People) -> None:
    mine, theirs = await people.logged_in(), await people.logged_in()
    base = f"/v1/accounts/{theirs.account_id}"
    project = await people.http.post(
        "/v1/projects", json={"name": "Theirs"}, headers=theirs.headers
    )
    calls = [
        ("GET", base, None),
        ("PATCH", base, {"country": "FR"}),
        ("DELETE", base, None),
        ("GET", f"{base}/members", None),
        ("PATCH", f"{base}/members/{theirs.user_id}", {"role": "member"}),
        ("DELETE", f"{base}/members/{theirs.user_id}", None),
        ("GET", f"{base}/invitations", None),
        ("POST", f"{base}/invitations", {"email": people.address(), "role": "member"}),
        ("DELETE", f"{base}/invitations/{uuid4()}", None),
        ("GET", f"{base}/api-keys", None),
        ("POST", f"{base}/api-keys", {"name": "x", "scopes": []}),
        ("DELETE", f"{base}/api-keys/{uuid4()}", None),
        ("GET", f"/v1/projects/{project.json()['id']}", None),
        ("PATCH", f"/v1/projects/{project.json()['id']}", {"name": "Mine"}),
    ]

    for method, url, body in calls:
        answer = await people.http.request(method, url, json=body, headers=mine.headers)
        assert answer.status_code == 404, (method, url, answer.text)
        unknown = await people.http.request(method, url, json=body)
        assert unknown.status_code == 401, (method, url)
    listed = await people.http.get("/v1/projects", headers=mine.headers)
    assert listed.json()["data"] == []


async def test_somebody_invited_joins_with_the_role_and_logs_in_to_that_account(
    people: People,
) -> None:
    owner = await people.logged_in(account_name="Engines")

    member = await people.joined(owner, "billing")

    assert claims(member.access_token)["account_id"] == str(owner.account_id)
    assert claims(member.access_token)["role"] == "billing"
    listed = await people.http.get(
        f"/v1/accounts/{owner.account_id}/members", headers=owner.headers
    )
    assert {(one["user_id"], one["role"]) for one in listed.json()["data"]} == {
        (str(owner.user_id), "owner"),
        (str(member.user_id), "billing"),
    }


async def test_a_user_of_two_accounts_chooses_one_at_log_in(people: People) -> None:
    owner, guest = await people.logged_in(), await people.logged_in()
    await people.http.post(
        f"/v1/accounts/{owner.account_id}/invitations",
        json={"email": guest.email, "role": "admin"},
        headers=owner.headers,
    )
    token = await people.mailed_token(guest.email, "You are invited")
    await people.http.post("/v1/auth/invitations/accept", json={"token": token})
    home = guest.account_id

    await people.log_in(guest)
    by_default = guest.account_id
    await people.log_in(guest, account_id=str(owner.account_id))
    chosen = guest.account_id
    stranger = await people.log_in(guest, account_id=str(uuid4()))

    assert (by_default, chosen) == (home, owner.account_id)
    assert stranger.status_code == 404
    again = await people.http.post("/v1/auth/invitations/accept", json={"token": token})
    assert again.json()["code"] == "invitation-over"


@pytest.mark.parametrize("role", ["admin", "billing", "member"])
async def test_what_a_role_may_do(people: People, role: str) -> None:
    owner = await people.logged_in()
    member = await people.joined(owner, role)
    base = f"/v1/accounts/{owner.account_id}"
    allowed = {
        "admin": {"read", "account", "invite", "key", "project"},
        "billing": {"read", "account"},
        "member": {"read", "project"},
    }[role]
    calls = {
        "read": ("GET", f"{base}/members", None),
        "account": ("PATCH", base, {"country": "AT"}),
        "invite": ("POST", f"{base}/invitations", {"email": people.address()}),
        "invite an owner": (
            "POST",
            f"{base}/invitations",
            {"email": people.address(), "role": "owner"},
        ),
        "key": ("POST", f"{base}/api-keys", {"name": "k", "scopes": []}),
        "owner's key": ("POST", f"{base}/api-keys", {"name": "k", "scopes": [], "role": "owner"}),
        "project": ("POST", "/v1/projects", {"name": "P"}),
        "unmake": ("PATCH", f"{base}/members/{owner.user_id}", {"role": "member"}),
        "rise": ("PATCH", f"{base}/members/{member.user_id}", {"role": "owner"}),
        "throw out": ("DELETE", f"{base}/members/{owner.user_id}", None),
        "close": ("DELETE", base, None),
        "staff": ("GET", "/v1/admin/users", None),
    }

    for name, (method, url, body) in calls.items():
        answer = await people.http.request(method, url, json=body, headers=member.headers)
        assert (answer.status_code < 300) == (name in allowed), (name, answer.text)
        assert answer.status_code < 300 or answer.status_code == 403, (name, answer.text)


async def test_an_account_always_has_an_owner(people: People) -> None:
    owner = await people.logged_in()
    second = await people.joined(owner, "owner")
    base = f"/v1/accounts/{owner.account_id}/members"

    left = await asyncio.gather(
        people.http.delete(f"{base}/{owner.user_id}", headers=owner.headers),
        people.http.delete(f"{base}/{second.user_id}", headers=second.headers),
    )

    assert sorted(answer.status_code for answer in left) == [204, 409]
    refused = next(answer for answer in left if answer.status_code == 409)
    assert refused.json()["code"] == "last-owner"


async def test_who_was_removed_is_out(people: People) -> None:
    owner = await people.logged_in()
    member = await people.joined(owner, "admin")

    removed = await people.http.delete(
        f"/v1/accounts/{owner.account_id}/members/{member.user_id}", headers=owner.headers
    )

    assert removed.status_code == 204
    read = await people.http.get(f"/v1/accounts/{owner.account_id}/members", headers=member.headers)
    assert read.json()["code"] == "log-in-ended"  # though the access token has time left
    refreshed = await people.http.post(
        "/v1/auth/refresh", json={"refresh_token": member.refresh_token}
    )
    assert refreshed.status_code == 401


async def test_an_invitation_that_was_taken_back_is_over(people: People) -> None:
    owner = await people.logged_in()
    base = f"/v1/accounts/{owner.account_id}/invitations"
    email = people.address()
    made = await people.http.post(base, json={"email": email}, headers=owner.headers)
    token = await people.mailed_token(email, "You are invited")

    await people.http.delete(f"{base}/{made.json()['id']}", headers=owner.headers)
    accepted = await people.http.post(
        "/v1/auth/invitations/accept", json={"token": token, "password": "a long enough one"}
    )

    assert accepted.status_code == 409
    listed = (await people.http.get(base, headers=owner.headers)).json()["data"]
    assert [(one["status"], one["email"]) for one in listed] == [("withdrawn", None)]


async def test_a_project_lives_from_draft_to_archive(people: People, events: EventLog) -> None:
    person = await people.logged_in()
    made = await people.http.post("/v1/projects", json={"name": "Moon"}, headers=person.headers)
    url = f"/v1/projects/{made.json()['id']}"

    twice = await people.http.post("/v1/projects", json={"name": "Moon"}, headers=person.headers)
    steps = [
        await people.http.patch(url, json=body, headers=person.headers)
        for body in ({"status": "active"}, {"status": "archived"}, {"status": "draft"})
    ]

    assert made.status_code == 201
    assert made.json()["status"] == "draft"
    assert twice.json()["code"] == "project-name-taken"
    assert [step.status_code for step in steps] == [200, 200, 409]
    project_id = made.json()["id"]
    heard = [
        await events.next(kind, about=person.account_id)
        for kind in (ProjectCreated, ProjectActivated, ProjectArchived)
    ]
    assert [str(event.subject) for event in heard] == [project_id] * 3
    assert [event.sequence for event in heard] == [1, 2, 3]


async def test_an_api_key_is_shown_once_and_traded_for_tokens_with_its_scopes(
    people: People,
) -> None:
    person = await people.logged_in()
    base = f"/v1/accounts/{person.account_id}/api-keys"
    headers = {**person.headers, "Idempotency-Key": people.address()}
    body = {"name": "CI", "scopes": ["projects:read"]}
    made = await people.http.post(base, json=body, headers=headers)
    repeated = await people.http.post(base, json=body, headers=headers)
    key = made.json()["key"]

    granted = await people.http.post("/v1/auth/token", headers={"Authorization": f"Bearer {key}"})
    access = granted.json()["access_token"]
    as_key = {"Authorization": f"Bearer {access}"}

    assert made.status_code == 201
    assert repeated.json()["key"] is None
    assert granted.json()["scope"] == "projects:read"
    assert granted.headers["x-access-token"] == access
    assert claims(access)["account_id"] == str(person.account_id)
    direct = {"Authorization": f"Bearer {key}"}  # a key goes wherever a token does
    assert (await people.http.get("/v1/projects", headers=direct)).status_code == 200
    listed = await people.http.get(base, headers=person.headers)
    assert key not in listed.text
    assert listed.json()["data"][0]["prefix"] == key[:12]
    assert (await people.http.get("/v1/projects", headers=as_key)).status_code == 200
    written = await people.http.post("/v1/projects", json={"name": "x"}, headers=as_key)
    assert written.status_code == 403
    assert (await people.http.get("/v1/me", headers=as_key)).status_code == 403
    assert (await people.http.get(base, headers=as_key)).status_code == 403
    await people.http.delete(f"{base}/{made.json()['id']}", headers=person.headers)
    over = await people.http.post("/v1/auth/token", headers={"Authorization": f"Bearer {key}"})
    assert over.json()["code"] == "api-key-refused"


async def test_staff_see_all_and_support_may_act_for_an_account(people: People) -> None:
    person = await people.logged_in()
    support, finance = await people.staff(StaffRole.SUPPORT), await people.staff(StaffRole.FINANCE)
    url = f"/v1/accounts/{person.account_id}"

    seen = await people.http.get(url, headers=support.headers)
    changed = await people.http.patch(url, json={"country": "NL"}, headers=support.headers)
    refused = await people.http.patch(url, json={"country": "BE"}, headers=finance.headers)
    # Whoever may invite could let themselves in, as an owner.
    invited = await people.http.post(
        f"{url}/invitations",
        json={"email": people.address(), "role": "owner"},
        headers=support.headers,
    )
    raised = await people.http.patch(
        f"{url}/members/{person.user_id}", json={"role": "admin"}, headers=support.headers
    )

    assert (seen.status_code, changed.status_code, refused.status_code) == (200, 200, 403)
    assert (invited.status_code, raised.status_code) == (403, 403)
    log = await people.http.get(
        "/v1/admin/audit-log",
        params={"subject": str(person.account_id)},
        headers=support.headers,
    )
    entry = log.json()["data"][0]
    assert entry["actor"] == f"user:{support.user_id}"
    assert entry["action"] == "account.updated"
    assert (entry["before"]["country"], entry["after"]["country"]) == ("DE", "NL")


async def test_nobody_joins_or_leaves_while_the_test_clock_is_on_its_way_but_all_log_in(
    people: People,
) -> None:
    owner = await people.logged_in()
    email = people.address()
    await people.http.post(
        f"/v1/accounts/{owner.account_id}/invitations",
        json={"email": email, "role": "member"},
        headers=owner.headers,
    )
    token = await people.mailed_token(email, "You are invited")
    assert owner.account_id
    now = datetime(2031, 5, 1, tzinfo=UTC)
    sets_out = TestClockAdvanced(
        account_id=owner.account_id,
        occurred_at=now,
        sequence=1,
        clock_id=uuid4(),
        revision=1,
        now=now,
        target=now + timedelta(days=1),
    )
    async with people.auth.runtime.begin() as uow:
        await record_clock(uow, sets_out)

    accept = {"token": token, "password": PASSWORD}
    joins = await people.http.post("/v1/auth/invitations/accept", json=accept)
    erased = await people.http.delete("/v1/me", headers=owner.headers)
    logged_in = await people.log_in(owner)

    assert joins.json()["code"] == erased.json()["code"] == "test-clock-busy"
    assert logged_in.status_code == 200
    arrived = sets_out.model_copy(update={"revision": 2, "target": now})
    async with people.auth.runtime.begin() as uow:
        await record_clock(uow, arrived)
    assert (await people.http.post("/v1/auth/invitations/accept", json=accept)).status_code == 200
