"""A guess is counted before it is looked at, and nobody keeps an owner out by guessing."""

import asyncio
import secrets
import time
from collections import Counter
from contextlib import suppress

import httpx
import pytest

from services.auth.counters import Allowance, Bucket, Counters
from services.auth.domain.mfa import SecondFactorWrong
from services.auth.domain.users import WrongCredentials
from services.auth.main import service
from services.auth.resources import own
from shared.context import coming_in
from shared.locks import connect
from tests.auth.people import PASSWORD, People, Person, an_address, from_address
from tests.auth.test_changes_of_proof import with_a_second_factor, wrong
from tests.harness import Deployment, running

GUESSES = 60
FREE = 5


async def log_in(http: httpx.AsyncClient, person: Person, **more: str) -> httpx.Response:
    return await http.post(
        "/v1/auth/login", json={"email": person.email, "password": PASSWORD, **more}
    )


async def guessed_for_long(
    people: People, person: Person, *, times: int = 14, ip: str | None = None
) -> None:
    """Somebody guessed the password and codes, and waited out every delay but the last."""
    throttle = own(people.auth.runtime).throttle
    waited = time.monotonic() + 1_000_000
    for _ in range(times):
        with suppress(WrongCredentials), coming_in(waited):
            async with throttle.password(person.email, ip or people.ip, device=None):
                raise WrongCredentials
        with suppress(SecondFactorWrong), coming_in(waited):
            async with throttle.code(person.user_id, device=None):
                raise SecondFactorWrong


def codes(answers: list[httpx.Response]) -> Counter[str]:
    return Counter(answer.json()["code"] for answer in answers)


async def test_of_sixty_guesses_at_once_no_more_are_checked_than_are_free(people: People) -> None:
    person = await people.verified()

    answers = await asyncio.gather(
        *(log_in(people.http, person, password=f"guess number {n}") for n in range(GUESSES))
    )

    assert codes(answers) == {"wrong-credentials": FREE, "too-many-tries": GUESSES - FREE}
    assert all(int(a.headers["retry-after"]) >= 1 for a in answers if a.status_code == 429)


async def test_of_sixty_codes_at_once_from_many_places_no_more_are_checked_than_are_free(
    people: People,
) -> None:
    person, totp, _ = await with_a_second_factor(people)
    guess = wrong(totp)
    places = [people.elsewhere() for _ in range(GUESSES)]

    answers = await asyncio.gather(*(log_in(place, person, totp=guess) for place in places))

    assert codes(answers) == {"second-factor-wrong": FREE, "too-many-tries": GUESSES - FREE}


async def test_of_sixty_backup_codes_at_once_no_more_are_checked_than_are_free(
    people: People,
) -> None:
    person, _, _ = await with_a_second_factor(people)

    answers = await asyncio.gather(
        *(
            people.http.request(
                "DELETE",
                "/v1/me/mfa/totp",
                json={"totp": f"aaaaaa-bbbbbb-cccccc-{n:06}"},
                headers=person.headers,
            )
            for n in range(GUESSES)
        )
    )

    assert codes(answers) == {"second-factor-wrong": FREE, "too-many-tries": GUESSES - FREE}


@pytest.mark.parametrize(
    ("url", "body"),
    [
        ("/v1/auth/verify-email", {"password": PASSWORD}),
        ("/v1/auth/password/reset", {"password": PASSWORD}),
        ("/v1/auth/invitations/accept", {}),
    ],
)
async def test_of_sixty_made_up_tokens_at_once_half_are_looked_at(
    people: People, url: str, body: dict[str, str]
) -> None:
    answers = await asyncio.gather(
        *(
            people.http.post(url, json={**body, "token": secrets.token_urlsafe(32)})
            for _ in range(GUESSES)
        )
    )

    assert codes(answers) == {"token-refused": 30, "too-many-tries": 30}


async def test_many_who_log_in_at_once_rightly_are_not_taken_for_guessers(people: People) -> None:
    person = await people.verified()
    for _ in range(3):
        answers = await asyncio.gather(*(log_in(people.http, person) for _ in range(FREE - 1)))
        assert [answer.status_code for answer in answers] == [200] * (FREE - 1)


async def test_a_password_without_its_code_is_no_guess(people: People) -> None:
    person, totp, _ = await with_a_second_factor(people)

    answers = [await log_in(people.http, person) for _ in range(2 * FREE)]

    assert codes(answers) == {"second-factor-required": 2 * FREE}
    assert (await log_in(people.http, person, totp=totp.now())).status_code == 200


async def test_a_neighbour_at_the_same_address_does_not_keep_an_owner_out_where_they_are_known(
    people: People,
) -> None:
    person, device = await people.verified(), secrets.token_urlsafe(32)
    assert (await log_in(people.http, person, device_secret=device)).status_code == 200

    await guessed_for_long(people, person)

    unknown = await log_in(people.http, person, device_secret=secrets.token_urlsafe(32))
    known = await log_in(people.http, person, device_secret=device)
    elsewhere = await log_in(people.elsewhere(), person)
    assert (unknown.status_code, known.status_code, elsewhere.status_code) == (429, 200, 200)


