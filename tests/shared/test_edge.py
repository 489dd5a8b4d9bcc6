"""The HTTP edge that all services share: once per key, versions, problems, ids, scope."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any
from uuid import UUID

import httpx
import pytest
from fastapi import Depends, Response
from pydantic import BaseModel
from sqlalchemy import func, select, text, update
from sqlalchemy.exc import DBAPIError

from shared.clock import utc_now
from shared.db import UnitOfWork, service_metadata
from shared.errors import Conflict, PreconditionFailed, TooManyRequests
from shared.events.auth import AccountUpdated
from shared.events.subscriptions import TestClockAdvanced, TestClockDeleted
from shared.ids import new_id
from shared.messaging.consumers import Consumers
from shared.schedule import Schedule
from shared.service import Service
from shared.settings import Settings
from shared.testclock import record_clock
from shared.web import (
    Edge,
    Reading,
    RequestModel,
    Router,
    command,
    keyed_command,
    problems,
    reading,
)
from shared.web.key_rules import ANY_KEY
from tests.harness import Deployment, Running, deployed_alone, running
from tests.servers import Servers
from tests.tokens import TokenIssuer

router = Router(prefix="/v1/probes")
gates: dict[str, asyncio.Event] = {}
entered = asyncio.Event()


class ProbeRequest(RequestModel):
    amount: int
    wait_for: str | None = None
    about: UUID | None = None


class ProbeView(BaseModel):
    id: UUID
    amount: int
    version: int = 3


class Full(Conflict):
    code = "full"


@router.post("", status_code=201, responses=problems(Full))
async def make(
    body: ProbeRequest, edge: Annotated[Edge[UnitOfWork], Depends(keyed_command)]
) -> Response:
    async with edge.begin() as uow:
        if body.about:
            await uow.now(body.about)
        entered.set()
        if body.wait_for:
            await gates[body.wait_for].wait()
        if body.amount > 100:
            raise Full("There is no room for more than 100.")
        probe = new_id()
        uow.audit("probe.made", probe, after={"amount": body.amount})
        return await edge.answer(uow, ProbeView(id=probe, amount=body.amount), status=201)


@router.get("/{probe_id}")
async def show(probe_id: UUID, asked: Annotated[Reading[UnitOfWork], Depends(reading)]) -> Response:
    return asked.reply(ProbeView(id=probe_id, amount=1))


class NowView(BaseModel):
    now: datetime


@router.get("/{probe_id}/now")
async def tell_time(
    probe_id: UUID, asked: Annotated[Reading[UnitOfWork], Depends(reading)]
) -> Response:
    del probe_id
    async with asked.begin():
        return asked.reply(NowView(now=asked.now))


@router.post("/{probe_id}/now")
async def act_in_time(
    probe_id: UUID, edge: Annotated[Edge[UnitOfWork], Depends(command)]
) -> Response:
    del probe_id
    async with edge.begin():
        return edge.reply(NowView(now=edge.now))


@router.patch("/{probe_id}", responses=problems(PreconditionFailed))
async def change(probe_id: UUID, edge: Annotated[Edge[UnitOfWork], Depends(command)]) -> Response:
    async with edge.begin() as uow:
        edge.require_version(3)
        return await edge.answer(uow, ProbeView(id=probe_id, amount=2, version=4))


@router.post("/{probe_id}/break")
async def fail(probe_id: UUID, edge: Annotated[Edge[UnitOfWork], Depends(command)]) -> Response:
    async with edge.begin() as uow:
        uow.audit("probe.broken", probe_id)
        uow.emit(
            AccountUpdated(
                occurred_at=utc_now(),
                account_id=edge.account_id,
                sequence=1,
                country="DE",
                time_zone="UTC",
            )
        )
        raise RuntimeError("the password is hunter2")


@router.get("/{probe_id}/refused", responses={422: {"description": "unknown-reference"}})
async def refused(
    probe_id: UUID, sqlstate: str, asked: Annotated[Reading[UnitOfWork], Depends(reading)]
) -> Response:
    async with asked.begin() as uow:
        said = f"DO $$ BEGIN RAISE 'hunter2' USING ERRCODE = '{sqlstate}'; END $$"
        await uow.session.execute(text(said))
    return asked.reply(ProbeView(id=probe_id, amount=1))


@router.get("", responses=problems(TooManyRequests))
async def crowded() -> Response:
    raise TooManyRequests("Slow down.", retry_after_seconds=7)


OPERATIONS = (
    "POST /v1/probes",
    "GET /v1/probes/{probe_id}",
    "PATCH /v1/probes/{probe_id}",
    "GET /v1/probes/{probe_id}/now",
    "POST /v1/probes/{probe_id}/now",
    "POST /v1/probes/{probe_id}/break",
    "GET /v1/probes/{probe_id}/refused",
)


@pytest.fixture(scope="module")
async def probe(servers: Servers, issuer: TokenIssuer) -> AsyncIterator[Running]:
    """A service of one endpoint or two, on auth's tables in a database of their own.

    A worker of auth would take its turn with the test clocks, and hold them meanwhile.
    """
    service: Service[Any, Any] = Service(
        name="auth",
        description="For tests of the edge.",
        settings=Settings,
        metadata=service_metadata("auth"),
        unit_of_work=UnitOfWork,
        routers=lambda: [router],
        consumers=Consumers("auth"),
        schedule=Schedule(),
        key_rules=lambda: dict.fromkeys(OPERATIONS, ANY_KEY),
    )
    async with (
        deployed_alone("auth", servers) as place,
        running(service, place, issuer, worker=False) as it,
    ):
        yield it


async def audits(probe: Running, action: str, account_id: UUID) -> int:
    log = probe.runtime.database.platform.audit_log
    async with probe.runtime.begin() as uow:
        count = await uow.session.scalar(
            select(func.count()).where(log.c.action == action, log.c.account_id == account_id)
        )
    return int(count or 0)


def problem_of(answer: httpx.Response) -> Any:
    assert answer.headers["content-type"] == "application/problem+json"
    document = answer.json()
    assert document["status"] == answer.status_code
    assert document["type"] == f"urn:perennial:problem:{document['code']}"
    assert document["request_id"] == answer.headers["x-request-id"]
    return document


async def test_the_same_key_and_body_happen_once(probe: Running, issuer: TokenIssuer) -> None:
    account = new_id()
    headers = issuer.of_account(account, sub=str(new_id())) | {"Idempotency-Key": "k-1"}

    first = await probe.http.post("/v1/probes", json={"amount": 5}, headers=headers)
    again = await probe.http.post("/v1/probes", json={"amount": 5}, headers=headers)

    assert first.status_code == again.status_code == 201
    assert first.content == again.content
    assert first.headers["etag"] == again.headers["etag"] == '"3"'
    assert "idempotent-replayed" not in first.headers
    assert again.headers["idempotent-replayed"] == "true"
    assert await audits(probe, "probe.made", account) == 1


async def test_the_same_key_with_another_body_is_refused(
    probe: Running, issuer: TokenIssuer
) -> None:
    headers = issuer.of_account(new_id()) | {"Idempotency-Key": "k-2"}
    await probe.http.post("/v1/probes", json={"amount": 5}, headers=headers)

    other = await probe.http.post("/v1/probes", json={"amount": 6}, headers=headers)

    assert other.status_code == 422
    assert problem_of(other)["code"] == "idempotency-key-reused"


async def test_a_key_belongs_to_its_caller(probe: Running, issuer: TokenIssuer) -> None:
    key = {"Idempotency-Key": "k-shared"}

    mine = await probe.http.post(
        "/v1/probes", json={"amount": 5}, headers=issuer.of_account(new_id()) | key
    )
    theirs = await probe.http.post(
        "/v1/probes", json={"amount": 5}, headers=issuer.of_account(new_id()) | key
    )

    assert mine.json()["id"] != theirs.json()["id"]


async def test_while_the_first_runs_a_second_is_a_conflict(
    probe: Running, issuer: TokenIssuer
) -> None:
    account = new_id()
    headers = issuer.of_account(account) | {"Idempotency-Key": "k-3"}
    gates["k-3"] = asyncio.Event()
    entered.clear()
    body = {"amount": 5, "wait_for": "k-3"}
    first = asyncio.create_task(probe.http.post("/v1/probes", json=body, headers=headers))
    await entered.wait()

    second = await probe.http.post("/v1/probes", json=body, headers=headers)
    gates["k-3"].set()

    assert second.status_code == 409
    assert problem_of(second)["code"] == "idempotency-key-in-progress"
    assert (await first).status_code == 201
    assert await audits(probe, "probe.made", account) == 1


async def test_a_refusal_is_not_remembered(probe: Running, issuer: TokenIssuer) -> None:
    headers = issuer.of_account(new_id()) | {"Idempotency-Key": "k-4"}

    refused = await probe.http.post("/v1/probes", json={"amount": 101}, headers=headers)
    mended = await probe.http.post("/v1/probes", json={"amount": 100}, headers=headers)

    assert problem_of(refused)["code"] == "full"
    assert mended.status_code == 201


async def test_a_key_is_forgotten_after_a_day(probe: Running, issuer: TokenIssuer) -> None:
    headers = issuer.of_account(new_id()) | {"Idempotency-Key": "k-old"}
    first = await probe.http.post("/v1/probes", json={"amount": 5}, headers=headers)
    keys = probe.runtime.database.platform.idempotency_keys
    async with probe.runtime.begin() as uow:
        await uow.session.execute(
            update(keys)
            .where(keys.c.key == "k-old")
            .values(created_at=func.now() - func.make_interval(0, 0, 0, 2))
        )

    anew = await probe.http.post("/v1/probes", json={"amount": 6}, headers=headers)

    assert anew.status_code == 201
    assert anew.json()["id"] != first.json()["id"]


async def test_money_needs_a_key(probe: Running, issuer: TokenIssuer) -> None:
    answer = await probe.http.post(
        "/v1/probes", json={"amount": 5}, headers=issuer.of_account(new_id())
    )

    assert answer.status_code == 400
    assert problem_of(answer)["code"] == "idempotency-key-missing"


async def test_without_a_token_nobody_is_known(probe: Running) -> None:
    for headers in ({}, {"Authorization": "Bearer nonsense"}, {"Authorization": "Basic eDp5"}):
        answer = await probe.http.post("/v1/probes", json={"amount": 5}, headers=headers)

        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == "Bearer"
        assert problem_of(answer)["code"] == "unauthenticated"


async def test_an_unknown_field_is_named(probe: Running, issuer: TokenIssuer) -> None:
    answer = await probe.http.post(
        "/v1/probes",
        json={"amount": "x", "amuont": 5},
        headers=issuer.of_account(new_id()) | {"Idempotency-Key": "k-5"},
    )

    assert answer.status_code == 422
    document = problem_of(answer)
    assert {fault["field"] for fault in document["errors"]} == {"amount", "amuont"}


async def test_what_is_not_there_is_a_problem_too(probe: Running) -> None:
    assert problem_of(await probe.http.get("/v1/nowhere"))["status"] == 404
    assert problem_of(await probe.http.delete("/v1/probes"))["status"] == 405


async def test_a_caller_with_the_version_gets_no_body(probe: Running, issuer: TokenIssuer) -> None:
    headers = issuer.of_account(new_id())
    answer = await probe.http.get(f"/v1/probes/{new_id()}", headers=headers)

    again = await probe.http.get(
        f"/v1/probes/{new_id()}", headers=headers | {"If-None-Match": answer.headers["etag"]}
    )

    assert answer.headers["etag"] == '"3"'
    assert (again.status_code, again.content) == (304, b"")


@pytest.mark.parametrize(
    ("if_match", "status"), [('"3"', 200), ("*", 200), ('W/"3"', 200), ('"2"', 412)]
)
async def test_a_stale_version_is_refused(
    probe: Running, issuer: TokenIssuer, if_match: str, status: int
) -> None:
    headers = issuer.of_account(new_id()) | {"If-Match": if_match}

    answer = await probe.http.patch(f"/v1/probes/{new_id()}", headers=headers)

    assert answer.status_code == status


async def test_a_fault_says_nothing_and_leaves_nothing(probe: Running, issuer: TokenIssuer) -> None:
    account = new_id()

    answer = await probe.http.post(
        f"/v1/probes/{new_id()}/break", headers=issuer.of_account(account)
    )

    assert answer.status_code == 500
    assert problem_of(answer)["code"] == "internal-error"
    assert "hunter2" not in answer.text
    assert await audits(probe, "probe.broken", account) == 0
    outbox = probe.runtime.database.platform.outbox
    async with probe.runtime.begin() as uow:
        rows = select(func.count()).where(outbox.c.account_id == account)
        assert await uow.session.scalar(rows) == 0


@pytest.mark.parametrize(
    ("sqlstate", "status", "code"),
    [
        ("22003", 422, "value-refused"),  # out of range
        ("22021", 422, "value-refused"),  # a character that cannot be stored
        ("23503", 422, "unknown-reference"),
        ("23514", 500, "internal-error"),  # a check that our own rules should have made
    ],
)
async def test_what_only_the_database_refused_is_told_apart_from_our_faults(
    probe: Running, issuer: TokenIssuer, sqlstate: str, status: int, code: str
) -> None:
    answer = await probe.http.get(
        f"/v1/probes/{new_id()}/refused",
        params={"sqlstate": sqlstate},
        headers=issuer.of_account(new_id()),
    )

    assert answer.status_code == status
    assert problem_of(answer)["code"] == code
    assert "hunter2" not in answer.text


async def test_a_request_keeps_its_id_and_its_trace(probe: Running) -> None:
    trace = "0af7651916cd43dd8448eb211c80319c"

    answer = await probe.http.get(
        "/health/live",
        headers={"X-Request-ID": "request-12345", "traceparent": f"00-{trace}-b7ad6b7169203331-01"},
    )

    assert answer.headers["x-request-id"] == "request-12345"
    _, found, span, _ = answer.headers["traceparent"].split("-")
    assert found == trace
    assert span != "b7ad6b7169203331"


@pytest.mark.parametrize("bad", ["x", "a b c d e f g h", "{}" * 10, "a" * 200])
async def test_a_request_id_of_a_strange_shape_is_replaced(probe: Running, bad: str) -> None:
    answer = await probe.http.get("/health/live", headers={"X-Request-ID": bad})

    assert UUID(answer.headers["x-request-id"])


async def test_only_staff_act_for_others(probe: Running, issuer: TokenIssuer) -> None:
    account = new_id()
    ask = {"Idempotency-Key": "k-6", "Perennial-Account": str(account)}

    refused = await probe.http.post(
        "/v1/probes", json={"amount": 5}, headers=issuer.of_account(new_id()) | ask
    )
    done = await probe.http.post("/v1/probes", json={"amount": 5}, headers=issuer.of_staff() | ask)

    assert refused.status_code == 403
    assert done.status_code == 201
    assert await audits(probe, "probe.made", account) == 1


async def test_too_many_requests_says_when_to_come_back(probe: Running) -> None:
    answer = await probe.http.get("/v1/probes")

    assert answer.status_code == 429
    assert answer.headers["retry-after"] == "7"


async def test_ready_names_each_dependency(probe: Running) -> None:
    answer = await probe.http.get("/health/ready")

    assert answer.status_code == 200
    assert answer.json() == {"status": "ready", "checks": {"postgres": "ok", "redis": "ok"}}


async def test_without_redis_a_service_is_degraded_and_without_postgres_unready(
    deployment: Deployment, probe: Running
) -> None:
    nowhere = Deployment(deployment.database_urls, deployment.broker_url, "redis://127.0.0.1:1/0")
    async with running(probe.service, nowhere, None, worker=False) as it:
        degraded = await it.http.get("/health/ready")
    lost = Deployment(
        {"auth": "postgresql://auth:x@127.0.0.1:1/none"},
        deployment.broker_url,
        deployment.redis_url,
    )
    async with running(probe.service, lost, None, worker=False) as it:
        unready = await it.http.get("/health/ready")

    assert (degraded.status_code, degraded.json()["status"]) == (200, "degraded")
    assert (unready.status_code, unready.json()["status"]) == (503, "unready")


BEGUN = datetime(2031, 5, 1, 12, tzinfo=UTC)
ARRIVED = BEGUN + timedelta(days=31)


def a_round(account: UUID, **more: Any) -> TestClockAdvanced:
    """A test clock that has begun to move by a month, unless said otherwise."""
    wanted = {"clock_id": new_id(), "revision": 2, "now": BEGUN, "target": ARRIVED, **more}
    return TestClockAdvanced(account_id=account, occurred_at=BEGUN, sequence=2, **wanted)


async def hear(
    probe: Running, event: TestClockAdvanced | TestClockDeleted, *, patience: str = "30s"
) -> None:
    async with probe.runtime.begin() as uow:
        await uow.session.execute(text(f"SET LOCAL lock_timeout = '{patience}'"))
        await record_clock(uow, event)


@pytest.fixture
async def on_its_way(probe: Running) -> AsyncIterator[TestClockAdvanced]:
    """The first round of an account's clock; its account is back in real time afterwards."""
    started = a_round(new_id())
    await hear(probe, started)
    yield started
    await hear(
        probe,
        TestClockDeleted(
            account_id=started.account_id,
            occurred_at=BEGUN,
            sequence=9,
            clock_id=started.clock_id,
            revision=9,
        ),
    )


