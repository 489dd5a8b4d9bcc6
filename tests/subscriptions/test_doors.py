"""What subscriptions lets nobody do: see drafts, pay with others' cards, wait for ever."""

from collections.abc import Awaitable, Callable
from uuid import uuid4

import pytest

from services.subscriptions.use_cases.know_account import know_payment_method
from shared.clock import utc_now
from shared.events.payments import PaymentMethodAttached, PaymentMethodDetached
from shared.ids import new_id
from tests.harness import Running
from tests.subscriptions.conftest import Client, Customer, Shop
from tests.tokens import TokenIssuer


async def test_a_draft_and_its_prices_are_shown_to_staff_alone(
    anybody: Client, customer: Customer, staff: Client, shop: Shop
) -> None:
    plan = await shop.plan()
    price = await staff.post(
        "/v1/prices",
        plan_id=plan["id"],
        currency="EUR",
        type="flat",
        interval="month",
        unit_amount=1,
    )
    paths = (f"/v1/plans/{plan['id']}", f"/v1/prices/{price['id']}")

    for path in paths:
        assert (await anybody.ask("GET", path)).status_code == 404
        assert (await customer.ask("GET", path)).status_code == 404
        assert (await staff.get(path))["id"] in {plan["id"], price["id"]}
    of_plan = {"plan_id": plan["id"]}
    assert (await anybody.get("/v1/prices", **of_plan))["data"] == []
    listed = await staff.get("/v1/prices", **of_plan)
    assert [one["id"] for one in listed["data"]] == [price["id"]]

    await staff.post(f"/v1/plans/{plan['id']}/publish")
    for path in paths:
        assert (await anybody.ask("GET", path)).status_code == 200


async def attach(service: Running, customer: Customer, *, detached: bool = False) -> str:
    method = new_id()
    facts = {
        "occurred_at": utc_now(),
        "account_id": customer.account_id,
        "payment_method_id": method,
    }
    attached = PaymentMethodAttached(**facts, sequence=1, provider="sandbox", is_default=True)
    async with service.runtime.begin() as uow:
        await know_payment_method(uow, attached)
    if detached:
        async with service.runtime.begin() as uow:
            await know_payment_method(uow, PaymentMethodDetached(**facts, sequence=2))
    return str(method)


@pytest.mark.parametrize("whose", ["another's", "detached", "nobody's"])
async def test_only_a_payment_method_of_the_account_is_taken(
    service: Running,
    customer: Customer,
    shop: Shop,
    new_customer: Callable[[], Awaitable[Customer]],
    whose: str,
) -> None:
    price = await shop.price()
    bundle = await shop.staff.post(
        "/v1/bundles", code=f"b-{new_id()}", name="B", tokens=5, amount=100, currency="EUR"
    )
    another = await new_customer()
    method = {
        "another's": await attach(service, another),
        "detached": await attach(service, customer, detached=True),
        "nobody's": str(uuid4()),
    }[whose]
    refusal = (422, "payment-method-unknown")

    start = await customer.refused(
        "/v1/subscriptions", price_id=price["id"], payment_method_id=method
    )
    purchase = await customer.refused(
        "/v1/token-balance/purchase", bundle_id=bundle["id"], payment_method_id=method
    )

    assert start == purchase == refusal


async def test_a_payment_method_of_the_account_is_taken_also_before_the_news_of_it(
    service: Running, customer: Customer, shop: Shop
) -> None:
    known = await attach(service, customer)
    for method in (known, str(new_id())):
        price = await shop.price()
        await customer.post("/v1/subscriptions", price_id=price["id"], payment_method_id=method)


async def test_an_account_that_nobody_knows_is_not_found_and_a_new_one_is_waited_for(
    staff: Client, shop: Shop
) -> None:
    price = await shop.price()
    clock = {"now": "2030-01-01T00:00:00Z"}

    unknown = await staff.refused("/v1/test-clocks", account_id=str(uuid4()), **clock)
    beyond = await staff.refused(
        "/v1/test-clocks", account_id="ffffffff-ffff-7fff-bfff-ffffffffffff", **clock
    )
    new = await staff.refused("/v1/test-clocks", account_id=str(new_id()), **clock)
    acting = await staff.ask(
        "POST",
        "/v1/subscriptions",
        json={"price_id": price["id"]},
        headers={"Perennial-Account": str(uuid4())},
    )

    assert unknown == beyond == (404, "account-not-found")
    assert new == (503, "account-not-ready")
    assert (acting.status_code, acting.json()["code"]) == unknown


async def test_staff_list_the_subscriptions_of_one_account(
    staff: Client, shop: Shop, new_customer: Callable[[], Awaitable[Customer]]
) -> None:
    price = await shop.price()
    mine, another = [await new_customer() for _ in range(2)]
    held = [
        (await one.post("/v1/subscriptions", price_id=price["id"]))["id"] for one in (mine, another)
    ]

    listed = await staff.get("/v1/subscriptions", account_id=str(mine.account_id))
    misspelled = await staff.ask("GET", "/v1/subscriptions", params={"account": mine.account_id})

    assert [one["id"] for one in listed["data"]] == held[:1]
    assert misspelled.status_code == 422
    assert "query.account" in misspelled.text


async def test_support_stops_a_subscription_and_gives_nothing_back(
    service: Running, issuer: TokenIssuer, customer: Customer, shop: Shop
) -> None:
    price = await shop.price(await shop.plan(trial_days=14))
    held = await customer.post("/v1/subscriptions", price_id=price["id"])
    path = f"/v1/subscriptions/{held['id']}"
    support = Client(service.http, issuer.of_staff("support"))
    finance = Client(service.http, issuer.of_staff("finance"))

    for back in ({"credit": True}, {"refund": True}):
        assert await support.refused(f"{path}/cancel", **back) == (403, "forbidden")
        assert await support.get(path) == held
    assert (await support.post(f"{path}/cancel"))["cancel_at_period_end"]
    assert not (await support.post(f"{path}/uncancel"))["cancel_at_period_end"]
    assert (await finance.post(f"{path}/cancel", credit=True))["cancel_at_period_end"]
