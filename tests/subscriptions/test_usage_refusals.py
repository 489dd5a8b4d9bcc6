"""Usage is taken where it can be billed, and refused with a reason where it cannot."""

from datetime import timedelta
from typing import Any
from uuid import UUID

import orjson
import pytest
from sqlalchemy import select

from services.subscriptions import tables
from shared.clock import utc_now
from shared.events.subscriptions import SubscriptionCanceled, SubscriptionUsageBilled
from shared.ids import new_id
from tests.eventlog import EventLog
from tests.harness import Running
from tests.subscriptions.conftest import Client, Customer, Shop, answered, until

HUGE = "999999999999999"


@pytest.fixture
async def meter(staff: Client) -> dict[str, Any]:
    made: dict[str, Any] = await staff.post("/v1/meters", code=f"calls-{new_id()}", name="Calls")
    return made


async def metered_price(shop: Shop, meter: dict[str, Any], **more: Any) -> dict[str, Any]:
    usual = {"type": "metered", "unit_amount": 10, "meter_id": meter["id"], "aggregation": "sum"}
    plan = more.pop("plan", None) or await shop.plan(self_service="all")
    return await shop.price(plan, **{**usual, **more})


async def one_since(
    customer: Customer, shop: Shop, price: dict[str, Any], ago: timedelta = timedelta(days=10)
) -> dict[str, Any]:
    """A subscription that began so long ago."""
    start = (utc_now() - ago).isoformat()
    made = await shop.staff.ask(
        "POST",
        "/v1/subscriptions",
        json={"price_id": price["id"], "start_at": start},
        headers={"Perennial-Account": str(customer.account_id)},
    )
    started: dict[str, Any] = answered(made)
    return started


async def send(customer: Customer, meter: dict[str, Any], ago: timedelta, **more: Any) -> Any:
    """The answer to an event that happened so long ago; its id is new."""
    at = (utc_now() - ago).isoformat()
    body = {"id": str(new_id()), "meter": meter["code"], "at": at, **more}
    answer = await customer.ask("POST", "/v1/usage-events", json=body)
    return answer.status_code, orjson.loads(answer.content)


async def refused(customer: Customer, meter: dict[str, Any], ago: timedelta, **more: Any) -> str:
    status, told = await send(customer, meter, ago, **more)
    assert status in {409, 422}
    return str(told["code"])


def days(number: float) -> timedelta:
    return timedelta(days=number)


async def windows_of(service: Running, subscription: dict[str, Any]) -> list[Any]:
    windows = tables.usage_windows
    async with service.runtime.begin() as uow:
        rows = await uow.session.execute(
            select(windows)
            .where(windows.c.subscription_id == UUID(subscription["id"]))
            .order_by(windows.c.window_start)
        )
        return list(rows)


async def test_usage_of_before_a_change_counts_by_the_price_that_was_held_then(
    customer: Customer, shop: Shop, meter: dict[str, Any], staff: Client, service: Running
) -> None:
    other = await staff.post("/v1/meters", code=f"other-{new_id()}", name="Other")
    old, new = await metered_price(shop, meter), await metered_price(shop, other, unit_amount=20)
    subscription = await one_since(customer, shop, old)
    await send(customer, meter, days(5), value=1)
    path = f"/v1/subscriptions/{subscription['id']}/change"
    await customer.post(path, price_id=new["id"], proration="prorate_now")

    status, told = await send(customer, meter, days(4), value=2)

    assert status == 201, told
    assert await refused(customer, other, days(4)) == "usage-not-counted"
    assert (await send(customer, other, -timedelta(seconds=5)))[0] == 201
    assert await refused(customer, meter, -timedelta(seconds=5)) == "usage-not-counted"
    (window,) = await windows_of(service, subscription)
    async with service.runtime.begin() as uow:
        buckets = tables.usage_buckets.c
        total = await uow.session.scalars(
            select(buckets.total).where(
                buckets.subscription_id == UUID(subscription["id"]),
                buckets.meter_id == UUID(meter["id"]),
                buckets.bucket_start >= window.window_start,
                buckets.bucket_start < window.window_end,
            )
        )
        assert sum(total) == 3