async def test_while_the_test_clock_is_on_its_way_nothing_is_changed(
    probe: Running, issuer: TokenIssuer, on_its_way: TestClockAdvanced
) -> None:
    account = on_its_way.account_id
    mine = issuer.of_account(account)

    answer = await probe.http.post(
        "/v1/probes", json={"amount": 5}, headers=mine | {"Idempotency-Key": "k-7"}
    )
    seen = await probe.http.get(f"/v1/probes/{new_id()}/now", headers=mine)

    assert answer.status_code == 409
    problem = problem_of(answer)
    assert problem["code"] == "test-clock-busy"
    assert f"/v1/test-clocks/{on_its_way.clock_id}" in problem["detail"]
    assert await audits(probe, "probe.made", account) == 0
    assert datetime.fromisoformat(seen.json()["now"]) == BEGUN


async def test_staff_who_name_the_account_in_any_way_wait_too(
    probe: Running, issuer: TokenIssuer, on_its_way: TestClockAdvanced
) -> None:
    account = str(on_its_way.account_id)
    staff = issuer.of_staff()

    acting = await probe.http.post(
        f"/v1/probes/{new_id()}/now", headers=staff | {"Perennial-Account": account}
    )
    naming = await probe.http.post(
        "/v1/probes",
        json={"amount": 5, "about": account},
        headers=staff | {"Idempotency-Key": "k-8"},
    )
    elsewhere = await probe.http.post(
        "/v1/probes", json={"amount": 5}, headers=staff | {"Idempotency-Key": "k-9"}
    )

    assert problem_of(acting)["code"] == problem_of(naming)["code"] == "test-clock-busy"
    assert elsewhere.status_code == 201


