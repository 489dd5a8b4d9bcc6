"""Whose access ended is kept out within five seconds, by auth and by a service that is not auth."""

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from services.auth.domain.roles import StaffRole
from tests.auth.doors import OUT, Doors, bearer, becomes, doors, from_elsewhere, shut
from tests.auth.people import PASSWORD, Person
from tests.harness import Deployment

Ending = Callable[[Doors, Person, Person], Awaitable[object]]


@pytest.fixture(scope="module")
async def common_place(deployment: Deployment, mail_dir: Path) -> AsyncIterator[Doors]:
    async with doors(deployment, mail_dir) as made:
        yield made


@pytest.fixture
async def place(common_place: Doors) -> AsyncIterator[Doors]:
    async with from_elsewhere(common_place) as mine:
        yield mine


@pytest.fixture
async def own_place(deployment: Deployment, mail_dir: Path) -> AsyncIterator[Doors]:
    """For tests that break something."""
    async with doors(deployment, mail_dir) as made:
        yield made


# ---- people ---------------------------------------------------------------------------------


async def log_out(place: Doors, person: Person, _owner: Person) -> object:
    return await place.people.http.post(
        "/v1/auth/logout", json={"refresh_token": person.refresh_token}
    )


async def log_out_everywhere(place: Doors, person: Person, _owner: Person) -> object:
    return await place.people.http.delete("/v1/me/sessions", headers=person.headers)


async def log_out_a_device(place: Doors, person: Person, _owner: Person) -> object:
    here = Person(person.email, person.user_id, None)
    await place.people.log_in(here)
    listed = await place.people.http.get("/v1/me/sessions", headers=here.headers)
    other = next(one["id"] for one in listed.json()["data"] if not one["current"])
    return await place.people.http.delete(f"/v1/me/sessions/{other}", headers=here.headers)


async def use_a_refresh_token_twice(place: Doors, person: Person, _owner: Person) -> object:
    body = {"refresh_token": person.refresh_token}
    await place.people.http.post("/v1/auth/refresh", json=body)
    return await place.people.http.post("/v1/auth/refresh", json=body)


async def change_password(place: Doors, person: Person, _owner: Person) -> object:
    return await place.people.http.post(
        "/v1/me/password",
        json={"current_password": PASSWORD, "password": "another violin cloud rust"},
        headers=person.headers,
    )


async def suspend(place: Doors, person: Person, _owner: Person) -> object:
    support = await place.people.staff(StaffRole.SUPPORT)
    return await place.people.http.post(
        f"/v1/admin/users/{person.user_id}/suspend", headers=support.headers
    )


async def remove(place: Doors, person: Person, owner: Person) -> object:
    return await place.people.http.delete(
        f"/v1/accounts/{owner.account_id}/members/{person.user_id}", headers=owner.headers
    )


async def lower_role(place: Doors, person: Person, owner: Person) -> object:
    return await place.people.http.patch(
        f"/v1/accounts/{owner.account_id}/members/{person.user_id}",
        json={"role": "member"},
        headers=owner.headers,
    )


async def erase(place: Doors, person: Person, _owner: Person) -> object:
    return await place.people.http.delete("/v1/me", headers=person.headers)


async def close_account(place: Doors, _person: Person, owner: Person) -> object:
    return await place.people.http.delete(f"/v1/accounts/{owner.account_id}", headers=owner.headers)


@pytest.mark.parametrize(
    "end",
    [
        log_out,
        log_out_everywhere,
        log_out_a_device,
        use_a_refresh_token_twice,
        change_password,
        suspend,
        remove,
        lower_role,
        erase,
        close_account,
    ],
)
async def test_a_persons_token_ends_everywhere(place: Doors, end: Ending) -> None:
    owner = await place.people.logged_in()
    person = await place.people.joined(owner, "admin")
    await place.let_in(person.headers)

    await end(place, person, owner)

    await place.keep_out(person.headers)


