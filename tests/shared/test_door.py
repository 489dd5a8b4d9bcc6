"""What every operation of every service refuses at the door, whoever wrote the operation."""

from collections.abc import AsyncIterator
from datetime import date, datetime
from decimal import Decimal
from typing import Annotated, Any
from uuid import UUID

import httpx
import pytest
from fastapi import APIRouter, Depends, Query, Response
from pydantic import BaseModel

from shared.db import UnitOfWork, service_metadata
from shared.ids import new_id
from shared.messaging.consumers import Consumers
from shared.schedule import Schedule
from shared.security import KeyScope
from shared.service import Service
from shared.settings import Settings
from shared.web import (
    Edge,
    Instant,
    Page,
    PageRequest,
    Reading,
    RequestModel,
    Router,
    command,
    for_role,
    for_staff,
    listing,
    page_request,
    public_command,
    reading,
)
from shared.web.key_rules import ANY_KEY, FOR_PEOPLE, keys_with
from tests.harness import Deployment, Running, running
from tests.tokens import TokenIssuer

router = Router(prefix="/v1/doors")


class Part(RequestModel):
    size: int


class DoorRequest(RequestModel):
    name: str = "door"
    width: int | None = None
    open: bool | None = None
    price: Decimal | None = None
    at: datetime | None = None
    on: date | None = None
    parts: list[Part] | None = None
    labels: dict[str, str] | None = None


class DoorView(BaseModel):
    id: UUID
    at: datetime | None = None


class Filters(BaseModel):
    color: str | None = None


@router.get("")
async def list_doors(
    asked: Annotated[Reading[UnitOfWork], Depends(reading)],
    page: Annotated[PageRequest, Depends(page_request)],
    filters: Annotated[Filters, Query()],
    since: Annotated[Instant | None, Query(alias="from")] = None,
) -> Page[DoorView]:
    del asked, filters, page
    return Page(data=[DoorView(id=new_id(), at=since)], next_cursor=None)


class ActingView(BaseModel):
    account_id: UUID | None


@router.get("/acting")
async def list_of_one(asked: Annotated[Reading[UnitOfWork], Depends(listing)]) -> ActingView:
    return ActingView(account_id=asked.scope.account_id)


@router.post("", status_code=201, dependencies=[for_staff("finance")])
async def make(body: DoorRequest, edge: Annotated[Edge[UnitOfWork], Depends(command)]) -> Response:
    async with edge.begin() as uow:
        return await edge.answer(uow, DoorView(id=new_id(), at=body.at), status=201)


@router.post("/knock", dependencies=[for_role("billing")])
async def knock(body: DoorRequest, edge: Annotated[Edge[UnitOfWork], Depends(command)]) -> DoorView:
    del edge
    return DoorView(id=new_id(), at=body.at)


@router.post("/ring", status_code=201)
async def ring(
    body: DoorRequest, edge: Annotated[Edge[UnitOfWork], Depends(public_command)]
) -> Response:
    async with edge.begin() as uow:
        return await edge.answer(uow, DoorView(id=new_id(), at=body.at), status=201)


@router.delete("/{door_id}", status_code=204)
async def remove(door_id: UUID, edge: Annotated[Edge[UnitOfWork], Depends(command)]) -> None:
    del door_id, edge


@router.get("/{door_id}")
async def show(door_id: UUID, asked: Annotated[Reading[UnitOfWork], Depends(reading)]) -> Response:
    return asked.reply(DoorView(id=door_id))


@router.get("/named/{name}")
async def show_named(name: str) -> dict[str, str]:
    return {"name": name}


RULES = {
    "GET /v1/doors": ANY_KEY,
    "GET /v1/doors/acting": ANY_KEY,
    "POST /v1/doors": keys_with(KeyScope.CATALOG_WRITE),
    "POST /v1/doors/knock": keys_with(KeyScope.BILLING_WRITE),
    "GET /v1/doors/{door_id}": ANY_KEY,
    "DELETE /v1/doors/{door_id}": FOR_PEOPLE,
}


def a_service(*routers: APIRouter) -> Service[Any, Any]:
    return Service(
        name="auth",
        description="For tests of the door.",
        settings=Settings,
        metadata=service_metadata("auth"),
        unit_of_work=UnitOfWork,
        routers=lambda: routers,
        consumers=Consumers("auth"),
        schedule=Schedule(),
        key_rules=lambda: RULES,
    )


@pytest.fixture(scope="module")
async def doors(deployment: Deployment, issuer: TokenIssuer) -> AsyncIterator[Running]:
    async with running(a_service(router), deployment, issuer, worker=False) as it:
        yield it


def fields_of(answer: httpx.Response) -> set[str]:
    assert answer.status_code == 422, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    document = answer.json()
    assert document["code"] == "validation-failed"
    return {fault["field"] for fault in document["errors"]}


