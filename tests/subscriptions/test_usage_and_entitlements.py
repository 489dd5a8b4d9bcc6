"""Usage counts once and is billed where it happened; entitlements say what is left of it."""

from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import delete, select

from services.subscriptions import tables
from services.subscriptions.entitlement_cache import EntitlementCache, cache_of
from shared.clock import utc_now
from shared.events.subscriptions import (
    SubscriptionCanceled,
    SubscriptionRenewed,
    UsageThresholdReached,
)
from shared.ids import new_id
from shared.locks import connect
from tests.eventlog import EventLog
from tests.harness import Running
from tests.subscriptions.conftest import Client, Customer, Shop, answered, until
from tests.subscriptions.test_subscriptions import make_due


@pytest.fixture
async def meter(staff: Client) -> dict[str, Any]:
    made: dict[str, Any] = await staff.post("/v1/meters", code=f"calls-{new_id()}", name="Calls")
    return made


async def a_metered_one(
    customer: Customer, shop: Shop, meter: dict[str, Any], **more: Any
) -> dict[str, Any]:
    price = await shop.price(
        more.pop("plan", None) or await shop.plan(self_service="all"),
        **{
            "type": "metered",
            "unit_amount": 10,
            "meter_id": meter["id"],
            "aggregation": "sum",
            **more,
        },
    )
    started: dict[str, Any] = await customer.post("/v1/subscriptions", price_id=price["id"])
    assert started["status"] == "active"  # nothing is owed ahead
    return started


async def end_period(service: Running, subscription: dict[str, Any], start: datetime) -> None:
    """Let the running period have begun at `start` and end now."""
    await make_due(
        service,
        subscription,
        anchor=start,
        period_start=start,
        basis_start=start,
        period_end=utc_now(),
        due_at=utc_now(),
    )


async def test_the_same_event_counts_once_and_answers_as_the_first_time_did(
    customer: Customer, shop: Shop, meter: dict[str, Any]
) -> None:
    await a_metered_one(customer, shop, meter)
    first = await customer.post("/v1/usage-events", id="a", meter=meter["code"], value="2.5")
    again = await customer.post("/v1/usage-events", id="a", meter=meter["code"], value="99")

    assert first == again
    assert first["value"] == "2.5"


async def test_a_batch_tells_for_each_event_what_became_of_it(
    customer: Customer, shop: Shop, meter: dict[str, Any], service: Running
) -> None:
    subscription = await a_metered_one(customer, shop, meter)
    code = meter["code"]
    late = (utc_now() - timedelta(days=90)).isoformat()
    early = (utc_now() + timedelta(days=1)).isoformat()
    events: list[dict[str, Any]] = [{"id": f"b{n}", "meter": code} for n in range(996)]
    events += [
        {"id": "b0", "meter": code},
        {"id": "unknown", "meter": "nothing"},
        {"id": "late", "meter": code, "at": late},
        {"id": "early", "meter": code, "at": early},
    ]

    answer = await customer.post("/v1/usage-events/batch", events=events)

    assert (answer["recorded"], answer["duplicates"], answer["refused"]) == (996, 1, 3)
    assert [one["code"] for one in answer["data"] if one["status"] == "refused"] == [
        "meter-not-found",
        "usage-too-late",
        "usage-in-the-future",
    ]
    repeated = await customer.post("/v1/usage-events/batch", events=events[:996])
    assert repeated["duplicates"] == 996
    async with service.runtime.begin() as uow:
        buckets = tables.usage_buckets.c
        counted = await uow.session.scalars(
            select(buckets.count).where(buckets.subscription_id == UUID(subscription["id"]))
        )
        assert sum(counted) == 996


async def test_too_many_at_once_are_refused(customer: Customer) -> None:
    events = [{"id": str(n), "meter": "m"} for n in range(1001)]
    assert await customer.refused("/v1/usage-events/batch", events=events) == (
        422,
        "validation-failed",
    )


