"""Simulated time over all four services: what is due happens, in order, and nothing is left."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import timedelta
from typing import Any

import pytest

from shared.events.invoicing import InvoicePaid
from shared.events.subscriptions import SubscriptionRenewed
from shared.ids import new_id
from tests.conftest import service_named
from tests.eventlog import EventLog
from tests.harness import Deployment, running
from tests.subscriptions.conftest import Client, Customer, Shop, until
from tests.subscriptions.factories import at
from tests.tokens import TokenIssuer

pytestmark = pytest.mark.servers


@pytest.fixture(scope="module")
async def others(deployment: Deployment, issuer: TokenIssuer) -> AsyncIterator[None]:
    """The other three services, which report their part of each round."""
    async with AsyncExitStack() as stack:
        for name in ("auth", "invoicing", "payments"):
            await stack.enter_async_context(running(service_named(name), deployment, issuer))
        yield


@pytest.fixture
async def frozen(others: None, customer: Customer, staff: Client) -> dict[str, Any]:
    """A test clock of the customer's account at the last day of January."""
    del others
    clock: dict[str, Any] = await staff.post(
        "/v1/test-clocks", account_id=str(customer.account_id), now="2024-01-31T12:00:00Z"
    )
    return clock


async def advance(staff: Client, clock: dict[str, Any], to: str) -> dict[str, Any]:
    await staff.post(f"/v1/test-clocks/{clock['id']}/advance", to=to)

    async def ready() -> Any:
        found = await staff.get(f"/v1/test-clocks/{clock['id']}")
        return found if found["status"] == "ready" else None

    found: dict[str, Any] = await until(ready, within=60)
    return found


async def test_a_year_of_free_renewals_happens_in_order(
    frozen: dict[str, Any], customer: Customer, staff: Client, shop: Shop, events: EventLog
) -> None:
    assert frozen["status"] == "ready"
    price = await shop.price(unit_amount=0)
    subscription = await customer.post("/v1/subscriptions", price_id=price["id"])

    clock = await advance(staff, frozen, "2025-01-31T12:00:01Z")

    assert clock["now"] == "2025-01-31T12:00:01Z"
    renewals = events.all(SubscriptionRenewed, about=customer.account_id)
    assert [f"{event.period_start:%m-%d}" for event in renewals] == [
        *("02-29", "03-31", "04-30", "05-31", "06-30", "07-31"),
        *("08-31", "09-30", "10-31", "11-30", "12-31", "01-31"),
    ]
    assert [event.occurred_at for event in renewals] == [event.period_start for event in renewals]
    assert all(event.occurred_at == event.period_start for event in renewals)
    paid = events.all(InvoicePaid, about=customer.account_id)
    assert len(paid) == 13
    found = await customer.get(f"/v1/subscriptions/{subscription['id']}")
    assert found["status"] == "active"
    timeline = await customer.get(f"/v1/subscriptions/{subscription['id']}/timeline", limit=200)
    names = [entry["name"] for entry in timeline["data"]]
    assert names[:4] == [
        "subscription.started",
        "invoice.finalized",
        "invoice.paid",
        "subscription.activated",
    ]


async def test_a_clock_only_moves_forward_and_one_account_has_one(
    frozen: dict[str, Any], customer: Customer, staff: Client
) -> None:
    path = f"/v1/test-clocks/{frozen['id']}/advance"
    assert await staff.refused(path, to="2024-01-30T00:00:00Z") == (422, "test-clock-invalid")
    assert await staff.refused(path, to="2034-01-30T00:00:00Z") == (422, "test-clock-invalid")
    account = str(customer.account_id)
    assert await staff.refused(
        "/v1/test-clocks", account_id=account, now="2024-01-31T12:00:00Z"
    ) == (409, "test-clock-exists")
    assert await customer.refused(path, to="2024-03-01T00:00:00Z") == (403, "forbidden")
    assert (
        await staff.refused(f"/v1/test-clocks/{new_id()}/advance", to="2024-03-01T00:00:00Z")
    ) == (404, "test-clock-not-found")


async def test_a_first_payment_that_never_comes_expires_in_simulated_time(
    frozen: dict[str, Any], customer: Customer, staff: Client, shop: Shop
) -> None:
    price = await shop.price()
    subscription = await customer.post("/v1/subscriptions", price_id=price["id"])
    assert subscription["created_at"] == "2024-01-31T12:00:00Z"

    await advance(staff, frozen, (at(2024, 1, 31, 12) + timedelta(hours=24)).isoformat())

    found = await customer.get(f"/v1/subscriptions/{subscription['id']}")
    assert found["status"] == "incomplete_expired"


async def test_tokens_that_cost_nothing_are_invoiced_and_granted_and_expire_on_time(
    frozen: dict[str, Any], customer: Customer, staff: Client
) -> None:
    bundle = await staff.post(
        "/v1/bundles",
        code=f"b-{new_id()}",
        name="Gift",
        tokens=10,
        amount=0,
        currency="EUR",
        expires_after_days=5,
    )
    await customer.post("/v1/token-balance/purchase", bundle_id=bundle["id"])

    await advance(staff, frozen, "2024-02-02T12:00:00Z")
    assert (await customer.get("/v1/token-balance"))["balance"] == 10
    await advance(staff, frozen, "2024-02-06T12:00:00Z")
    assert (await customer.get("/v1/token-balance"))["balance"] == 0
    entries = (await customer.get("/v1/token-balance/entries"))["data"]
    assert entries[0]["kind"] == "expiry"
    assert entries[0]["created_at"] == "2024-02-05T12:00:00Z"
