"""What is for sale in a world: several catalogs, each with numbers of its own."""

from dataclasses import dataclass
from random import Random
from typing import Any

from tests.billing.world import World

#: How many different catalogs there are; an account buys from one.
CATALOGS = 8
#: By turns, what happens to who does not pay.
DUNNING = (
    {"days": [1, 3], "then": "cancel"},
    {"days": [2], "then": "unpaid"},
    {"days": [1, 2], "then": "pause"},
)


@dataclass(frozen=True)
class Catalog:
    """Prices by name (`basic/month`, `pro/year`, …), as the API answered."""

    plans: dict[str, dict[str, Any]]
    prices: dict[str, dict[str, Any]]
    addons: dict[str, dict[str, Any]]
    coupons: dict[str, dict[str, Any]]
    meter: dict[str, Any]

    def named(self, price_id: str) -> str:
        return next((name for name, one in self.prices.items() if one["id"] == price_id), price_id)

    def components(self, price: dict[str, Any]) -> list[dict[str, Any]]:
        """What comes with a price of a plan."""
        same = (price["plan_id"], price["interval"])
        return [
            one
            for one in self.prices.values()
            if one["component"] and (one["plan_id"], one["interval"]) == same
        ]

    @property
    def by_plan(self) -> dict[str, list[str]]:
        """Names of the prices that a subscription can be to, by plan."""
        found: dict[str, list[str]] = {}
        for name, price in self.prices.items():
            if price["plan_id"] is not None and not price["component"]:
                found.setdefault(name.split("/")[0], []).append(name)
        return found


async def catalog(world: World, number: int) -> Catalog:
    """The catalog of this number, made when it is asked for first."""
    made = world.shelf.setdefault("catalogs", {})
    if number not in made:
        made[number] = await _make(world, number)
    found: Catalog = made[number]
    return found


async def _make(world: World, number: int) -> Catalog:
    rng = Random(number)  # noqa: S311  (a catalog, not a secret)
    staff, name = world.catalog, f"c{number}"
    meter = await staff.post("/v1/meters", code=f"{name}-calls", name="Calls", grace_hours=72)
    plans: dict[str, Any] = {}
    prices: dict[str, Any] = {}
    inclusive = number % 4 == 3
    usual = {"currency": "EUR", "tax_behavior": "inclusive" if inclusive else "exclusive"}

    async def add(key: str, **fields: Any) -> None:
        prices[key] = await staff.post("/v1/prices", **{**usual, **fields})

    def amount(low: int, high: int) -> int:
        return rng.choice([rng.randint(low, high), rng.randint(low, high) // 100 * 100])

    for position, plan in enumerate(("basic", "pro", "seats", "calls", "hybrid")):
        plans[plan] = await staff.post(
            "/v1/plans",
            code=f"{name}-{plan}",
            name=plan.capitalize(),
            trial_days=14 if plan == "pro" else 0,
            dunning=DUNNING[(number + position) % len(DUNNING)],
        )
    ids = {plan: made["id"] for plan, made in plans.items()}
    basic, pro = amount(500, 2500), amount(2600, 9900)
    flat = {"type": "flat"}
    await add("basic/month", plan_id=ids["basic"], interval="month", unit_amount=basic, **flat)
    await add(
        "basic/year",
        plan_id=ids["basic"],
        interval="year",
        unit_amount=basic * 10 + rng.randint(0, 9),
        **flat,
    )
    await add("pro/month", plan_id=ids["pro"], interval="month", unit_amount=pro, **flat)
    await add(
        "pro/quarter", plan_id=ids["pro"], interval="quarter", unit_amount=pro * 3 - 1, **flat
    )
    seat = amount(150, 900)
    await add(
        "seats/month",
        plan_id=ids["seats"],
        interval="month",
        type="per_unit",
        unit_amount_decimal=f"{seat}.5" if number % 2 else str(seat),
    )
    await add(
        "seats/year",
        plan_id=ids["seats"],
        interval="year",
        type=rng.choice(["graduated", "volume"]),
        tiers=[
            {"up_to": 3, "unit_amount_decimal": str(seat * 11)},
            {"up_to": None, "unit_amount_decimal": str(seat * 9), "flat_amount": 250},
        ],
    )
    await add(
        "calls/month",
        plan_id=ids["calls"],
        interval="month",
        type="metered",
        meter_id=meter["id"],
        aggregation=rng.choice(["sum", "count", "max"]),
        **(
            {"unit_amount_decimal": "12.5", "free_units": 2}
            if number % 2
            else {
                "tier_mode": "graduated",
                "tiers": [
                    {"up_to": 5, "unit_amount_decimal": "20"},
                    {"up_to": None, "unit_amount_decimal": "7.25"},
                ],
            }
        ),
    )
    for interval, times in (("month", 1), ("year", 10)):
        await add(
            f"hybrid/{interval}",
            plan_id=ids["hybrid"],
            interval=interval,
            unit_amount=times * amount(300, 900),
            **flat,
        )
        await add(
            f"hybrid-calls/{interval}",
            plan_id=ids["hybrid"],
            interval=interval,
            type="metered",
            meter_id=meter["id"],
            aggregation="sum",
            unit_amount_decimal="3.5",
            component=True,
        )
    addons: dict[str, Any] = {}
    for addon in ("support", "setup"):
        addons[addon] = await staff.post(
            "/v1/addons", code=f"{name}-{addon}", name=addon.capitalize()
        )
    support = {"addon_id": addons["support"]["id"], "type": "per_unit"}
    for interval, times in (("month", 1), ("quarter", 3), ("year", 10)):
        await add(
            f"support/{interval}",
            interval=interval,
            unit_amount=times * amount(100, 800),
            **support,
        )
    await add(
        "setup",
        addon_id=addons["setup"]["id"],
        type="one_off",
        unit_amount=amount(1000, 5000),
    )
    for plan_id in ids.values():
        await staff.post(f"/v1/plans/{plan_id}/publish")
    wanted: dict[str, dict[str, Any]] = {
        "half": {"percent": "50", "duration": "repeating", "periods": 2},
        "third": {"percent": "33.3", "duration": "forever"},
        "once": {"percent": "100", "duration": "once"},
        "nine": {"amount": 900, "currency": "EUR", "duration": "repeating", "periods": 3},
        "basics": {"percent": "25", "duration": "forever", "plan_ids": [ids["basic"]]},
    }
    coupons: dict[str, Any] = {}
    for key, fields in wanted.items():
        coupons[key] = await staff.post(
            "/v1/coupons", code=f"{name}-{key}", name=key, max_per_account=50, **fields
        )
    return Catalog(plans, prices, addons, coupons, meter)