async def test_the_others_of_the_account_notice_nothing(place: Doors) -> None:
    owner = await place.people.logged_in()
    person = await place.people.joined(owner, "admin")
    await place.let_in(owner.headers)

    await remove(place, person, owner)

    await place.keep_out(person.headers)
    await place.let_in(owner.headers)


async def test_with_another_role_the_next_token_is_good(place: Doors) -> None:
    owner = await place.people.logged_in()
    person = await place.people.joined(owner, "admin")
    await place.let_in(person.headers)

    await lower_role(place, person, owner)

    refused = await becomes(401, lambda: place.elsewhere(person.headers))
    assert refused.json()["code"] == "role-changed"
    renewed = await place.people.http.post(
        "/v1/auth/refresh", json={"refresh_token": person.refresh_token}
    )
    await place.let_in(bearer(renewed.json()["access_token"]))


@pytest.mark.parametrize("url", ["/v1/accounts", "/v1/admin/users", "/v1/ops/auth/stuck"])
async def test_who_lost_a_staff_role_is_no_staff_anywhere(place: Doors, url: str) -> None:
    admin, staff = await place.people.staff(), await place.people.staff(StaffRole.SUPPORT)
    customer = await place.people.logged_in()
    account = f"/v1/accounts/{customer.account_id}"
    for asked in (url, account):
        assert (await place.at_auth(staff.headers, asked)).status_code == 200
    elsewhere = "/v1/ops/subscriptions/stuck"
    assert (await place.elsewhere(staff.headers, elsewhere)).status_code == 200

    lost = await place.people.http.patch(
        f"/v1/admin/users/{staff.user_id}", json={"staff": None}, headers=admin.headers
    )

    assert lost.status_code == 200
    await becomes(401, lambda: place.at_auth(staff.headers, url))
    await becomes(401, lambda: place.at_auth(staff.headers, account))
    await becomes(401, lambda: place.elsewhere(staff.headers, elsewhere))


# ---- keys -----------------------------------------------------------------------------------


async def test_a_revoked_key_ends_everywhere(place: Doors) -> None:
    owner = await place.people.logged_in()
    key = await place.key(owner)
    traded = await place.people.http.post("/v1/auth/token", headers=bearer(key))
    token = traded.json()["access_token"]
    for credential in (key, token):
        await place.let_in(bearer(credential))
    base = f"/v1/accounts/{owner.account_id}/api-keys"
    listed = await place.people.http.get(base, headers=owner.headers)

    gone = await place.people.http.delete(
        f"{base}/{listed.json()['data'][0]['id']}", headers=owner.headers
    )

    assert gone.status_code == 204
    for credential in (key, token):
        await place.keep_out(bearer(credential))
    listed = await place.people.http.get(base, headers=owner.headers)
    assert listed.json()["data"][0]["revoked_because"] == "revoked"


@pytest.mark.parametrize(
    ("end", "because"),
    [
        (remove, "maker-left"),
        (erase, "maker-erased"),
        (suspend, "maker-suspended"),
        (close_account, "account-closed"),
    ],
)
async def test_a_key_ends_with_its_maker_and_with_its_account(
    place: Doors, end: Ending, because: str
) -> None:
    owner = await place.people.logged_in()
    maker = await place.people.joined(owner, "admin")
    key = bearer(await place.key(maker))
    await place.let_in(key)

    await end(place, maker, owner)

    await place.keep_out(key)
    traded = await place.people.http.post("/v1/auth/token", headers=key)
    assert (traded.status_code, traded.json()["code"]) == (401, "api-key-refused")
    staff = await place.people.staff()
    listed = await place.people.http.get(
        f"/v1/accounts/{owner.account_id}/api-keys", headers=staff.headers
    )
    (shown,) = listed.json()["data"]
    assert shown["revoked_because"] == because
    assert shown["revoked_at"] is not None


