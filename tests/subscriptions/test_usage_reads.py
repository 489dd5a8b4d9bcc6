"""Usage is read as it was accepted: events in pages, sums by any cut of the time."""

import random
from collections import defaultdict
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from services.subscriptions.domain.usage import hour_of
from shared.clock import utc_now
from shared.ids import new_id
from tests.harness import Running
from tests.subscriptions.conftest import Client, Customer, Shop, answered, until
from tests.tokens import TokenIssuer

HOUR = timedelta(hours=1)


@pytest.fixture
async def meter(staff: Client) -> dict[str, Any]:
    made: dict[str, Any] = await staff.post("/v1/meters", code=f"calls-{new_id()}", name="Calls")
    return made


async def a_metered_one(
    customer: Customer, shop: Shop, meter: dict[str, Any], *, start: datetime, **more: Any
) -> dict[str, Any]:
    """One that began at `start`, with the periods since then opened."""
    price = await shop.price(
        type="metered", unit_amount=1, meter_id=meter["id"], aggregation="sum", **more
    )
    body = {"price_id": price["id"], "start_at": start.isoformat()}
    for_them = {"Perennial-Account": str(customer.account_id)}
    started = answered(
        await shop.staff.ask("POST", "/v1/subscriptions", json=body, headers=for_them)
    )

    async def caught_up() -> Any:
        found = await customer.get(f"/v1/subscriptions/{started['id']}")
        return found if moment(found["current_period_end"]) > utc_now() else None

    found: dict[str, Any] = await until(caught_up)
    return found


def moment(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)


async def listed(customer: Customer, **filters: Any) -> list[dict[str, Any]]:
    """All pages."""
    found: list[dict[str, Any]] = []
    cursor = None
    while True:
        more: dict[str, str] = {"cursor": cursor} if cursor else {}
        page = await customer.get("/v1/usage-events", limit=7, **filters, **more)
        found += page["data"]
        cursor = page["next_cursor"]
        if cursor is None:
            return found


@pytest.mark.parametrize(
    ("seed", "zone"), [(1, "Europe/Berlin"), (2, "Asia/Kolkata"), (3, "America/St_Johns")]
)
async def test_sums_by_any_step_are_a_recount_of_the_events_that_were_accepted(
    new_customer: Callable[..., Any],
    shop: Shop,
    meter: dict[str, Any],
    seed: int,
    zone: str,
) -> None:
    rng = random.Random(seed)  # noqa: S311
    customer = await new_customer(time_zone=zone)
    # The first period ended some hours ago, so that it still takes what is late.
    ago = timedelta(days=7, hours=9, minutes=rng.randrange(60))
    start = utc_now().replace(microsecond=0) - ago
    subscription = await a_metered_one(customer, shop, meter, start=start, interval="week")
    turn = moment(subscription["current_period_start"])
    accepted = await random_usage(customer, meter, rng, start)
    counted = [event for event in accepted.values() if not event["voided"]]
    assert any(moment(event["at"]) < turn for event in counted)
    assert len(counted) < len(accepted)

    events = await listed(customer)
    assert events == sorted(accepted.values(), key=lambda e: (moment(e["at"]), e["id"]))[::-1]

    since = start - timedelta(days=1)
    cuts: dict[str, Callable[[datetime], datetime]] = {
        "none": lambda _: hour_of(since, zone),
        "period": lambda at: start if at < turn else turn,
        "hour": lambda at: hour_of(at, zone),
        "day": lambda at: (
            at.astimezone(ZoneInfo(zone)).replace(hour=0, minute=0, second=0, microsecond=0)
        ).astimezone(UTC),
    }
    for step, cut in cuts.items():
        told = await customer.get("/v1/usage", **{"by": step, "from": since.isoformat()})
        assert {moment(row["start"]): sums_of(row) for row in told["data"]} == recount(counted, cut)
    running = await customer.get("/v1/usage", meter=meter["code"])
    assert [sums_of(row) for row in running["data"]] == list(
        recount((e for e in counted if moment(e["at"]) >= turn), lambda _: turn).values()
    )


async def random_usage(
    customer: Customer, meter: dict[str, Any], rng: random.Random, start: datetime
) -> dict[str, dict[str, Any]]:
    """Some batches, with repeats, corrections and mistakes; what was accepted, by id."""
    accepted: dict[str, dict[str, Any]] = {}
    minutes = int((utc_now() - start).total_seconds()) // 60
    for batch in range(4):
        events = [
            {
                "id": f"{rng.randrange(120)}",
                "meter": meter["code"],
                "value": str(Decimal(rng.randrange(-300, 1000)) / 10),
                "member": rng.choice([None, "ann", "bob", "cid"]),
                "at": (start + timedelta(minutes=rng.randrange(-600, minutes))).isoformat(),
            }
            for _ in range(40)
        ]
        await customer.post("/v1/usage-events/batch", events=events)
        accepted = {event["id"]: event for event in await listed(customer)}
        if batch:
            for event_id in rng.sample(sorted(accepted), 5):
                accepted[event_id] = answered(
                    await customer.ask("DELETE", f"/v1/usage-events/{event_id}")
                )
    return accepted


