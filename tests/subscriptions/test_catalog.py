"""The catalog over HTTP: built, found by price, and replaced under those who hold it."""

import asyncio
from typing import Any
from uuid import UUID

from sqlalchemy import text

from services.subscriptions.seed import seed
from shared.ids import new_id
from tests.harness import Running
from tests.subscriptions.conftest import Client, Customer, Publish, Shop, until
from tests.subscriptions.test_subscriptions import an_active_one


async def test_anybody_reads_what_is_on_sale_and_only_staff_write(
    anybody: Client, customer: Customer, shop: Shop
) -> None:
    draft = await shop.plan()
    price = await shop.price()

    shown = await anybody.get("/v1/plans", limit=200)
    assert price["plan_id"] in {plan["id"] for plan in shown["data"]}
    assert draft["id"] not in {plan["id"] for plan in shown["data"]}
    plan = await anybody.get(f"/v1/plans/{price['plan_id']}")
    assert [p["id"] for p in plan["prices"]] == [price["id"]]
    assert await customer.refused("/v1/plans", code="x", name="X") == (403, "forbidden")
    assert await anybody.refused("/v1/plans", code="x", name="X") == (401, "unauthenticated")


async def test_an_unknown_field_is_refused(staff: Client) -> None:
    assert await staff.refused("/v1/plans", code="x", name="X", colour="red") == (
        422,
        "validation-failed",
    )


async def test_a_plan_needs_a_price_and_is_published_once(staff: Client, shop: Shop) -> None:
    plan = await shop.plan()
    path = f"/v1/plans/{plan['id']}"

    assert await staff.refused(f"{path}/publish") == (409, "plan-has-no-price")
    await shop.price(plan)
    assert await staff.refused(f"{path}/publish") == (409, "illegal-plan-transition")
    archived = await staff.post(f"{path}/archive")
    assert archived["status"] == "archived"
    assert await staff.refused("/v1/plans", code=plan["code"], name="X") == (409, "plan-code-taken")


async def test_a_new_price_is_a_new_version_and_those_who_have_the_old_one_keep_it(
    customer: Customer, shop: Shop, staff: Client, publish: Publish
) -> None:
    first = await shop.price(type="per_unit")
    subscription = await an_active_one(customer, publish, first)
    plan = await staff.get(f"/v1/plans/{first['plan_id']}")

    second = await shop.price(plan, type="per_unit", unit_amount=1500)

    assert (first["version"], second["version"]) == (1, 2)
    assert (await staff.get(f"/v1/prices/{first['id']}"))["active"] is False
    assert await customer.refused("/v1/subscriptions", price_id=first["id"]) == (
        409,
        "price-not-on-sale",
    )
    path = f"/v1/subscriptions/{subscription['id']}"
    more = await customer.post(f"{path}/change", quantity=3)
    assert more["price_id"] == first["id"]


async def test_a_price_of_its_own_is_seen_by_its_account_alone(
    customer: Customer, new_customer: Any, anybody: Client, shop: Shop, staff: Client
) -> None:
    public = await shop.price()
    plan = await staff.get(f"/v1/plans/{public['plan_id']}")
    own = await shop.price(plan, unit_amount=1, account_id=str(customer.account_id))
    other = await new_customer()

    async def seen(client: Client) -> set[str]:
        found = await client.get("/v1/prices", plan_id=plan["id"])
        return {price["id"] for price in found["data"]}

    assert await seen(customer) == {public["id"], own["id"]}
    assert await seen(other) == await seen(anybody) == {public["id"]}
    assert await other.refused("/v1/subscriptions", price_id=own["id"]) == (404, "price-not-found")


async def test_plans_are_found_by_what_they_cost(shop: Shop, anybody: Client) -> None:
    cheap, dear = await shop.plan(), await shop.plan()
    await shop.price(cheap, unit_amount=321_000_001, currency="JPY")
    await shop.price(dear, unit_amount=321_000_009, currency="JPY")

    async def found(**bounds: Any) -> list[str]:
        page = await anybody.get("/v1/plans", currency="JPY", interval="month", **bounds)
        return [plan["id"] for plan in page["data"]]

    assert await found(min_amount=321_000_000, max_amount=321_000_005) == [cheap["id"]]
    assert await found(min_amount=321_000_000) == [dear["id"], cheap["id"]]
    assert await found(min_amount=321_000_010) == []


async def test_a_range_of_prices_is_read_from_the_index(service: Running, shop: Shop) -> None:
    price = await shop.price()
    async with service.runtime.begin() as uow:
        await uow.session.execute(
            text(
                "INSERT INTO subscriptions.prices (id, plan_id, currency, type, interval_unit,"
                " interval_count, unit_amount, tiers, free_units, tax_behavior, tax_category,"
                " version, active, amount, created_at)"
                " SELECT gen_random_uuid(), plan_id, currency, type, interval_unit,"
                " interval_count, n, tiers, free_units, tax_behavior, tax_category,"
                " version, active, n, created_at"
                " FROM subscriptions.prices, generate_series(1000000, 1005000) n"
                " WHERE id = :id"
            ),
            {"id": UUID(price["id"])},
        )
        await uow.session.execute(text("ANALYZE subscriptions.prices"))
        plan = await uow.session.scalars(
            text(
                "EXPLAIN SELECT id FROM subscriptions.prices WHERE active AND account_id IS NULL"
                " AND currency = 'EUR' AND interval_unit = 'month'"
                " AND amount BETWEEN 1000100 AND 1000110"
            )
        )
        shown = "\n".join(plan)
        await uow.session.execute(
            text("DELETE FROM subscriptions.prices WHERE amount BETWEEN 1000000 AND 1005000")
        )
    assert "ix_prices_amount" in shown, shown