@pytest.mark.parametrize(
    ("query", "named"),
    [
        ("account_id=1", "query.account_id"),
        ("limit=5&Limit=6", "query.Limit"),
        ("limit=5&limit=6", "query.limit"),
        ("since=2030-01-01T00:00:00Z", "query.since"),  # the parameter is called `from`
        ("filters=x", "query.filters"),
        ("color=%00", "query.color"),
        ("", None),
        ("limit=5&color=red&from=2030-01-01T00:00:00Z", None),
    ],
)
async def test_a_query_parameter_that_is_not_known_is_named(
    doors: Running, issuer: TokenIssuer, query: str, named: str | None
) -> None:
    answer = await doors.http.get(f"/v1/doors?{query}", headers=issuer.of_account(new_id()))

    if named is None:
        assert answer.status_code == 200
    else:
        assert fields_of(answer) == {named}


async def test_an_operation_without_parameters_knows_none(
    doors: Running, issuer: TokenIssuer
) -> None:
    mine = issuer.of_account(new_id())

    for method, path in (("DELETE", f"/v1/doors/{new_id()}"), ("GET", "/v1/doors/named/front")):
        answer = await doors.http.request(method, f"{path}?force=1", headers=mine)

        assert fields_of(answer) == {"query.force"}


async def test_what_is_created_with_an_unknown_parameter_is_not_created(
    doors: Running, issuer: TokenIssuer
) -> None:
    staff = issuer.of_staff() | {"Idempotency-Key": "once"}

    refused = await doors.http.post("/v1/doors?dry_run=1", json={}, headers=staff)
    made = await doors.http.post("/v1/doors", json={"width": 5}, headers=staff)

    assert fields_of(refused) == {"query.dry_run"}
    assert made.status_code == 201


@pytest.mark.parametrize(
    ("body", "named"),
    [
        (rb'{"name": "\ud800"}', "name"),
        (rb'{"name": "a\udc00b"}', "name"),
        (rb'{"name": "\u0000"}', "name"),
        (rb'{"labels": {"a": "\u0000"}}', "labels.a"),
        (rb'{"labels": {"\ud800": "a"}}', "labels"),
        (b'{"name": "\xff"}', "10"),
        ('{"name": "ö"}'.encode("utf-16"), "0"),
        (b"{", "1"),
        (b'{"width": NaN}', "body"),
        (b"[" * 50_000, "body"),
        (b'{"width": ' + b"9" * 5000 + b"}", "body"),
    ],
)
async def test_a_body_that_cannot_be_kept_is_refused(
    doors: Running, issuer: TokenIssuer, body: bytes, named: str
) -> None:
    answer = await doors.http.post(
        "/v1/doors",
        content=body,
        headers=issuer.of_staff() | {"Content-Type": "application/json"},
    )

    assert fields_of(answer) == {named}


async def test_text_of_all_planes_is_taken(doors: Running, issuer: TokenIssuer) -> None:
    for content in (rb'{"name": "\ud83d\ude00"}', '{"name": "😀 \\\\u0000"}'.encode()):
        answer = await doors.http.post(
            "/v1/doors",
            content=content,
            headers=issuer.of_staff() | {"Content-Type": "application/json"},
        )

        assert answer.status_code == 201


@pytest.mark.parametrize(
    "body",
    [
        {"width": True},
        {"width": "2"},
        {"width": 2.0},
        {"open": 1},
        {"open": "true"},
        {"price": True},
        {"parts": [{"size": "1"}]},
        {"at": "2030-01-01T00:00:00"},
        {"at": "2030-01-01"},
        {"at": 1_900_000_000},
        {"at": "1900000000"},
        {"at": "1969-12-31T23:59:59Z"},
        {"at": "9999-12-31T23:59:59Z"},
        {"at": "0001-01-01T00:00:00+14:00"},
        {"on": 20_000},
        {"on": "1492-10-12"},
        {"on": "9999-12-31"},
    ],
    ids=str,
)
async def test_what_only_looks_like_a_value_is_refused(
    doors: Running, issuer: TokenIssuer, body: dict[str, Any]
) -> None:
    answer = await doors.http.post("/v1/doors", json=body, headers=issuer.of_staff())

    assert {field.split(".")[0] for field in fields_of(answer)} == set(body)


@pytest.mark.parametrize(
    "body",
    [
        {"width": 2, "open": False, "parts": [{"size": 3}]},
        {"price": "2.50"},
        {"price": 2},
        {"at": "2030-01-01T00:00:00+02:00"},
        {"at": "1970-01-01T00:00:00Z"},
        {"on": "1968-01-01"},
    ],
    ids=str,
)
async def test_what_is_written_as_promised_is_taken(
    doors: Running, issuer: TokenIssuer, body: dict[str, Any]
) -> None:
    answer = await doors.http.post("/v1/doors", json=body, headers=issuer.of_staff())

    assert answer.status_code == 201


