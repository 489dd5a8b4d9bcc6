"""What every operation keeps, read off the OpenAPI document so that a new one cannot be missed."""

from typing import Any
from uuid import uuid4

from services.auth.api import routers
from shared.web.problems import Problem
from tests.auth.people import People

#: Whoever asks: signing in, and the public keys.
PUBLIC = ("/v1/auth/", "/.well-known/", "/health")


async def document(people: People) -> dict[str, Any]:
    answer = await people.http.get("/openapi/auth.json")
    assert answer.status_code == 200
    found: dict[str, Any] = answer.json()
    return found


def operations(api: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    return [
        (method.upper(), path, operation)
        for path, item in api["paths"].items()
        for method, operation in item.items()
    ]


async def test_every_route_is_documented(people: People) -> None:
    documented = {(method, path) for method, path, _ in operations(await document(people))}
    routed = {
        (method, route.path)  # type: ignore[attr-defined]
        for router in routers
        for route in router.routes
        for method in route.methods  # type: ignore[attr-defined]
    }
    # What services ask among themselves, past the gateway.
    assert routed - documented == {("GET", "/internal/revocations")}
    assert len(documented) > 40


async def test_without_a_token_everything_that_is_not_public_is_refused(people: People) -> None:
    for method, path, _ in operations(await document(people)):
        if path.startswith(PUBLIC):
            continue
        url = path
        while "{" in url:
            url = url[: url.index("{")] + str(uuid4()) + url[url.index("}") + 1 :]
        answer = await people.http.request(method, url, json={})
        assert answer.status_code == 401, (method, path, answer.text)
        Problem.model_validate(answer.json())


async def test_staff_paths_are_closed_to_everybody_else(people: People) -> None:
    person = await people.logged_in()
    for method, path, _ in operations(await document(people)):
        if path.startswith("/v1/admin"):
            url = path.replace("{user_id}", str(person.user_id))
            answer = await people.http.request(
                method, url, json={"staff": "admin"}, headers=person.headers
            )
            assert answer.status_code in {403, 422}, (method, path)
            bare = await people.http.request(method, url, headers=person.headers)
            assert bare.status_code in {403, 422}, (method, path)


async def test_every_body_refuses_fields_that_it_does_not_know(people: People) -> None:
    api = await document(people)
    seen = 0
    for method, path, operation in operations(api):
        body = operation.get("requestBody")
        if body is None:
            continue
        reference = body["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
        schema = api["components"]["schemas"][reference]
        assert schema.get("additionalProperties") is False, (method, path)
        seen += 1
    assert seen > 15


async def test_what_is_wrong_is_said_as_a_problem(people: People) -> None:
    person = await people.logged_in()
    asked = [
        ("GET", "/v1/nothing", None, 404),
        ("PUT", "/v1/me", None, 405),
        ("PATCH", "/v1/me", {"full_name": "x" * 201}, 422),
        ("PATCH", "/v1/me", {"version": 5}, 422),
        ("GET", "/v1/accounts?limit=201", None, 422),
        ("GET", "/v1/accounts?cursor=nonsense!", None, 422),
        ("GET", "/v1/accounts/not-an-id", None, 422),
    ]
    for method, url, body, status in asked:
        answer = await people.http.request(method, url, json=body, headers=person.headers)
        assert answer.status_code == status, (method, url)
        assert answer.headers["content-type"] == "application/problem+json"
        Problem.model_validate(answer.json())


async def test_a_profile_changes_by_version(people: People) -> None:
    person = await people.logged_in(full_name="Ada")
    etag = (await people.http.get("/v1/me", headers=person.headers)).headers["etag"]
    headers = {**person.headers, "If-Match": etag}

    changed = await people.http.patch("/v1/me", json={"full_name": "Ada L."}, headers=headers)
    stale = await people.http.patch("/v1/me", json={"full_name": None}, headers=headers)

    assert changed.json()["full_name"] == "Ada L."
    assert stale.status_code == 412


async def test_an_address_moves_once_the_new_one_is_shown_to_be_theirs(people: People) -> None:
    person, other = await people.logged_in(), await people.logged_in()
    new = people.address()
    asked = await people.http.post("/v1/me/email", json={"email": new}, headers=person.headers)
    token = await people.mailed_token(new, "Confirm your new address")

    stolen = await people.http.post(
        "/v1/me/email/confirm", json={"token": token}, headers=other.headers
    )
    moved = await people.http.post(
        "/v1/me/email/confirm", json={"token": token}, headers=person.headers
    )

    assert asked.status_code == 202
    assert stolen.status_code == 422
    assert moved.json()["email"] == new
    assert (await people.log_in(person)).status_code == 401
    person.email = new
    assert (await people.log_in(person)).status_code == 200


async def test_pages_tile_the_list(people: People) -> None:
    person = await people.logged_in()
    made = []
    for number in range(5):
        answer = await people.http.post(
            "/v1/projects", json={"name": f"P{number}"}, headers=person.headers
        )
        made.append(answer.json()["id"])
    seen: list[str] = []
    cursor = ""
    while cursor is not None:
        page = await people.http.get(
            "/v1/projects",
            params={"limit": 2, **({"cursor": cursor} if cursor else {})},
            headers=person.headers,
        )
        seen += [one["id"] for one in page.json()["data"]]
        cursor = page.json()["next_cursor"]
    assert seen == made[::-1]


async def test_half_of_a_surrogate_pair_is_refused_by_its_field(people: People) -> None:
    person = await people.logged_in()

    answer = await people.http.post(
        "/v1/me/email/confirm",
        content=rb'{"token": "\ud800"}',
        headers={**person.headers, "Content-Type": "application/json"},
    )

    assert answer.status_code == 422
    assert [fault["field"] for fault in answer.json()["errors"]] == ["token"]


async def test_a_replay_of_impossible_times_is_refused(people: People) -> None:
    staff = await people.staff()
    times = ("1969-12-31T23:59:59Z", "9999-12-31T23:59:59Z", "2030-01-01T00:00:00")
    for since in times:
        answer = await people.http.post(
            "/v1/ops/auth/outbox/replay",
            json={"since": since, "until": "2030-01-02T00:00:00Z"},
            headers=staff.headers,
        )

        assert answer.status_code == 422
        assert [fault["field"] for fault in answer.json()["errors"]] == ["since"]
