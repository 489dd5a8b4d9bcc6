"""How somebody comes in changes only with the strongest proof that they have."""

import time

import httpx
import pyotp
import pytest

from tests.auth.people import PASSWORD, People, Person

NEW_PASSWORD = "quiet harbor lantern moss"


async def with_a_second_factor(people: People) -> tuple[Person, pyotp.TOTP, list[str]]:
    """Somebody who turned one on after they logged in: their session has never seen a code."""
    person = await people.logged_in()
    begun = await people.http.post("/v1/me/mfa/totp", headers=person.headers)
    totp = pyotp.TOTP(begun.json()["secret"])
    confirmed = await people.http.post(
        # One step back, so that the current code is still good.
        "/v1/me/mfa/totp/confirm",
        json={"code": totp.at(int(time.time()) - 30)},
        headers=person.headers,
    )
    assert confirmed.status_code == 200, confirmed.text
    return person, totp, confirmed.json()["backup_codes"]


async def turn_off(people: People, person: Person, totp: str | None) -> httpx.Response:
    return await people.http.request(
        "DELETE",
        "/v1/me/mfa/totp",
        json={} if totp is None else {"totp": totp},
        headers=person.headers,
    )


def wrong(totp: pyotp.TOTP) -> str:
    """A code that is not good now."""
    good = {totp.at(int(time.time()) + step * 30) for step in range(-2, 3)}
    return next(code for code in ("000000", "111111", "222222", "333333") if code not in good)


async def test_a_second_factor_is_turned_off_with_a_code_of_it(people: People) -> None:
    person, totp, _ = await with_a_second_factor(people)

    bodiless = await people.http.delete("/v1/me/mfa/totp", headers=person.headers)
    without = await turn_off(people, person, None)
    guessed = await turn_off(people, person, wrong(totp))

    assert bodiless.json()["code"] == without.json()["code"] == "second-factor-required"
    assert guessed.json()["code"] == "second-factor-wrong"
    assert (await people.log_in(person)).json()["code"] == "second-factor-required"
    assert (await turn_off(people, person, totp.now())).status_code == 204
    assert (await people.log_in(person)).status_code == 200


async def test_an_address_is_changed_with_a_code_where_there_is_a_second_factor(
    people: People,
) -> None:
    person, totp, backup_codes = await with_a_second_factor(people)
    new = people.address()

    answers = [
        await people.http.post("/v1/me/email", json={"email": new, **more}, headers=person.headers)
        for more in ({}, {"totp": wrong(totp)}, {"totp": backup_codes[0]}, {"totp": totp.now()})
    ]

    assert [answer.status_code for answer in answers] == [401, 401, 202, 202]
    assert [answer.json()["code"] for answer in answers[:2]] == [
        "second-factor-required",
        "second-factor-wrong",
    ]
    spent = await people.http.post(
        "/v1/me/email", json={"email": new, "totp": backup_codes[0]}, headers=person.headers
    )
    assert spent.json()["code"] == "second-factor-wrong"


async def test_a_password_is_changed_with_a_code_where_there_is_a_second_factor(
    people: People,
) -> None:
    person, totp, _ = await with_a_second_factor(people)
    body = {"current_password": PASSWORD, "password": NEW_PASSWORD}

    without = await people.http.post("/v1/me/password", json=body, headers=person.headers)
    changed = await people.http.post(
        "/v1/me/password", json={**body, "totp": totp.now()}, headers=person.headers
    )

    assert without.json()["code"] == "second-factor-required"
    assert changed.status_code == 204


async def moved(people: People, person: Person, *, to: str) -> httpx.Response:
    """The person's address changed to this one."""
    asked = await people.http.post("/v1/me/email", json={"email": to}, headers=person.headers)
    assert asked.status_code == 202, asked.text
    token = await people.mailed_token(to, "Confirm your new address")
    return await people.http.post(
        "/v1/me/email/confirm", json={"token": token}, headers=person.headers
    )


async def test_what_was_mailed_to_the_old_address_is_dead_once_it_was_changed(
    people: People,
) -> None:
    person, new = await people.logged_in(), people.address()
    old = person.email
    await people.http.post("/v1/auth/password/forgot", json={"email": old})
    reset = await people.mailed_token(old, "Choose a new password")

    assert (await moved(people, person, to=new)).status_code == 200

    late = await people.http.post(
        "/v1/auth/password/reset", json={"token": reset, "password": NEW_PASSWORD}
    )
    assert (late.status_code, late.json()["code"]) == (422, "token-refused")
    person.email = new
    assert (await people.log_in(person)).status_code == 200


async def test_a_reset_that_was_asked_for_before_a_change_of_address_goes_to_the_new_one(
    people: People,
) -> None:
    person, new = await people.logged_in(), people.address()
    await moved(people, person, to=new)
    await people.http.post("/v1/auth/password/forgot", json={"email": new})
    token = await people.mailed_token(new, "Choose a new password")

    done = await people.http.post(
        "/v1/auth/password/reset", json={"token": token, "password": NEW_PASSWORD}
    )

    assert done.status_code == 204


async def test_every_session_ends_when_the_address_changes(people: People) -> None:
    person = await people.logged_in()
    phone = Person(person.email, person.user_id, person.account_id)
    await people.log_in(phone)

    assert (await moved(people, person, to=people.address())).status_code == 200

    for device in (person, phone):
        read = await people.http.get("/v1/me", headers=device.headers)
        carried_on = await people.http.post(
            "/v1/auth/refresh", json={"refresh_token": device.refresh_token}
        )
        assert (read.status_code, carried_on.status_code) == (401, 401)


@pytest.mark.parametrize("used", [True, False])
async def test_a_second_change_of_address_voids_the_token_of_the_first(
    people: People, used: bool
) -> None:
    person, first, second = await people.logged_in(), people.address(), people.address()
    await people.http.post("/v1/me/email", json={"email": first}, headers=person.headers)
    token = await people.mailed_token(first, "Confirm your new address")
    if used:
        assert (await moved(people, person, to=second)).status_code == 200
        person.email = second
        await people.log_in(person)
    else:
        await people.http.post("/v1/me/email", json={"email": second}, headers=person.headers)

    late = await people.http.post(
        "/v1/me/email/confirm", json={"token": token}, headers=person.headers
    )

    assert late.json()["code"] == "token-refused"