async def test_a_period_bills_its_usage_and_late_usage_is_billed_as_the_difference(
    customer: Customer, shop: Shop, meter: dict[str, Any], service: Running, events: EventLog
) -> None:
    subscription = await a_metered_one(customer, shop, meter, interval="day")
    about = UUID(subscription["id"])
    start = utc_now().replace(microsecond=0) - timedelta(days=1)
    await make_due(service, subscription, anchor=start, period_start=start, basis_start=start)
    hours_ago = (utc_now() - timedelta(hours=5)).isoformat()
    await customer.post("/v1/usage-events", id="1", meter=meter["code"], value=30, at=hours_ago)
    await end_period(service, subscription, start)

    first = await events.next(SubscriptionRenewed, about=about)
    assert [(charge.kind, charge.amount) for charge in first.charges] == [("usage", 300)]
    assert first.charges[0].why["quantity"] == "30"
    late = await customer.ask(
        "POST",
        "/v1/usage-events",
        json={"id": "2", "meter": meter["code"], "value": 5, "at": hours_ago},
    )
    assert late.status_code == 201, late.text
    again = first.period_start
    await make_due(
        service,
        subscription,
        period_end=again + timedelta(seconds=1),
        due_at=again + timedelta(seconds=1),
        anchor=again,
        period_index=0,
    )

    async def second() -> Any:
        found = events.all(SubscriptionRenewed, about=about)
        return found[1] if len(found) > 1 else None

    billed = await until(second)
    assert [charge.amount for charge in billed.charges] == [50]
    assert "late" in billed.charges[0].description


@pytest.mark.parametrize(
    ("aggregation", "amount"),
    [("sum", 60), ("count", 30), ("max", 30), ("latest", 20), ("unique", 20)],
)
async def test_every_aggregation_is_billed_when_it_ends(
    customer: Customer,
    shop: Shop,
    meter: dict[str, Any],
    events: EventLog,
    *,
    aggregation: str,
    amount: int,
) -> None:
    subscription = await a_metered_one(customer, shop, meter, aggregation=aggregation)
    for number, value, member in ((1, 1, "ann"), (2, 3, "bob"), (3, 2, "ann")):
        await customer.post(
            "/v1/usage-events", id=str(number), meter=meter["code"], value=value, member=member
        )
    await make_later(customer)

    await customer.post(f"/v1/subscriptions/{subscription['id']}/cancel", at_period_end=False)

    canceled = await events.next(SubscriptionCanceled, about=UUID(subscription["id"]))
    assert [charge.amount for charge in canceled.charges] == [amount]


async def make_later(customer: Customer) -> None:
    """The window of usage ends with a whole second: let one pass."""
    started = utc_now().replace(microsecond=0)

    async def passed() -> Any:
        await customer.get("/v1/subscriptions")
        return utc_now().replace(microsecond=0) > started

    await until(passed)


async def test_a_voided_event_counts_no_more(
    customer: Customer, shop: Shop, meter: dict[str, Any], events: EventLog
) -> None:
    subscription = await a_metered_one(customer, shop, meter)
    for number in (1, 2):
        await customer.post("/v1/usage-events", id=str(number), meter=meter["code"], value=7)
    voided = answered(await customer.ask("DELETE", "/v1/usage-events/1"))
    assert voided["voided"]
    assert (await customer.ask("DELETE", "/v1/usage-events/9")).status_code == 404
    await make_later(customer)

    await customer.post(f"/v1/subscriptions/{subscription['id']}/cancel", at_period_end=False)

    canceled = await events.next(SubscriptionCanceled, about=UUID(subscription["id"]))
    assert [charge.amount for charge in canceled.charges] == [70]


async def test_a_question_reads_hours_and_not_events(
    customer: Customer, shop: Shop, meter: dict[str, Any], service: Running, events: EventLog
) -> None:
    subscription = await a_metered_one(customer, shop, meter)
    batch = [{"id": f"{n}", "meter": meter["code"], "value": 2} for n in range(50)]
    await customer.post("/v1/usage-events/batch", events=batch)
    # Without the events themselves nothing is missing from the sums.
    async with service.runtime.begin() as uow:
        stored = tables.usage_events
        await uow.session.execute(
            delete(stored).where(stored.c.subscription_id == UUID(subscription["id"]))
        )
    await make_later(customer)

    await customer.post(f"/v1/subscriptions/{subscription['id']}/cancel", at_period_end=False)

    canceled = await events.next(SubscriptionCanceled, about=UUID(subscription["id"]))
    assert [charge.amount for charge in canceled.charges] == [1000]


