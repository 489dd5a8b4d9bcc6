"""Forgotten and changed passwords, second factors, sessions."""

import time

import pyotp

from tests.auth.people import PASSWORD, People, Person

NEW_PASSWORD = "quiet harbor lantern moss"


async def test_a_forgotten_password_is_replaced_and_every_session_ends(people: People) -> None:
    person = await people.logged_in()
    asked = await people.http.post("/v1/auth/password/forgot", json={"email": person.email})
    token = await people.mailed_token(person.email, "Choose a new password")

    weak = await people.http.post(
        "/v1/auth/password/reset", json={"token": token, "password": person.email}
    )
    done = await people.http.post(
        "/v1/auth/password/reset", json={"token": token, "password": NEW_PASSWORD}
    )
    again = await people.http.post(
        "/v1/auth/password/reset", json={"token": token, "password": PASSWORD}
    )

    assert asked.status_code == 202
    assert weak.json()["code"] == "password-refused"
    assert done.status_code == 204
    assert again.json()["code"] == "token-refused"
    refreshed = await people.http.post(
        "/v1/auth/refresh", json={"refresh_token": person.refresh_token}
    )
    assert refreshed.status_code == 401
    assert (await people.log_in(person)).status_code == 401
    assert (await people.log_in(person, password=NEW_PASSWORD)).status_code == 200
    await people.mail(person.email, "Your password was changed")


async def test_nobody_learns_whether_an_address_exists(people: People) -> None:
    person = await people.verified()
    stranger = people.address()
    answers = []
    for email in (person.email, stranger):
        answer = await people.http.post("/v1/auth/password/forgot", json={"email": email})
        answers.append((answer.status_code, answer.json()))

    assert answers[0] == answers[1]
    await people.mail(person.email, "Choose a new password")
    assert people.mails(stranger) == []


async def test_one_address_is_sent_three_mails_an_hour_and_no_more(people: People) -> None:
    email = people.address()
    answers = [
        await people.http.post("/v1/auth/password/forgot", json={"email": email}) for _ in range(4)
    ]

    assert [answer.status_code for answer in answers] == [202, 202, 202, 429]
    assert int(answers[-1].headers["retry-after"]) > 3000


async def test_a_verification_mail_can_be_sent_again_and_either_is_good_once(
    people: People,
) -> None:
    person = await people.registered()
    first = await people.mailed_token(person.email, "Confirm your address")
    await people.http.post("/v1/auth/verify-email/resend", json={"email": person.email})
    token = await people.mailed_token(person.email, "Confirm your address", other_than=first)

    answers = [
        await people.http.post("/v1/auth/verify-email", json={"token": one, "password": PASSWORD})
        for one in (first, token)
    ]

    assert [answer.status_code for answer in answers] == [200, 422]


async def test_a_password_is_changed_by_who_knows_the_old_one(people: People) -> None:
    person = await people.logged_in()

    wrong = await people.http.post(
        "/v1/me/password",
        json={"current_password": "not this one at all", "password": NEW_PASSWORD},
        headers=person.headers,
    )
    right = await people.http.post(
        "/v1/me/password",
        json={"current_password": PASSWORD, "password": NEW_PASSWORD},
        headers=person.headers,
    )

    assert (wrong.status_code, right.status_code) == (401, 204)
    assert (await people.log_in(person, password=NEW_PASSWORD)).status_code == 200


async def enrolled(people: People, person: Person) -> tuple[pyotp.TOTP, list[str]]:
    begun = await people.http.post("/v1/me/mfa/totp", headers=person.headers)
    assert begun.status_code == 201
    totp = pyotp.TOTP(begun.json()["secret"])
    confirmed = await people.http.post(
        # One step back: the test can then go on with the current code without waiting for it.
        "/v1/me/mfa/totp/confirm",
        json={"code": totp.at(int(time.time()) - 30)},
        headers=person.headers,
    )
    assert confirmed.status_code == 200, confirmed.text
    return totp, confirmed.json()["backup_codes"]


async def test_with_a_second_factor_a_code_is_needed_and_works_once(people: People) -> None:
    person = await people.logged_in()
    totp, backup_codes = await enrolled(people, person)
    code = totp.at(int(time.time()))

    without = await people.log_in(person)
    wrong = await people.log_in(person, totp="000000" if code != "000000" else "000001")
    right = await people.log_in(person, totp=code)
    replayed = await people.log_in(person, totp=code)
    backup = await people.log_in(person, totp=backup_codes[0])
    spent = await people.log_in(person, totp=backup_codes[0])

    assert len(set(backup_codes)) == 10
    assert without.json()["code"] == "second-factor-required"
    assert wrong.json()["code"] == "second-factor-wrong"
    assert right.status_code == 200
    assert replayed.json()["code"] == "second-factor-wrong"
    assert backup.status_code == 200
    assert spent.json()["code"] == "second-factor-wrong"
    me = await people.http.get("/v1/me", headers=person.headers)
    assert me.json()["second_factor"] is True
    off = await people.http.request(
        "DELETE", "/v1/me/mfa/totp", json={"totp": backup_codes[1]}, headers=person.headers
    )
    assert off.status_code == 204
    assert (await people.log_in(person)).status_code == 200


async def test_a_secret_is_not_told_twice(people: People) -> None:
    person = await people.logged_in()
    headers = {**person.headers, "Idempotency-Key": people.address()}

    first = await people.http.post("/v1/me/mfa/totp", headers=headers)
    second = await people.http.post("/v1/me/mfa/totp", headers=headers)

    assert second.headers["idempotent-replayed"] == "true"
    assert first.json()["secret"] not in second.text


async def test_sessions_are_listed_and_ended_one_by_one_and_all_at_once(people: People) -> None:
    person = await people.logged_in()
    phone = Person(person.email, person.user_id, person.account_id)
    await people.log_in(phone)

    listed = (await people.http.get("/v1/me/sessions", headers=person.headers)).json()["data"]
    other = next(one["id"] for one in listed if not one["current"])
    ended = await people.http.delete(f"/v1/me/sessions/{other}", headers=person.headers)

    assert len(listed) == 2
    assert ended.status_code == 204
    refresh = "/v1/auth/refresh"
    assert (
        await people.http.post(refresh, json={"refresh_token": phone.refresh_token})
    ).status_code == 401
    everywhere = await people.http.delete("/v1/me/sessions", headers=person.headers)
    assert everywhere.status_code == 204
    after = await people.http.get("/v1/me", headers=person.headers)
    assert after.json()["code"] == "log-in-ended"
    assert (
        await people.http.post(refresh, json={"refresh_token": person.refresh_token})
    ).status_code == 401


async def test_somebody_elses_session_is_not_found(people: People) -> None:
    mine, theirs = await people.logged_in(), await people.logged_in()
    listed = (await people.http.get("/v1/me/sessions", headers=theirs.headers)).json()["data"]

    answer = await people.http.delete(f"/v1/me/sessions/{listed[0]['id']}", headers=mine.headers)

    assert answer.status_code == 404