def recount(
    events: Iterable[dict[str, Any]], cut: Callable[[datetime], datetime]
) -> dict[datetime, dict[str, Any]]:
    """The slow way: every event, one by one."""
    groups: dict[datetime, list[dict[str, Any]]] = defaultdict(list)
    for event in events:
        groups[cut(moment(event["at"]))].append(event)
    found = {}
    for start, group in groups.items():
        values = [Decimal(event["value"]) for event in group]
        latest = max(moment(event["at"]) for event in group)
        found[start] = {
            "sum": sum(values),
            "count": len(values),
            "max": max(values),
            # Of equal instants any may be the latest.
            "latest": {Decimal(e["value"]) for e in group if moment(e["at"]) == latest},
            "unique": len({event["member"] for event in group} - {None}),
        }
    return found


class AnyOf(set[Decimal]):
    """Equal to a set that holds its one value."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, set) and self <= other

    __hash__ = None


def sums_of(row: dict[str, Any]) -> dict[str, Any]:
    return {
        "sum": Decimal(row["sum"]),
        "count": row["count"],
        "max": Decimal(row["max"]),
        "latest": AnyOf({Decimal(row["latest"])}),
        "unique": row["unique"],
    }


async def test_events_are_narrowed_by_what_and_when(
    customer: Customer, shop: Shop, meter: dict[str, Any], staff: Client
) -> None:
    start = utc_now().replace(microsecond=0) - timedelta(days=3)
    subscription = await a_metered_one(customer, shop, meter, start=start)
    other = await staff.post("/v1/meters", code=f"other-{new_id()}", name="Other")
    for number in range(3):
        at = (start + timedelta(hours=number)).isoformat()
        await customer.post("/v1/usage-events", id=f"{number}", meter=meter["code"], at=at)

    async def ids(**filters: Any) -> list[str]:
        return [event["id"] for event in await listed(customer, **filters)]

    assert await ids() == ["2", "1", "0"]
    assert await ids(meter=meter["code"]) == ["2", "1", "0"]
    assert await ids(meter=other["code"]) == []
    assert await ids(subscription_id=subscription["id"]) == ["2", "1", "0"]
    assert await ids(subscription_id=str(new_id())) == []
    later = {"from": (start + HOUR).isoformat(), "to": (start + 2 * HOUR).isoformat()}
    assert await ids(**later) == ["1"]
    unknown = await customer.ask("GET", "/v1/usage-events", params={"meter": "nothing"})
    assert unknown.status_code == 404
    for cursor in ("x", "Zm9v", "AAAA"):
        answer = await customer.ask("GET", "/v1/usage-events", params={"cursor": cursor})
        assert answer.status_code == 422


async def test_nobody_sees_what_another_used(
    new_customer: Callable[..., Any], shop: Shop, meter: dict[str, Any], staff: Client
) -> None:
    one, other = await new_customer(), await new_customer()
    start = utc_now().replace(microsecond=0) - timedelta(days=1)
    subscription = await a_metered_one(one, shop, meter, start=start)
    await one.post("/v1/usage-events", id="mine", meter=meter["code"])

    assert await listed(other) == []
    assert (await other.get("/v1/usage", subscription_id=subscription["id"]))["data"] == []
    seen = await staff.ask("GET", "/v1/usage", headers={"Perennial-Account": str(one.account_id)})
    assert [row["count"] for row in answered(seen)["data"]] == [1]


async def test_a_key_needs_the_scope_that_reads_subscriptions(
    customer: Customer, issuer: TokenIssuer, service: Running
) -> None:
    for scope, status in (("usage:write", 403), ("subscriptions:read", 200)):
        key = Client(service.http, issuer.of_account(customer.account_id, scope=scope))
        for path in ("/v1/usage", "/v1/usage-events"):
            assert (await key.ask("GET", path)).status_code == status


async def test_a_question_for_too_much_says_how_to_ask_for_less(
    customer: Customer, shop: Shop, meter: dict[str, Any]
) -> None:
    await a_metered_one(customer, shop, meter, start=utc_now() - timedelta(days=1))

    async def refused(**params: Any) -> str:
        answer = await customer.ask("GET", "/v1/usage", params=params)
        assert answer.status_code == 422
        return str(answer.json()["code"])

    assert await refused(**{"by": "hour", "from": "2001-01-01T00:00:00Z"}) == "usage-range-too-wide"
    assert await refused(to="2001-01-01T00:00:00Z") == "usage-range-invalid"
    backwards = {"from": "2020-02-01T00:00:00Z", "to": "2020-01-01T00:00:00Z"}
    assert await refused(**backwards) == "usage-range-invalid"
    assert await refused(**{"from": "0001-01-01T00:00:00+14:00"}) == "validation-failed"
    assert await refused(**{"from": "1970-01-01T00:00:00Z", "to": "9999-12-31T23:59:59Z"}) == (
        "validation-failed"
    )
    everything = {"from": "1970-01-01T00:00:00Z", "to": "2999-12-31T23:59:59Z"}
    assert (await customer.get("/v1/usage", **everything))["data"] == []
    assert await listed(customer, **everything) == []