@pytest.mark.parametrize(
    "instant",
    ["1969-12-31T23:59:59Z", "9999-12-31T00:00:00Z", "2030-01-01T00:00:00", "1900000000"],
)
async def test_an_instant_in_a_query_is_bounded_and_has_an_offset(
    doors: Running, issuer: TokenIssuer, instant: str
) -> None:
    answer = await doors.http.get(
        "/v1/doors", params={"from": instant}, headers=issuer.of_account(new_id())
    )

    assert fields_of(answer) == {"query.from"}


@pytest.mark.parametrize("content", [b"{", rb'{"name": "\ud800"}', b'{"width": "x", "wdith": 1}'])
async def test_who_may_not_ask_is_not_told_what_is_wrong_with_the_question(
    doors: Running, issuer: TokenIssuer, content: bytes
) -> None:
    json = {"Content-Type": "application/json"}
    account = issuer.of_account(new_id())
    key = issuer.of_account(new_id(), scope="invoices:read")

    nobody = await doors.http.post("/v1/doors?x=1", content=content, headers=json)
    customer = await doors.http.post("/v1/doors?x=1", content=content, headers=json | account)
    keyed = await doors.http.post("/v1/doors/knock?x=1", content=content, headers=json | key)

    assert [answer.status_code for answer in (nobody, customer, keyed)] == [401, 403, 403]


async def test_a_slash_too_many_leads_nowhere(doors: Running) -> None:
    answer = await doors.http.get("/v1/doors/", headers={"Host": "evil.example"})

    assert answer.status_code == 404
    assert answer.json()["code"] == "not-found"
    assert "location" not in answer.headers


async def test_what_a_path_takes_is_told_in_full(doors: Running) -> None:
    collection = await doors.http.put("/v1/doors")
    one = await doors.http.put(f"/v1/doors/{new_id()}")

    assert collection.status_code == one.status_code == 405
    assert collection.headers["allow"] == "GET, POST"
    assert one.headers["allow"] == "DELETE, GET"


async def test_a_key_of_nobody_is_for_one_address(doors: Running) -> None:
    app = doors.http._transport.app  # type: ignore[attr-defined]

    async def ring_from(address: str) -> httpx.Response:
        transport = httpx.ASGITransport(app, client=(address, 4321))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
            return await http.post(
                "/v1/doors/ring", json={"name": "me"}, headers={"Idempotency-Key": "ring-1"}
            )

    first, again = await ring_from("192.0.2.1"), await ring_from("192.0.2.1")
    stranger = await ring_from("192.0.2.2")

    assert again.headers["idempotent-replayed"] == "true"
    assert again.content == first.content
    assert stranger.status_code == 201
    assert stranger.json()["id"] != first.json()["id"]


async def test_a_path_that_cannot_be_kept_is_refused(doors: Running) -> None:
    answer = await doors.http.get("/v1/doors/named/a%00b")

    assert fields_of(answer) == {"path"}


async def test_staff_list_one_account_by_filter_or_header_and_others_only_their_own(
    doors: Running, issuer: TokenIssuer
) -> None:
    mine, another = str(new_id()), str(new_id())

    async def ask(who: dict[str, str], **params: str) -> tuple[int, str | None]:
        answer = await doors.http.get("/v1/doors/acting", params=params, headers=who)
        return answer.status_code, answer.json().get("account_id")

    staff, owner = issuer.of_staff(), issuer.of_account(UUID(mine))
    assert await ask(staff) == (200, None)
    assert await ask(staff, account_id=another) == (200, another)
    assert await ask(staff | {"Perennial-Account": another}, account_id=another) == (200, another)
    assert await ask(staff | {"Perennial-Account": mine}, account_id=another) == (422, None)
    assert await ask(owner, account_id=mine) == (200, mine)
    assert await ask(owner, account_id=another) == (403, None)


class Loose(BaseModel):
    name: str


async def test_a_route_that_would_take_anything_does_not_start(
    deployment: Deployment, issuer: TokenIssuer
) -> None:
    loose_body, foreign = Router(prefix="/v1/loose"), APIRouter(prefix="/v1/foreign")
    boundless = Router(prefix="/v1/boundless")

    @loose_body.post("")
    async def take(body: Loose) -> None:
        del body

    @foreign.get("")
    async def give() -> None: ...

    @boundless.get("")
    async def look(since: datetime | None = None) -> None:
        del since

    for bad in (loose_body, foreign, boundless):
        with pytest.raises(TypeError):
            async with running(a_service(bad), deployment, issuer, worker=False):
                pass
