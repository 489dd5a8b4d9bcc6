"""Whoever proves that an address is theirs sets the password; what a stranger set there is gone."""

import asyncio
import io
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import httpx
import pytest

from services.auth.commands import staff
from shared.events.auth import AccountRegistered, UserRegistered, UserVerified
from tests.auth.people import PASSWORD, People, claims
from tests.eventlog import EventLog
from tests.harness import Deployment

STRANGERS = "stranger with a plan here"
OWNERS = "quiet harbor lantern moss"


async def registered_by_a_stranger(people: People, **more: Any) -> tuple[str, dict[str, Any]]:
    """Somebody's address, and what a stranger was told who signed up with it."""
    email = people.address()
    answer = await people.http.post(
        "/v1/auth/register", json={"email": email, "password": STRANGERS, **more}
    )
    assert answer.status_code == 201, answer.text
    return email, answer.json()


async def log_in(people: People, email: str, password: str) -> httpx.Response:
    return await people.http.post("/v1/auth/login", json={"email": email, "password": password})


async def verify(people: People, token: str, **more: str) -> httpx.Response:
    return await people.http.post("/v1/auth/verify-email", json={"token": token, **more})


async def test_a_stranger_who_signed_up_first_is_not_in_when_staff_are_made(
    people: People, monkeypatch: pytest.MonkeyPatch
) -> None:
    email, _ = await registered_by_a_stranger(people)

    monkeypatch.setattr("sys.stdin", io.StringIO(f"{OWNERS}\n"))
    assert await staff(people.auth.runtime, [email]) == 0

    assert (await log_in(people, email, STRANGERS)).status_code == 401
    granted = await log_in(people, email, OWNERS)
    token = claims(granted.json()["access_token"])
    assert (token["staff"], token["account_id"]) == ("admin", None)
    me = await people.http.get(
        "/v1/me", headers={"Authorization": f"Bearer {granted.json()['access_token']}"}
    )
    assert me.json()["full_name"] is None


async def test_a_stranger_who_signed_up_first_is_not_in_when_an_invitation_is_accepted(
    people: People,
) -> None:
    email, told = await registered_by_a_stranger(people, full_name="Mallory")
    owner = await people.logged_in()
    await people.http.post(
        f"/v1/accounts/{owner.account_id}/invitations",
        json={"email": email, "role": "admin"},
        headers=owner.headers,
    )
    token = await people.mailed_token(email, "You are invited")

    without = await people.http.post("/v1/auth/invitations/accept", json={"token": token})
    joined = await people.http.post(
        "/v1/auth/invitations/accept",
        json={"token": token, "password": OWNERS, "full_name": "Olivia"},
    )

    assert without.json()["code"] == "password-refused"
    assert joined.status_code == 200
    assert joined.json()["user_id"] != told["user"]["id"]
    assert (await log_in(people, email, STRANGERS)).status_code == 401
    granted = await log_in(people, email, OWNERS)
    assert claims(granted.json()["access_token"])["role"] == "admin"
    headers = {"Authorization": f"Bearer {granted.json()['access_token']}"}
    assert (await people.http.get("/v1/me", headers=headers)).json()["full_name"] == "Olivia"
    accounts = (await people.http.get("/v1/accounts", headers=headers)).json()["data"]
    assert [account["id"] for account in accounts] == [str(owner.account_id)]


async def test_who_follows_a_mail_that_a_stranger_caused_sets_the_password(
    people: People,
) -> None:
    email, told = await registered_by_a_stranger(
        people, full_name="Mallory", account_name="Mallory Ltd", country="US"
    )
    token = await people.mailed_token(email, "Confirm your address")

    alone = await verify(people, token)
    weak = await verify(people, token, password="short")
    verified = await verify(people, token, password=OWNERS, full_name="Olivia", country="FR")

    assert (alone.status_code, alone.json()["code"]) == (422, "password-required")
    assert weak.json()["code"] == "password-refused"
    assert verified.status_code == 200
    assert verified.json()["id"] != told["user"]["id"]
    assert (await log_in(people, email, STRANGERS)).status_code == 401
    granted = await log_in(people, email, OWNERS)
    headers = {"Authorization": f"Bearer {granted.json()['access_token']}"}
    assert (await people.http.get("/v1/me", headers=headers)).json()["full_name"] == "Olivia"
    (account,) = (await people.http.get("/v1/accounts", headers=headers)).json()["data"]
    assert account["id"] == verified.json()["account_id"] != told["account"]["id"]
    assert (account["name"], account["country"]) == ("Olivia", "FR")