async def test_a_coupons_limit_holds_however_many_ask_at_once(
    new_customer: Any, shop: Shop, staff: Client
) -> None:
    price = await shop.price()
    code = f"C{new_id()}"
    await staff.post("/v1/coupons", code=code, name="Few", percent="50", max_redemptions=3)
    customers = [await new_customer() for _ in range(8)]

    answers = await asyncio.gather(
        *(
            one.ask("POST", "/v1/subscriptions", json={"price_id": price["id"], "coupon": code})
            for one in customers
        )
    )

    assert sorted(answer.status_code for answer in answers) == [201] * 3 + [409] * 5
    coupons = (await staff.get("/v1/coupons", limit=200))["data"]
    assert next(c for c in coupons if c["code"] == code)["redeemed"] == 3


async def test_add_ons_bring_their_price_with_them(
    customer: Customer, shop: Shop, staff: Client, publish: Publish
) -> None:
    addon = await staff.post("/v1/addons", code=f"a-{new_id()}", name="Backups")
    await staff.post(
        "/v1/prices",
        addon_id=addon["id"],
        currency="EUR",
        type="per_unit",
        interval="month",
        unit_amount=300,
    )
    price = await shop.price()
    subscription = await an_active_one(
        customer, publish, price, addons=[{"addon_id": addon["id"], "quantity": 2}]
    )

    assert [item["quantity"] for item in subscription["items"]] == [1, 2]
    preview = await customer.post(f"/v1/subscriptions/{subscription['id']}/preview")
    assert preview["next_invoice"]["subtotal"] == 1600
    gone = await customer.post(f"/v1/subscriptions/{subscription['id']}/change", addons=[])
    assert gone["scheduled_change"] is not None
    await staff.post(f"/v1/addons/{addon['id']}/archive")
    other = {"price_id": price["id"], "addons": [{"addon_id": addon["id"]}]}
    assert await customer.refused("/v1/subscriptions", **other) == (409, "not-on-sale")


async def test_a_trial_is_given_once_per_account_and_plan(customer: Customer, shop: Shop) -> None:
    plan = await shop.plan(trial_days=14)
    price = await shop.price(plan)

    first = await customer.post("/v1/subscriptions", price_id=price["id"])
    second = await customer.post("/v1/subscriptions", price_id=price["id"])

    assert first["status"] == "trialing"
    assert second["status"] == "incomplete"
    start = {"price_id": price["id"]}
    assert await customer.refused("/v1/subscriptions", **start, trial_days=14) == (
        409,
        "trial-used",
    )
    assert await customer.refused("/v1/subscriptions", **start, trial_days=15) == (
        422,
        "trial-too-long",
    )


async def test_a_trial_may_need_a_payment_method(customer: Customer, shop: Shop) -> None:
    plan = await shop.plan(trial_days=14, trial_requires_payment_method=True)
    price = await shop.price(plan)

    named = {"price_id": price["id"], "payment_method_id": str(new_id())}
    for body in ({"price_id": price["id"]}, named):
        assert await customer.refused("/v1/subscriptions", **body) == (409, "payment-method-needed")


async def test_all_subscribers_of_a_price_are_moved_with_preview_and_progress(
    new_customer: Any, shop: Shop, staff: Client, publish: Publish
) -> None:
    old = await shop.price()
    held = [await an_active_one(await new_customer(), publish, old) for _ in range(3)]
    plan = await staff.get(f"/v1/plans/{old['plan_id']}")
    new = await shop.price(plan, unit_amount=1200)
    body = {"from_price_id": old["id"], "to_price_id": new["id"]}

    preview = await staff.post("/v1/price-moves/preview", **body)
    assert (preview["subscriptions"], preview["before"], preview["after"]) == (3, 3000, 3600)
    move = await staff.post("/v1/price-moves", **body)

    async def done() -> Any:
        found = await staff.get(f"/v1/price-moves/{move['id']}")
        return found if found["status"] == "done" else None

    assert (await until(done))["moved"] == 3
    for one in held:
        found = await staff.get(f"/v1/subscriptions/{one['id']}")
        assert found["scheduled_change"]["price_id"] == new["id"]
    same = {"from_price_id": old["id"], "to_price_id": old["id"]}
    assert await staff.refused("/v1/price-moves", **same) == (409, "price-move-makes-no-sense")


async def test_the_seed_loads_a_catalog_once(service: Running, anybody: Client) -> None:
    assert await seed(service.runtime, []) == 0
    assert await seed(service.runtime, []) == 0

    plans = {plan["code"]: plan for plan in (await anybody.get("/v1/plans", limit=200))["data"]}
    assert {"starter", "team", "business", "pay-as-you-go", "platform"} <= plans.keys()
    assert len(plans["team"]["prices"]) == 6
    euros = [price for price in plans["platform"]["prices"] if price["currency"] == "EUR"]
    assert [(price["type"], price["component"]) for price in euros] == [
        ("flat", False),
        ("metered", True),
        ("metered", True),
    ]
    assert plans["pay-as-you-go"]["self_service"] == "all"
    assert plans["business"]["self_service"]["pause"] is False