async def test_who_guesses_from_everywhere_does_not_keep_an_owner_out_where_they_are_known(
    people: People,
) -> None:
    person, device = await people.verified(), secrets.token_urlsafe(32)
    assert (await log_in(people.http, person, device_secret=device)).status_code == 200
    for _ in range(26):
        await guessed_for_long(people, person, times=4, ip=an_address())

    elsewhere = people.elsewhere()
    unknown = await log_in(elsewhere, person)
    known = await log_in(elsewhere, person, device_secret=device)

    assert (unknown.status_code, known.status_code) == (429, 200)


async def test_a_known_device_has_tries_of_its_own_and_no_more(people: People) -> None:
    person, device = await people.verified(), secrets.token_urlsafe(32)
    await log_in(people.http, person, device_secret=device)

    answers = await asyncio.gather(
        *(
            log_in(people.http, person, device_secret=device, password=f"guess number {n}")
            for n in range(GUESSES)
        )
    )

    assert codes(answers) == {"wrong-credentials": FREE, "too-many-tries": GUESSES - FREE}


async def test_a_device_is_known_for_its_user_alone(people: People) -> None:
    person, other = await people.verified(), await people.verified()
    device = secrets.token_urlsafe(32)
    assert (await log_in(people.http, other, device_secret=device)).status_code == 200

    await guessed_for_long(people, person)

    assert (await log_in(people.http, person, device_secret=device)).status_code == 429


async def test_who_chooses_a_new_password_by_mail_gets_in_whatever_others_guessed(
    people: People,
) -> None:
    person, totp, _ = await with_a_second_factor(people)
    await guessed_for_long(people, person)
    assert (await log_in(people.http, person, totp=totp.now())).status_code == 429
    await people.http.post("/v1/auth/password/forgot", json={"email": person.email})
    token = await people.mailed_token(person.email, "Choose a new password")

    new = "quiet harbor lantern moss"
    reset = await people.http.post(
        "/v1/auth/password/reset", json={"token": token, "password": new}
    )

    assert reset.status_code == 204
    granted = await log_in(people.http, person, password=new, totp=totp.at(int(time.time()) + 30))
    assert granted.status_code == 200


async def test_one_network_address_that_tries_many_people_is_slowed_down(people: People) -> None:
    person, throttle = await people.verified(), own(people.auth.runtime).throttle
    waited = time.monotonic() + 1_000_000
    for _ in range(110):
        with suppress(WrongCredentials), coming_in(waited):
            async with throttle.password(people.address(), people.ip, device=None):
                raise WrongCredentials

    from_there = await log_in(people.http, person)
    from_elsewhere = await log_in(people.elsewhere(), person)

    assert (from_there.status_code, from_elsewhere.status_code) == (429, 200)


@pytest.mark.parametrize("reachable", [True, False])
async def test_the_counts_are_the_same_in_redis_and_while_it_is_away(
    deployment: Deployment, reachable: bool
) -> None:
    redis = connect(deployment.redis_url if reachable else "redis://127.0.0.1:1/0")
    counters = Counters(redis)
    name = secrets.token_hex(8)
    tries = [
        Bucket(name=f"{name}:pair", free=3, longest_seconds=900),
        Bucket(name=f"{name}:anywhere", free=10, longest_seconds=30),
    ]

    waits = await asyncio.gather(*(counters.try_once(tries) for _ in range(20)))
    assert sorted(waits)[:4] == [0, 0, 0, min(wait for wait in waits if wait)]
    await counters.take_back(tries)
    waits = await asyncio.gather(*(counters.try_once(tries) for _ in range(20)))
    assert waits.count(0) == 1
    await counters.forget(tries)
    waits = await asyncio.gather(*(counters.try_once(tries) for _ in range(20)))
    assert waits.count(0) == 3

    uses = [
        Allowance(name=f"{name}:one", most=2, per_seconds=3600),
        Allowance(name=f"{name}:all", most=3, per_seconds=86_400),
    ]
    lefts = await asyncio.gather(*(counters.use(uses) for _ in range(6)))
    assert lefts.count(0) == 2
    assert 3_500_000 < max(lefts) <= 3_600_000
    # What one of them refuses does not use up the other.
    assert await counters.use(uses[1:]) == 0
    assert await counters.use(uses[1:]) > 3_600_000
    await redis.aclose()


async def test_without_redis_sixty_guesses_at_once_are_slowed_down_all_the_same(
    deployment: Deployment, people: People
) -> None:
    person = await people.verified()
    away = Deployment(deployment.database_urls, deployment.broker_url, "redis://127.0.0.1:1/0")
    async with running(service, away, None, worker=False) as alone:
        app = service.create_api(alone.runtime)
        async with from_address(app, "198.18.0.1") as http:
            answers = await asyncio.gather(
                *(log_in(http, person, password=f"guess number {n}") for n in range(GUESSES))
            )

    assert codes(answers) == {"wrong-credentials": FREE, "too-many-tries": GUESSES - FREE}
    assert (await log_in(people.http, person)).status_code == 200