async def test_what_nothing_counts_is_refused_alone_and_in_a_batch(
    customer: Customer, shop: Shop, meter: dict[str, Any], staff: Client
) -> None:
    other = await staff.post("/v1/meters", code=f"other-{new_id()}", name="Other")
    await one_since(customer, shop, await metered_price(shop, meter))

    assert await refused(customer, other, days(1)) == "usage-not-counted"
    assert await refused(customer, meter, days(11)) == "usage-not-counted"
    assert await refused(customer, meter, days(60)) == "usage-too-late"
    told = await customer.post(
        "/v1/usage-events/batch",
        events=[{"id": "a", "meter": meter["code"]}, {"id": "b", "meter": other["code"]}],
    )
    assert [(one["status"], one["code"]) for one in told["data"]] == [
        ("recorded", None),
        ("refused", "usage-not-counted"),
    ]
    assert other["code"] in told["data"][1]["detail"]


async def test_a_meter_that_only_a_feature_counts_is_counted_for_its_limit(
    customer: Customer, shop: Shop, meter: dict[str, Any], staff: Client
) -> None:
    feature = f"calls-{new_id()}"
    await staff.post(
        "/v1/features", code=feature, name="Calls", type="metered", meter_id=meter["id"]
    )
    plan = await shop.plan(features=[{"feature": feature, "limit": 10}], self_service="all")
    other = await staff.post("/v1/meters", code=f"other-{new_id()}", name="Other")
    subscription = await one_since(customer, shop, await metered_price(shop, other, plan=plan))

    assert (await send(customer, meter, days(1), value=4))[0] == 201
    by_name = {"subscription_id": subscription["id"]}
    assert (await send(customer, meter, days(1), value=3, **by_name))[0] == 201

    async def used() -> Any:
        found = await customer.get(f"/v1/entitlements/{feature}")
        return found if found["used"] == "7" else None

    assert (await until(used))["remaining"] == "3"


async def test_an_add_on_counts_what_its_plan_does_not(
    customer: Customer, shop: Shop, meter: dict[str, Any], staff: Client
) -> None:
    other = await staff.post("/v1/meters", code=f"other-{new_id()}", name="Other")
    price = await metered_price(shop, meter)
    addon = await staff.post("/v1/addons", code=f"addon-{new_id()}", name="Extra")
    await staff.post(
        "/v1/prices",
        addon_id=addon["id"],
        currency="EUR",
        type="metered",
        interval="month",
        unit_amount=1,
        meter_id=other["id"],
        aggregation="count",
    )

    await customer.post(
        "/v1/subscriptions", price_id=price["id"], addons=[{"addon_id": addon["id"]}]
    )

    assert (await send(customer, other, timedelta(0)))[0] == 201


async def test_a_trial_takes_usage_and_never_bills_it(
    customer: Customer, shop: Shop, meter: dict[str, Any], service: Running, events: EventLog
) -> None:
    plan = await shop.plan(self_service="all", trial_days=14)
    price = await metered_price(shop, meter, plan=plan)
    subscription = await customer.post("/v1/subscriptions", price_id=price["id"])
    assert (await send(customer, meter, timedelta(0), value=HUGE))[0] == 201

    path = f"/v1/subscriptions/{subscription['id']}/cancel"
    await customer.post(path, at_period_end=False)

    canceled = await events.next(SubscriptionCanceled, about=UUID(subscription["id"]))
    assert canceled.charges == ()
    assert await windows_of(service, subscription) == []
    assert await refused(customer, meter, timedelta(0)) == "usage-has-no-subscription"