async def test_of_several_who_signed_up_the_one_who_reads_the_mail_is_in_with_what_they_set(
    people: People,
) -> None:
    email, _ = await registered_by_a_stranger(people, account_name="Mallory Ltd")
    mine = await people.http.post(
        "/v1/auth/register", json={"email": email, "password": OWNERS, "account_name": "Olivia Ltd"}
    )
    theirs = await people.mailed_token(email, "Confirm your address")
    own = await people.mailed_token(email, "Confirm your address", other_than=theirs)

    # Whichever of the mails is followed: it proves the address, and the password says who.
    verified = await verify(people, theirs, password=OWNERS)

    assert verified.json()["id"] == mine.json()["user"]["id"]
    assert verified.json()["account_id"] == mine.json()["account"]["id"]
    assert (await verify(people, own, password=STRANGERS)).json()["code"] == "token-refused"
    assert (await log_in(people, email, STRANGERS)).status_code == 401
    assert (await log_in(people, email, OWNERS)).status_code == 200


async def test_an_address_that_a_stranger_signed_up_with_gets_a_mail_when_its_owner_forgot(
    people: People,
) -> None:
    email, _ = await registered_by_a_stranger(people)
    first = await people.mailed_token(email, "Confirm your address")

    forgot = await people.http.post("/v1/auth/password/forgot", json={"email": email})
    token = await people.mailed_token(email, "Confirm your address", other_than=first)

    assert forgot.status_code == 202
    assert (await verify(people, token, password=OWNERS)).status_code == 200
    assert (await log_in(people, email, OWNERS)).status_code == 200


async def test_nobody_learns_by_signing_up_whether_an_address_is_known(people: People) -> None:
    person, stranger = await people.verified(full_name="Ada"), people.address()
    answers = []
    for email in (person.email, stranger):
        answer = await people.http.post(
            "/v1/auth/register", json={"email": email, "password": STRANGERS, "full_name": "M"}
        )
        tried = await log_in(people, email, STRANGERS)
        resent = await people.http.post("/v1/auth/verify-email/resend", json={"email": email})
        said = answer.json()
        assert said["user"].pop("email") == email
        for part in ("user", "account"):
            said[part].pop("id")
            said[part].pop("created_at")
        answers.append(
            (answer.status_code, said, tried.status_code, tried.json()["code"], resent.status_code)
        )

    assert answers[0] == answers[1]
    assert answers[0][3] == "address-not-verified"
    # The owner is told, and nothing of theirs has changed.
    text = await people.mail(person.email, "You have an account already")
    assert "Token:" not in text
    assert (await people.log_in(person)).status_code == 200
    me = (await people.http.get("/v1/me", headers=person.headers)).json()
    assert me["full_name"] == "Ada"


async def test_what_a_stranger_signed_up_with_is_reported_to_nobody(
    people: People, events: EventLog, deployment: Deployment
) -> None:
    email, told = await registered_by_a_stranger(people, full_name="Mallory the Canary")
    token = await people.mailed_token(email, "Confirm your address")

    verified = await verify(people, token, password=OWNERS)

    user_id, account_id = UUID(verified.json()["id"]), UUID(verified.json()["account_id"])
    assert (await events.next(AccountRegistered, about=account_id)).sequence == 1
    assert (await events.next(UserRegistered, about=user_id)).sequence == 1
    assert (await events.next(UserVerified, about=user_id)).sequence == 2
    strangers = {told["user"]["id"], told["account"]["id"]}
    assert not [event for event in events.events if str(event.subject) in strangers]
    connection = await asyncpg.connect(deployment.database_urls["auth"])
    kept = await connection.fetchval(
        "SELECT count(*) FROM auth.registrations WHERE address_key = $1", email
    )
    await connection.close()
    assert kept == 0


async def test_a_moved_address_is_not_kept_from_its_owner_by_who_signed_up_with_it(
    people: People,
) -> None:
    email, _ = await registered_by_a_stranger(people)
    person = await people.logged_in()
    await people.http.post("/v1/me/email", json={"email": email}, headers=person.headers)
    token = await people.mailed_token(email, "Confirm your new address")

    moved = await people.http.post(
        "/v1/me/email/confirm", json={"token": token}, headers=person.headers
    )

    assert moved.status_code == 200
    assert (await log_in(people, email, STRANGERS)).status_code == 401
    assert (await log_in(people, email, PASSWORD)).status_code == 200
    late = await people.mailed_token(email, "Confirm your address")
    assert (await verify(people, late, password=STRANGERS)).json()["code"] == "token-refused"