async def test_a_key_does_not_come_back_with_its_maker(place: Doors) -> None:
    maker = await place.people.logged_in()
    key = bearer(await place.key(maker))
    await suspend(place, maker, maker)
    support = await place.people.staff(StaffRole.SUPPORT)

    back = await place.people.http.post(
        f"/v1/admin/users/{maker.user_id}/reactivate", headers=support.headers
    )

    assert back.status_code == 200
    traded = await place.people.http.post("/v1/auth/token", headers=key)
    assert traded.status_code == 401


async def test_a_key_never_does_more_than_its_maker_could(place: Doors) -> None:
    owner = await place.people.logged_in()
    maker = await place.people.joined(owner, "admin")
    scopes = ["accounts:write", "projects:read", "subscriptions:read"]
    key = bearer(await place.key(maker, role="admin", scopes=scopes))
    await place.let_in(key)
    account = f"/v1/accounts/{owner.account_id}"
    changed = await place.people.http.patch(account, json={"country": "FR"}, headers=key)
    assert changed.status_code == 200

    await lower_role(place, maker, owner)

    await becomes(
        403,
        lambda: place.people.http.patch(account, json={"country": "IT"}, headers=key),
    )
    await place.let_in(key)  # a member may still read


async def test_a_token_of_a_key_does_not_outlive_the_key(place: Doors) -> None:
    owner = await place.people.logged_in()
    key = await place.key(owner)
    async with place.people.auth.runtime.begin() as uow:
        found = await uow.api_keys.find_by_secret(key)
        found.expires_at = found.created_at.replace(microsecond=0).replace(year=2999)

    traded = (await place.people.http.post("/v1/auth/token", headers=bearer(key))).json()

    assert 0 < traded["expires_in"] <= 900


async def test_support_cannot_make_a_customers_key_and_admins_keys_end_with_their_role(
    place: Doors,
) -> None:
    customer = await place.people.logged_in()
    base = f"/v1/accounts/{customer.account_id}/api-keys"
    boss, admin = await place.people.staff(), await place.people.staff()
    for role in (StaffRole.SUPPORT, StaffRole.FINANCE):
        staff = await place.people.staff(role)
        refused = await place.people.http.post(
            base, json={"name": "x", "scopes": [], "role": "owner"}, headers=staff.headers
        )
        assert refused.status_code == 403, refused.text
    key = bearer(await place.key(admin, customer.account_id, role="owner"))
    await place.let_in(key)

    lowered = await place.people.http.patch(
        f"/v1/admin/users/{admin.user_id}", json={"staff": "support"}, headers=boss.headers
    )

    assert lowered.status_code == 200
    await place.keep_out(key)
    listed = await place.people.http.get(base, headers=customer.headers)
    assert listed.json()["data"][0]["revoked_because"] == "maker-lost-role"


async def test_a_key_of_the_operator_ends_everywhere_and_so_does_a_secret_that_was_replaced(
    place: Doors,
) -> None:
    admin, http = await place.people.staff(), place.people.http
    base, url = "/v1/ops/auth/keys", "/v1/plans"
    made = await http.post(
        base, json={"name": "backend", "scopes": ["catalog:read"]}, headers=admin.headers
    )
    first = bearer(made.json()["key"])
    traded = bearer((await http.post("/v1/auth/token", headers=first)).json()["access_token"])
    for credential in (first, traded):
        assert (await place.elsewhere(credential, url)).status_code == 200

    one = f"{base}/{made.json()['id']}"
    rotated = await http.post(f"{one}/rotate", json={"overlap_hours": 0}, headers=admin.headers)

    second = bearer(rotated.json()["key"])
    for credential in (first, traded):
        await becomes(OUT, lambda who=credential: place.elsewhere(who, url))  # type: ignore[misc]
    assert (await place.elsewhere(second, url)).status_code == 200

    assert (await http.delete(one, headers=admin.headers)).status_code == 204

    await becomes(OUT, lambda: place.elsewhere(second, url))