async def test_what_ended_takes_what_is_late_and_bills_it_when_the_grace_is_over(
    customer: Customer, shop: Shop, meter: dict[str, Any], service: Running, events: EventLog
) -> None:
    subscription = await one_since(customer, shop, await metered_price(shop, meter))
    about = UUID(subscription["id"])
    assert (await send(customer, meter, days(5), value=1))[0] == 201
    path = f"/v1/subscriptions/{subscription['id']}/cancel"
    await customer.post(path, at_period_end=False)

    status, late = await send(customer, meter, days(4), value=2, id="late")

    assert status == 201, late
    assert late["subscription_id"] == subscription["id"]
    assert await refused(customer, meter, -timedelta(minutes=2)) == "usage-has-no-subscription"
    (window,) = await windows_of(service, subscription)
    columns = tables.subscriptions.c
    async with service.runtime.begin() as uow:
        due = await uow.session.execute(
            select(columns.usage_due_at, columns.due_at).where(columns.id == about)
        )
    # Once more soon, for what was under way when it ended; at the latest when the grace is over.
    looks_at, due_at = due.one()
    assert looks_at == due_at < window.window_end + timedelta(hours=72)
    await end_grace(service, about)
    billed = await events.next(SubscriptionUsageBilled, about=about)
    assert [charge.amount for charge in billed.charges] == [20]


async def end_grace(service: Running, subscription_id: UUID) -> None:
    async with service.runtime.begin() as uow:
        subscription = await uow.subscriptions.get(subscription_id)
        subscription.usage_due_at = subscription.due_at = utc_now()
        uow.wake("advance_due_subscriptions")


async def test_an_event_is_taken_back_for_as_long_as_its_window_takes_usage(
    customer: Customer, shop: Shop, meter: dict[str, Any], service: Running, events: EventLog
) -> None:
    subscription = await one_since(customer, shop, await metered_price(shop, meter))
    about = UUID(subscription["id"])
    for name in ("one", "two"):
        assert (await send(customer, meter, days(5), value=3, id=name))[0] == 201
    path = f"/v1/subscriptions/{subscription['id']}/cancel"
    await customer.post(path, at_period_end=False)

    answered(await customer.ask("DELETE", "/v1/usage-events/one"))
    await end_grace(service, about)

    billed = await events.next(SubscriptionUsageBilled, about=about)
    assert [charge.amount for charge in billed.charges] == [30]
    assert len(billed.take_backs) == 1
    async with service.runtime.begin() as uow:
        windows = tables.usage_windows
        await uow.session.execute(
            windows.update()
            .where(windows.c.subscription_id == about)
            .values(window_end=utc_now() - days(4))
        )
    for name in ("one", "one"):  # what is gone stays gone, whenever that is asked
        assert (await customer.ask("DELETE", f"/v1/usage-events/{name}")).status_code == 200
    too_late = await customer.ask("DELETE", "/v1/usage-events/two")
    assert (too_late.status_code, too_late.json()["code"]) == (409, "usage-too-late")


async def test_what_could_not_be_billed_is_refused_and_stops_nothing(
    customer: Customer, shop: Shop, meter: dict[str, Any], events: EventLog
) -> None:
    price = await metered_price(shop, meter, unit_amount=1000)
    subscription = await one_since(customer, shop, price)
    for _ in range(10):
        assert await refused(customer, meter, days(1), value=HUGE) == "amount-too-large"
    most = 10**12  # at 10.00 exactly the largest amount
    assert (await send(customer, meter, days(1), value=most - 1, id="most"))[0] == 201
    batch = [
        {"id": "most", "meter": meter["code"], "value": most},
        {"id": "dear", "meter": meter["code"], "value": 10**6},
        {"id": "last", "meter": meter["code"], "value": 1},
    ]
    told = await customer.post("/v1/usage-events/batch", events=batch)
    assert [(one["status"], one["code"]) for one in told["data"]] == [
        ("duplicate", None),
        ("refused", "amount-too-large"),
        ("recorded", None),
    ]

    path = f"/v1/subscriptions/{subscription['id']}/cancel"
    await customer.post(path, at_period_end=False)

    canceled = await events.next(SubscriptionCanceled, about=UUID(subscription["id"]))
    assert [charge.amount for charge in canceled.charges] == [10**15]