async def test_what_was_answered_before_is_answered_again_while_the_clock_is_on_its_way(
    probe: Running, issuer: TokenIssuer
) -> None:
    account = new_id()
    headers = issuer.of_account(account, sub=str(new_id())) | {"Idempotency-Key": "k-10"}
    first = await probe.http.post("/v1/probes", json={"amount": 5}, headers=headers)
    await hear(probe, a_round(account))

    again = await probe.http.post("/v1/probes", json={"amount": 5}, headers=headers)

    assert (again.status_code, again.content) == (201, first.content)


@pytest.mark.parametrize(
    "there",
    [{"revision": 7, "now": ARRIVED}, {"revision": 7, "target": None}],
    ids=["arrived", "as the release before says it"],
)
async def test_at_rest_what_is_asked_for_happens_at_the_clocks_instant(
    probe: Running, issuer: TokenIssuer, on_its_way: TestClockAdvanced, there: dict[str, Any]
) -> None:
    rests = on_its_way.model_copy(update=there)
    await hear(probe, rests)

    answer = await probe.http.post(
        f"/v1/probes/{new_id()}/now", headers=issuer.of_account(rests.account_id)
    )

    assert answer.status_code == 200
    assert datetime.fromisoformat(answer.json()["now"]) == rests.now


@asynccontextmanager
async def a_request_in_hand(
    probe: Running, issuer: TokenIssuer, account: UUID, key: str
) -> AsyncIterator[None]:
    """Somebody's request, between its first look at the time and its commit."""
    gates[key] = asyncio.Event()
    entered.clear()
    asking = asyncio.create_task(
        probe.http.post(
            "/v1/probes",
            json={"amount": 5, "wait_for": key},
            headers=issuer.of_account(account) | {"Idempotency-Key": key},
        )
    )
    await entered.wait()
    yield
    gates[key].set()
    assert (await asking).status_code == 201


