"""Two at once, and what the command line and a deployment do."""

import asyncio
import io

import pyotp
import pytest
from pydantic import SecretStr

from services.auth.commands import after_migrate, rotate, staff
from services.auth.domain.users import PasswordRefused
from services.auth.main import service
from shared.errors import Invalid
from tests.auth.people import PASSWORD, People, claims
from tests.harness import Deployment, running


async def test_of_many_uses_of_a_mailed_token_one_counts(people: People) -> None:
    person = await people.registered()
    token = await people.mailed_token(person.email, "Confirm your address")

    answers = await asyncio.gather(
        *(
            people.http.post("/v1/auth/verify-email", json={"token": token, "password": PASSWORD})
            for _ in range(8)
        )
    )

    assert sorted(answer.status_code for answer in answers) == [200] + [422] * 7


async def test_a_session_carried_on_while_its_password_is_reset_is_over_afterwards(
    people: People,
) -> None:
    person = await people.logged_in()
    await people.http.post("/v1/auth/password/forgot", json={"email": person.email})
    token = await people.mailed_token(person.email, "Choose a new password")
    body = {"token": token, "password": "quiet harbor lantern moss"}

    refreshed, reset, changed = await asyncio.gather(
        people.http.post("/v1/auth/refresh", json={"refresh_token": person.refresh_token}),
        people.http.post("/v1/auth/password/reset", json=body),
        people.http.patch("/v1/me", json={"full_name": "Ada"}, headers=person.headers),
    )

    assert reset.status_code == 204
    assert refreshed.status_code in {200, 401}
    assert changed.status_code in {200, 401}
    if refreshed.status_code == 200:
        again = await people.http.post(
            "/v1/auth/refresh", json={"refresh_token": refreshed.json()["refresh_token"]}
        )
        assert again.status_code == 401


async def test_a_backup_code_counts_once_under_concurrency(people: People) -> None:
    person = await people.logged_in()
    begun = await people.http.post("/v1/me/mfa/totp", headers=person.headers)
    code = pyotp.TOTP(begun.json()["secret"]).now()
    confirmed = await people.http.post(
        "/v1/me/mfa/totp/confirm", json={"code": code}, headers=person.headers
    )
    backup = confirmed.json()["backup_codes"][0]

    answers = await asyncio.gather(*(people.log_in(person, totp=backup) for _ in range(4)))

    assert sorted(answer.status_code for answer in answers) == [200, 401, 401, 401]


async def test_staff_are_made_on_the_command_line(
    people: People, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    email = people.address()
    runtime = people.auth.runtime

    monkeypatch.setattr("sys.stdin", io.StringIO(f"{PASSWORD}\n"))
    first = await staff(runtime, [email, "--role", "finance"])
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{PASSWORD}\n"))
    second = await staff(runtime, [email])

    assert (first, second) == (0, 0)
    said = capsys.readouterr().out
    assert "is a new staff user (finance)" in said
    assert "keeps their password, and is staff now (admin)" in said
    logged_in = await people.http.post(
        "/v1/auth/login", json={"email": email, "password": PASSWORD}
    )
    token = claims(logged_in.json()["access_token"])
    assert (token["staff"], token["account_id"], token["role"]) == ("admin", None, None)


@pytest.mark.parametrize(
    ("email", "password", "says"),
    [
        ("nobody", PASSWORD, "not an e-mail address"),
        ("someone@example.com", "short", "at least 12"),
        ("someone@example.com", "", "PERENNIAL_STAFF_PASSWORD"),
    ],
)
async def test_the_command_line_says_what_is_wrong(
    people: People, monkeypatch: pytest.MonkeyPatch, email: str, password: str, says: str
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{password}\n" if password else ""))
    with pytest.raises(Invalid, match=says):
        await staff(people.auth.runtime, [email])


async def test_keys_are_rotated_on_the_command_line(
    people: People, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await rotate(people.auth.runtime, []) == 0
    assert "is published and signs from" in capsys.readouterr().out


async def test_a_deployment_makes_one_key_and_one_first_staff_user_however_often_it_runs(
    deployment: Deployment, people: People
) -> None:
    email = people.address()
    first = {"staff_email": email, "staff_password": SecretStr(PASSWORD)}
    async with running(service, deployment, None, worker=False, **first) as again:
        async with again.runtime.begin() as uow:
            keys = len(await uow.signing_keys.list_all())
        await asyncio.gather(*(after_migrate(again.runtime) for _ in range(3)))
        async with again.runtime.begin() as uow:
            assert len(await uow.signing_keys.list_all()) == keys
    with pytest.raises(PasswordRefused):
        async with running(
            service,
            deployment,
            None,
            worker=False,
            staff_email="second@example.com",
            staff_password=SecretStr("weak"),
        ) as weak:
            await staff(weak.runtime, ["second@example.com"])