async def test_a_correction_is_not_taken_back_where_the_rest_costs_too_much(
    customer: Customer, shop: Shop, meter: dict[str, Any]
) -> None:
    await one_since(customer, shop, await metered_price(shop, meter, unit_amount=1000))
    for name, value in (("more", 9 * 10**11), ("less", -(9 * 10**11)), ("again", 9 * 10**11)):
        assert (await send(customer, meter, days(1), value=value, id=name))[0] == 201

    answer = await customer.ask("DELETE", "/v1/usage-events/less")

    assert (answer.status_code, answer.json()["code"]) == (422, "amount-too-large")
    found = await customer.get("/v1/usage")
    assert [row["sum"] for row in found["data"]] == [str(9 * 10**11)]


async def test_a_unique_count_of_nobody_is_refused(
    customer: Customer, shop: Shop, meter: dict[str, Any]
) -> None:
    await one_since(customer, shop, await metered_price(shop, meter, aggregation="unique"))

    assert await refused(customer, meter, days(1)) == "usage-value-invalid"
    assert (await send(customer, meter, days(1), member="ann"))[0] == 201


async def test_a_bucket_that_was_emptied_counts_what_comes_after(
    customer: Customer, shop: Shop, meter: dict[str, Any], events: EventLog
) -> None:
    price = await metered_price(shop, meter, aggregation="latest")
    subscription = await one_since(customer, shop, price)
    at = (utc_now() - days(1)).isoformat()
    for name in ("gone", "stays"):
        await customer.post("/v1/usage-events", id=name, meter=meter["code"], value=7, at=at)
        if name == "gone":
            answered(await customer.ask("DELETE", "/v1/usage-events/gone"))

    path = f"/v1/subscriptions/{subscription['id']}/cancel"
    await customer.post(path, at_period_end=False)

    canceled = await events.next(SubscriptionCanceled, about=UUID(subscription["id"]))
    assert [charge.amount for charge in canceled.charges] == [70]


@pytest.mark.parametrize("text", ["\\ud800", "\\u0000", "x\\udfffy"])
@pytest.mark.parametrize("name", ["id", "member", "meter", "\\ud800"])
async def test_text_that_cannot_be_stored_is_refused(
    customer: Customer, text: str, name: str
) -> None:
    event = f'{{"id": "a", "meter": "calls", "{name}": "{text}"}}'.encode()
    for path, body in (
        ("/v1/usage-events", event),
        ("/v1/usage-events/batch", b'{"events": [' + event + b"]}"),
    ):
        answer = await customer.ask(
            "POST", path, content=body, headers={"Content-Type": "application/json"}
        )
        assert (answer.status_code, answer.json()["code"]) == (422, "validation-failed")


async def test_no_path_or_question_holds_what_cannot_be_stored(customer: Customer) -> None:
    assert (await customer.ask("DELETE", "/v1/usage-events/a%00b")).status_code == 422
    assert (await customer.ask("DELETE", "/v1/usage-events/%ED%A0%80")).status_code in {404, 422}
    for path in ("/v1/usage-events?meter=%00", "/v1/usage?meter=%00"):
        assert (await customer.ask("GET", path)).status_code == 422


@pytest.mark.parametrize("value", ["NaN", "Infinity", "1e40", "1e-10", "1" * 30])
async def test_a_value_is_a_number_that_fits(customer: Customer, value: str) -> None:
    body = {"id": "a", "meter": "calls", "value": value}
    assert await customer.refused("/v1/usage-events", **body) == (422, "validation-failed")


async def test_an_instant_outside_of_all_years_is_refused(customer: Customer) -> None:
    body = {"id": "a", "meter": "calls", "at": "0001-01-01T00:00:00+14:00"}
    assert await customer.refused("/v1/usage-events", **body) == (422, "validation-failed")