@pytest.mark.parametrize("end", ["key", "account"])
async def test_a_customer_session_ends_with_its_key_and_with_its_account(
    place: Doors, end: str
) -> None:
    admin, http = await place.people.staff(), place.people.http
    scopes = ["accounts:write", "customer-sessions:write"]
    made = await http.post(
        "/v1/ops/auth/keys", json={"name": "backend", "scopes": scopes}, headers=admin.headers
    )
    backend = bearer(made.json()["key"])
    account = (await http.post("/v1/accounts", json={"name": "A"}, headers=backend)).json()["id"]
    session = await http.post(
        "/v1/customer-sessions", json={"account_id": account}, headers=backend
    )
    customer = bearer(session.json()["token"])
    await place.let_in(customer)

    url = (
        f"/v1/accounts/{account}" if end == "account" else f"/v1/ops/auth/keys/{made.json()['id']}"
    )
    ended = await http.delete(url, headers=admin.headers)

    assert ended.status_code == 204
    await place.keep_out(customer)


# ---- with something away --------------------------------------------------------------------


async def test_it_holds_when_redis_was_emptied(own_place: Doors) -> None:
    person = await own_place.people.logged_in()
    await own_place.let_in(person.headers)
    await log_out(own_place, person, person)
    await own_place.keep_out(person.headers)
    other = await own_place.people.logged_in()
    await own_place.let_in(other.headers)

    await own_place.subscriptions.runtime.redis.flushdb()
    await log_out(own_place, other, other)

    await own_place.keep_out(other.headers)
    await own_place.keep_out(person.headers)


@pytest.mark.parametrize("how", ["stopped", "silent"])
async def test_it_holds_when_redis_is_away(own_place: Doors, how: str) -> None:
    person, other = await own_place.people.logged_in(), await own_place.people.logged_in()
    await own_place.let_in(person.headers)
    if how == "stopped":
        await own_place.stop_redis()
    else:
        own_place.valve.shut()

    await log_out(own_place, person, person)

    await own_place.keep_out(person.headers)
    await own_place.let_in(other.headers)
    own_place.valve.open()


async def test_it_holds_when_auths_worker_is_away(own_place: Doors) -> None:
    person, other = await own_place.people.logged_in(), await own_place.people.logged_in()
    await own_place.let_in(person.headers)
    await own_place.stop_worker()

    await log_out(own_place, person, person)

    await own_place.keep_out(person.headers)
    await own_place.let_in(other.headers)


async def test_what_was_revoked_before_auth_went_away_stays_so(own_place: Doors) -> None:
    person = await own_place.people.logged_in()
    await own_place.let_in(person.headers)
    await log_out(own_place, person, person)
    await own_place.keep_out(person.headers)

    await own_place.stop_auth()

    await becomes(401, lambda: own_place.elsewhere(person.headers))


async def test_when_nobody_can_say_what_was_revoked_reading_goes_on_and_nothing_else(
    own_place: Doors,
) -> None:
    person, staff = await own_place.people.logged_in(), await own_place.people.staff()
    await own_place.let_in(person.headers)
    http = own_place.subscriptions.http
    await own_place.stop_auth()
    await own_place.stop_redis()

    written = await becomes(
        503, lambda: http.post("/v1/usage-events", json={}, headers=person.headers)
    )
    by_staff = await becomes(
        503, lambda: http.get("/v1/ops/subscriptions/stuck", headers=staff.headers)
    )

    for answer in (written, by_staff):
        assert answer.json()["code"] == "revocations-unknown"
        assert answer.headers["retry-after"] == "1"
    assert (await own_place.elsewhere(person.headers)).status_code == 200


async def test_with_auth_stopped_and_redis_alive_reading_goes_on_and_comes_back_whole(
    own_place: Doors,
) -> None:
    person = await own_place.people.logged_in()
    await own_place.let_in(person.headers)
    await own_place.stop_auth()
    http = own_place.subscriptions.http

    await becomes(503, lambda: http.post("/v1/usage-events", json={}, headers=person.headers))

    assert (await own_place.elsewhere(person.headers)).status_code == 200
    with shut(own_place.valve):
        assert (await own_place.elsewhere(person.headers)).status_code == 200