async def test_entitlements_follow_plan_add_ons_and_usage_and_thresholds_are_told_once(
    customer: Customer,
    shop: Shop,
    staff: Client,
    meter: dict[str, Any],
    events: EventLog,
) -> None:
    sso, seats, calls = f"sso-{new_id()}", f"seats-{new_id()}", f"calls-{new_id()}"
    await staff.post("/v1/features", code=sso, name="SSO", type="boolean")
    await staff.post("/v1/features", code=seats, name="Seats", type="limit")
    await staff.post("/v1/features", code=calls, name="Calls", type="metered", meter_id=meter["id"])
    plan = await shop.plan(
        features=[{"feature": seats, "limit": 5}, {"feature": calls, "limit": 100}]
    )
    before = await customer.get(f"/v1/entitlements/{seats}")
    assert before["allowed"] is False
    await a_metered_one(customer, shop, meter, plan=plan)

    async def entitled() -> Any:
        found = {e["feature"]: e for e in (await customer.get("/v1/entitlements"))["data"]}
        return found if seats in found else None

    found = await until(entitled)
    assert found[seats]["limit"] == 5
    assert found[calls] == {
        "feature": calls,
        "allowed": True,
        "limit": 100,
        "used": "0",
        "remaining": "100",
    }
    assert (await customer.get(f"/v1/entitlements/{sso}"))["allowed"] is False
    for number, value in enumerate((79, 1, 30)):
        await customer.post("/v1/usage-events", id=str(number), meter=meter["code"], value=value)

    async def used_up() -> Any:
        found = await customer.get(f"/v1/entitlements/{calls}")
        return found if found["allowed"] is False else None

    assert (await until(used_up))["remaining"] == "0"

    async def told() -> Any:
        alerts = events.all(UsageThresholdReached, about=customer.account_id)
        return alerts if len(alerts) >= 2 else None

    assert sorted((alert.percent, alert.used) for alert in await until(told)) == [
        (80, "80"),
        (100, "110"),
    ]


async def test_staff_see_and_clear_the_cache(
    customer: Customer, staff: Client, service: Running
) -> None:
    await customer.get("/v1/entitlements")
    hits = cache_of(service.runtime.own).counts["hit"]
    await customer.get("/v1/entitlements")

    seen = await staff.get("/v1/ops/subscriptions/cache")
    assert seen["hits"] == hits + 1
    assert seen["keys"]["entitlements"] >= 1
    dropped = await staff.post("/v1/ops/subscriptions/cache/invalidate", pattern="of:*")
    assert dropped["dropped"] >= 1
    assert await customer.refused("/v1/ops/subscriptions/cache/invalidate") == (403, "forbidden")


async def test_without_redis_entitlements_come_from_memory_for_a_moment() -> None:
    redis = connect("redis://127.0.0.1:1/0")
    cache = EntitlementCache(redis)
    account_id, calls = new_id(), 0

    async def refill() -> dict[str, Any]:
        nonlocal calls
        calls += 1
        return {"x": {"allowed": True}}

    for _ in range(3):
        assert await cache.get(account_id, refill) == {"x": {"allowed": True}}
    assert calls == 1
    assert cache.counts == {"hit": 0, "miss": 1, "memory": 2}
    await redis.aclose()


async def test_many_who_miss_at_once_wait_for_one_refill(service: Running) -> None:
    import asyncio  # noqa: PLC0415

    cache = EntitlementCache(service.runtime.redis)
    account_id, calls = new_id(), 0

    async def refill() -> dict[str, Any]:
        nonlocal calls
        calls += 1
        await asyncio.sleep(0.05)
        return {"n": calls}

    found = await asyncio.gather(*(cache.get(account_id, refill) for _ in range(50)))
    assert found == [{"n": 1}] * 50
    await cache.forget([account_id])
    assert await cache.get(account_id, refill) == {"n": 2}