async def test_of_two_mails_that_are_followed_at_once_one_counts(people: People) -> None:
    email, _ = await registered_by_a_stranger(people)
    first = await people.mailed_token(email, "Confirm your address")
    await people.http.post("/v1/auth/verify-email/resend", json={"email": email})
    second = await people.mailed_token(email, "Confirm your address", other_than=first)

    answers = await asyncio.gather(
        verify(people, first, password=OWNERS), verify(people, second, password=PASSWORD)
    )

    assert sorted(answer.status_code for answer in answers) == [200, 422]
    won = OWNERS if answers[0].status_code == 200 else PASSWORD
    assert (await log_in(people, email, won)).status_code == 200


async def test_a_confirmation_whose_answer_was_lost_is_asked_for_again(people: People) -> None:
    email, told = await registered_by_a_stranger(people)
    token = await people.mailed_token(email, "Confirm your address")
    body, headers = {"token": token, "password": STRANGERS}, {"Idempotency-Key": str(uuid4())}

    first = await people.http.post("/v1/auth/verify-email", json=body, headers=headers)
    second = await people.http.post("/v1/auth/verify-email", json=body, headers=headers)

    assert first.json()["id"] == told["user"]["id"]
    assert (second.status_code, second.json()) == (200, first.json())


async def pending(deployment: Deployment, email: str, password_hash: str) -> None:
    """Somebody who signed up while the previous release ran: a user who is still to be verified."""
    user_id, account_id = uuid4(), uuid4()
    connection = await asyncpg.connect(deployment.database_urls["auth"])
    async with connection.transaction():
        await connection.execute(
            "INSERT INTO auth.accounts (id, name, country, time_zone, status, created_at, version)"
            " VALUES ($1, 'Before', 'DE', 'UTC', 'open', now(), 1)",
            account_id,
        )
        await connection.execute(
            "INSERT INTO auth.users (id, home_account_id, password_hash, status, created_at,"
            " version) VALUES ($1, $2, $3, 'pending', now(), 1)",
            user_id,
            account_id,
            password_hash,
        )
        await connection.execute(
            "INSERT INTO auth.personal_details (user_id, email, address_key, full_name)"
            " VALUES ($1, $2, $2, 'Mallory')",
            user_id,
            email,
        )
        await connection.execute(
            "INSERT INTO auth.memberships (id, account_id, user_id, role, created_at, version)"
            " VALUES ($1, $2, $3, 'owner', now(), 1)",
            uuid4(),
            account_id,
            user_id,
        )
    await connection.close()


@pytest.mark.parametrize("way", ["confirmation", "same password", "invitation", "staff"])
async def test_who_signed_up_before_the_upgrade_keeps_nobody_out_and_gets_nowhere(
    people: People, deployment: Deployment, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    email = people.address()
    own = people.auth.runtime.own["auth"]
    await pending(deployment, email, await own.passwords.hash(STRANGERS))
    chosen = STRANGERS if way == "same password" else OWNERS
    if way == "staff":
        monkeypatch.setattr("sys.stdin", io.StringIO(f"{OWNERS}\n"))
        await staff(people.auth.runtime, [email])
    elif way == "invitation":
        owner = await people.logged_in()
        await people.http.post(
            f"/v1/accounts/{owner.account_id}/invitations",
            json={"email": email},
            headers=owner.headers,
        )
        token = await people.mailed_token(email, "You are invited")
        accept = {"token": token, "password": OWNERS}
        joined = await people.http.post("/v1/auth/invitations/accept", json=accept)
        assert joined.status_code == 200, joined.text
    else:
        await people.http.post("/v1/auth/password/forgot", json={"email": email})
        token = await people.mailed_token(email, "Confirm your address")
        assert (await verify(people, token, password=chosen)).status_code == 200

    granted = await log_in(people, email, chosen)
    assert granted.status_code == 200, granted.text
    headers = {"Authorization": f"Bearer {granted.json()['access_token']}"}
    name = (await people.http.get("/v1/me", headers=headers)).json()["full_name"]
    assert name == ("Mallory" if way == "same password" else None)
    if way != "same password":
        assert (await log_in(people, email, STRANGERS)).status_code == 401
