"""Coming in: sign-up, verification, log-in, refresh, log-out."""

import asyncio

import pytest

from shared.events.auth import AccountRegistered, UserRegistered, UserVerified
from tests.auth.people import PASSWORD, People, claims
from tests.eventlog import EventLog


async def test_somebody_signs_up_verifies_and_logs_in(people: People) -> None:
    person = await people.registered(
        full_name="Ada Lovelace", account_name="Engines", country="GB", time_zone="Europe/London"
    )
    assert (await people.log_in(person)).json()["code"] == "address-not-verified"
    token = await people.mailed_token(person.email, "Confirm your address")

    body = {"token": token, "password": PASSWORD}
    verified = await people.http.post("/v1/auth/verify-email", json=body)
    granted = await people.log_in(person)

    assert verified.status_code == 200
    assert granted.status_code == 200
    assert granted.json()["expires_in"] == 900
    assert granted.headers["cache-control"] == "no-store"
    said = claims(person.access_token)
    assert said["sub"] == str(person.user_id)
    assert said["account_id"] == str(person.account_id)
    assert (said["role"], said["staff"], said["iss"]) == ("owner", None, "perennial")
    assert said["exp"] - said["iat"] == 900
    me = (await people.http.get("/v1/me", headers=person.headers)).json()
    assert me["email"] == person.email
    assert me["full_name"] == "Ada Lovelace"
    accounts = (await people.http.get("/v1/accounts", headers=person.headers)).json()["data"]
    assert [(a["name"], a["country"], a["time_zone"], a["role"]) for a in accounts] == [
        ("Engines", "GB", "Europe/London", "owner")
    ]
    again = await people.http.post("/v1/auth/verify-email", json=body)
    assert again.json()["code"] == "token-refused"


async def test_signing_up_is_reported_without_personal_data(
    people: People, events: EventLog
) -> None:
    person = await people.verified(full_name="Canary Fullname")

    heard = [
        await events.next(AccountRegistered, about=person.account_id),
        await events.next(UserRegistered, about=person.user_id),
        await events.next(UserVerified, about=person.user_id),
    ]

    assert [event.sequence for event in heard] == [1, 1, 2]
    assert not [event for event in heard if "Canary" in event.model_dump_json()]
    assert not [event for event in heard if person.email in event.model_dump_json()]


async def test_an_address_is_somebodys_once_however_it_is_spelled(people: People) -> None:
    person = await people.verified()

    again = await people.http.post(
        "/v1/auth/register", json={"email": person.email.upper(), "password": PASSWORD}
    )

    assert again.status_code == 201
    told = await people.mail(person.email, "You have an account already")
    assert "Token:" not in told
    assert (await people.log_in(person)).status_code == 200


async def test_of_many_sign_ups_with_one_address_one_becomes_a_user(people: People) -> None:
    email = people.address()
    answers = await asyncio.gather(
        *(
            people.http.post("/v1/auth/register", json={"email": email, "password": PASSWORD})
            for _ in range(6)
        )
    )
    token = await people.mailed_token(email, "Confirm your address")

    verified = await people.http.post(
        "/v1/auth/verify-email", json={"token": token, "password": PASSWORD}
    )

    assert sorted(answer.status_code for answer in answers) == [201] * 3 + [429] * 3
    made = [answer.json()["user"]["id"] for answer in answers if answer.status_code == 201]
    assert verified.json()["id"] in made


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"password": "too short"}, "password"),
        ({"password": "aaaaaaaaaaaaaaaa"}, "password"),
        ({"password": "perennial-2026!"}, "password"),
        ({"password": "Password12345678"}, "password"),
        ({"email": "nobody"}, "email"),
        ({"country": "XX"}, "country"),
        ({"time_zone": "Mars/Olympus"}, "time_zone"),
        ({"staff": "admin"}, "staff"),
        ({"role": "owner"}, "role"),
        ({"id": "00000000-0000-0000-0000-000000000001"}, "id"),
    ],
)
async def test_a_sign_up_that_makes_no_sense_is_refused_by_field(
    people: People, change: dict[str, str], field: str
) -> None:
    answer = await people.http.post(
        "/v1/auth/register",
        json={"email": people.address(), "password": PASSWORD, **change},
    )

    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    assert [error["field"] for error in answer.json()["errors"]] == [field]


async def test_a_repeated_sign_up_with_its_key_gets_the_first_answer(people: People) -> None:
    body = {"email": people.address(), "password": PASSWORD}
    headers = {"Idempotency-Key": people.address()}

    first = await people.http.post("/v1/auth/register", json=body, headers=headers)
    second = await people.http.post("/v1/auth/register", json=body, headers=headers)

    assert (first.status_code, second.status_code) == (201, 201)
    assert second.headers["idempotent-replayed"] == "true"
    assert first.json() == second.json()


async def test_an_unknown_address_and_a_wrong_password_get_one_answer(people: People) -> None:
    person = await people.verified()

    wrong = await people.log_in(person, password="something else entirely")
    unknown = await people.http.post(
        "/v1/auth/login", json={"email": people.address(), "password": PASSWORD}
    )

    assert wrong.status_code == unknown.status_code == 401
    for said in (wrong.json(), unknown.json()):
        said.pop("request_id")
    assert wrong.json()["detail"] == unknown.json()["detail"]
    assert wrong.json()["code"] == unknown.json()["code"] == "wrong-credentials"


async def test_guessing_is_slowed_down_for_that_address_alone(people: People) -> None:
    person, other = await people.verified(), await people.verified()
    for _ in range(5):
        assert (await people.log_in(person, password="wrong, wrong, wrong")).status_code == 401

    slowed = await people.log_in(person)

    assert slowed.status_code == 429
    assert 1 <= int(slowed.headers["retry-after"]) <= 2
    assert (await people.log_in(other)).status_code == 200
    await asyncio.sleep(int(slowed.headers["retry-after"]))
    assert (await people.log_in(person)).status_code == 200


async def test_a_refresh_token_works_once_and_its_reuse_ends_the_session(people: People) -> None:
    person = await people.logged_in()
    body = {"refresh_token": person.refresh_token}

    first = await people.http.post("/v1/auth/refresh", json=body)
    second = await people.http.post("/v1/auth/refresh", json=body)
    after = await people.http.post(
        "/v1/auth/refresh", json={"refresh_token": first.json()["refresh_token"]}
    )

    assert first.status_code == 200
    assert claims(first.json()["access_token"])["sub"] == str(person.user_id)
    assert second.status_code == 401
    assert second.json()["code"] == "refresh-token-refused"
    assert after.status_code == 401


async def test_of_many_refreshes_at_once_one_wins(people: People) -> None:
    person = await people.logged_in()
    body = {"refresh_token": person.refresh_token}

    answers = await asyncio.gather(
        *(people.http.post("/v1/auth/refresh", json=body) for _ in range(8))
    )

    assert sorted(answer.status_code for answer in answers) == [200] + [401] * 7


async def test_a_session_ends_by_log_out(people: People) -> None:
    person = await people.logged_in()
    body = {"refresh_token": person.refresh_token}

    out = await people.http.post("/v1/auth/logout", json=body)

    assert out.status_code == 204
    assert (await people.http.post("/v1/auth/refresh", json=body)).status_code == 401
    assert (await people.http.post("/v1/auth/logout", json=body)).status_code == 204