async def test_a_clock_does_not_set_out_while_something_is_asked_for_at_its_instant(
    probe: Running, issuer: TokenIssuer
) -> None:
    rests = a_round(new_id(), now=ARRIVED)
    await hear(probe, rests)
    sets_out = rests.model_copy(update={"revision": 3, "target": ARRIVED + timedelta(days=1)})

    async with a_request_in_hand(probe, issuer, rests.account_id, "k-11"):
        with pytest.raises(DBAPIError, match="lock timeout"):
            await hear(probe, sets_out, patience="100ms")

    await hear(probe, sets_out)


async def test_while_a_worker_does_what_is_due_nothing_else_is_changed(
    probe: Running, issuer: TokenIssuer
) -> None:
    """Before an account's first round is over its clock has nowhere to go, and yet it works."""
    created = a_round(new_id(), now=ARRIVED)
    await hear(probe, created)
    clocks = probe.runtime.database.platform.account_clocks
    async with probe.runtime.begin() as uow:
        await uow.session.execute(
            select(clocks).where(clocks.c.account_id == created.account_id).with_for_update()
        )

        answer = await probe.http.post(
            f"/v1/probes/{new_id()}/now", headers=issuer.of_account(created.account_id)
        )

    assert problem_of(answer)["code"] == "test-clock-busy"
