"""While an account's test clock is on its way, nobody changes the account: tried for every write.

The account is that of the demo's story, asked for through the gateway, as its owner and as staff.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Any

import asyncpg
import httpx
import pytest

from infra.environment import SERVICES
from tests.journeys.conftest import Surface
from tests.journeys.operations import Operation, operations
from tests.messaging.probe import eventually
from tests.whole_system import WholeSystem

pytestmark = [pytest.mark.servers, pytest.mark.timeout(300)]

#: Far enough for several renewals, each of which takes all services some rounds.
SPAN = timedelta(days=70)

#: What is about a person, about everybody or about the machinery: no account's clock holds it up.
OF_NO_ACCOUNT = (
    *(f"/v1/{area}" for area in ("auth", "me", "admin", "ops", "test-clocks", "webhooks")),
    *(f"/v1/{kind}" for kind in ("plans", "prices", "products", "addons", "bundles", "features")),
    *(f"/v1/{kind}" for kind in ("meters", "coupons", "promotion-codes", "price-moves")),
    *(f"/v1/{kind}" for kind in ("legal-entities", "tax-rates", "exchange-rates")),
)
#: A new line in one of these is a decision, as it is above.
NO_WRITES = {
    "POST /v1/subscriptions/{subscription_id}/preview",
    "POST /v1/invoices/preview",
}
OTHERWISE = {
    "POST /v1/accounts",  # an account of its own
    "POST /v1/customer-sessions",  # by a key: a token, which changes nothing of the account
    "PUT /v1/attachments/{attachment_id}/content",  # by a signed link, before it counts
}
#: What staff do about one account among the operations.
OF_ONE_ACCOUNT = {"POST /v1/ops/subscriptions/stuck/{subscription_id}/release"}


def writes() -> list[Operation]:
    """Every operation that changes something of one account."""
    return [
        operation
        for operation in operations()
        if str(operation) in OF_ONE_ACCOUNT
        or not (
            operation.method == "GET"
            or str(operation) in NO_WRITES | OTHERWISE
            or any(f"{operation.path}/".startswith(f"{path}/") for path in OF_NO_ACCOUNT)
        )
    ]


@asynccontextmanager
async def on_its_way(system: WholeSystem, surface: Surface) -> AsyncIterator[None]:
    """The story's clock moves, is known to do so everywhere, and stays under way in the block.

    Payments does its part of a round only once nobody else holds the account's row.
    """
    account, clock = surface.ids["account_id"], f"/v1/test-clocks/{surface.ids['clock_id']}"
    connection = await asyncpg.connect(system.system.plan.database_url)

    async def ask(method: str, path: str, **how: Any) -> Any:
        headers = {"Authorization": f"Bearer {surface.staff}"}
        answer = await asyncio.to_thread(surface.http.request, method, path, headers=headers, **how)
        assert answer.is_success, answer.text
        return answer.json()

    async def all_have_heard() -> bool:
        found = [
            await connection.fetchval(
                f"SELECT target FROM {service}.account_clocks WHERE account_id = $1",  # noqa: S608
                account,
            )
            for service in SERVICES
        ]
        return found == [to] * len(SERVICES)

    async def is_there() -> bool:
        return bool((await ask("GET", clock))["status"] == "ready")

    try:
        to = datetime.fromisoformat((await ask("GET", clock))["now"]) + SPAN
        moving = asyncio.create_task(ask("POST", f"{clock}/advance", json={"to": to.isoformat()}))
        await eventually(all_have_heard)
        async with connection.transaction():
            await connection.execute(
                "SELECT FROM payments.account_clocks WHERE account_id = $1 FOR UPDATE", account
            )
            assert not await is_there()
            yield
        await moving
        await eventually(is_there, within=120)
    finally:
        await connection.close()


async def ask_somehow(surface: Surface, operation: Operation) -> httpx.Response:
    """As the owner; what only staff may do as staff, who name the account where they have to."""
    answer = await asyncio.to_thread(surface.ask, operation, surface.owner)
    if answer.status_code == httpx.codes.FORBIDDEN:
        answer = await asyncio.to_thread(surface.ask, operation, surface.staff)
    if answer.status_code == httpx.codes.BAD_REQUEST:
        header = {"Perennial-Account": surface.ids["account_id"]}
        answer = await asyncio.to_thread(surface.ask, operation, surface.staff, **header)
    return answer


async def test_no_write_is_taken_and_every_read_is_answered(
    whole_system: WholeSystem, surface: Surface
) -> None:
    taken, missing = [], []
    async with on_its_way(whole_system, surface):
        for operation in writes():
            answer = await ask_somehow(surface, operation)
            if not (answer.is_error and answer.json()["code"] == "test-clock-busy"):
                taken.append(f"{operation}: {answer.status_code} {answer.text[:200]}")
        for operation in operations():
            if operation.method == "GET" and operation.needs_token:
                answer = await asyncio.to_thread(surface.ask, operation, surface.owner)
                if answer.is_server_error or answer.status_code == httpx.codes.CONFLICT:
                    missing.append(f"{operation}: {answer.status_code} {answer.text[:200]}")

    assert not taken, "\n".join(taken)
    assert not missing, "\n".join(missing)
    assert len(writes()) > 40
