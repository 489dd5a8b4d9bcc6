"""What is on sale in a run: each kind of price, of plan and of coupon."""

from dataclasses import dataclass, field
from typing import Any

from tests.chaos.client import Client

ALL: dict[str, Any] = {"self_service": "all"}
#: Each way in which dunning ends. What a plan says nothing of is staff's.
PLANS: dict[str, dict[str, Any]] = {
    "team": {"dunning": {"days": [1, 3], "then": "cancel"}},
    "seats": {"dunning": {"days": [1], "then": "unpaid"}, **ALL},
    "business": {"dunning": {"days": [1, 2], "then": "pause"}, **ALL},
    "metered": {"dunning": {"days": [1, 3], "then": "cancel"}, **ALL},
    "guest": {"dunning": {"days": [1], "then": "unpaid"}, "trial_days": 14, **ALL},
}
#: Late usage is taken for three days, or for one.
METERS: dict[str, dict[str, Any]] = {
    "calls": {"grace_hours": 72, "unit": "calls"},
    "storage": {"grace_hours": 24},
}
TIERS = [
    {"up_to": 5, "unit_amount_decimal": "12000"},
    {"up_to": None, "unit_amount_decimal": "9000.5", "flat_amount": 100},
]
STORED = [
    {"up_to": 3, "unit_amount_decimal": "0"},
    {"up_to": None, "unit_amount_decimal": "33.3", "flat_amount": 50},
]
INCLUSIVE = {"tax_behavior": "inclusive"}
#: By plan and interval.
PRICES: dict[tuple[str, str], dict[str, Any]] = {
    ("team", "month"): {"type": "flat", "unit_amount": 2900},
    ("team", "year"): {"type": "flat", "unit_amount": 29000},
    ("seats", "month"): {"type": "per_unit", "unit_amount": 1200},
    ("seats", "year"): {"type": "graduated", "tiers": TIERS},
    ("business", "month"): {"type": "flat", "unit_amount": 5900, **INCLUSIVE},
    ("business", "year"): {"type": "flat", "unit_amount": 59000, **INCLUSIVE},
    ("metered", "month"): {"type": "metered", "unit_amount_decimal": "0.5", "meter": "calls"},
    ("guest", "month"): {"type": "flat", "unit_amount": 1900},
}
#: What comes with each price of a plan beside it.
COMPONENTS: dict[str, dict[str, Any]] = {
    "business": {
        "type": "metered",
        "meter": "storage",
        "tiers": STORED,
        "tier_mode": "graduated",
        "component": True,
    }
}
ADDONS: dict[str, list[dict[str, Any]]] = {
    "support": [
        {"type": "per_unit", "interval": "month", "unit_amount": 900},
        {"type": "per_unit", "interval": "year", "unit_amount": 9000},
    ],
    "setup": [{"type": "one_off", "unit_amount": 5000}],
}
COUPONS: dict[str, dict[str, Any]] = {
    "CHAOS20": {"percent": "20"},
    "HALF": {"percent": "50", "duration": "repeating", "periods": 3},
    "FIVER": {"amount": 500, "currency": "EUR", "duration": "forever"},
    "SEATS10": {"percent": "10", "duration": "forever", "plan": "seats"},
}
#: Given out under a word of its own.
PROMOTION = ("WELCOME20", "CHAOS20")


@dataclass(frozen=True)
class Sold:
    """A plan's price."""

    id: str
    plan: str
    interval: str

    @property
    def takes_a_quantity(self) -> bool:
        return self.plan == "seats"

    @property
    def meters(self) -> tuple[str, ...]:
        """What of it is counted."""
        return {"metered": ("calls",), "business": ("storage",)}.get(self.plan, ())


@dataclass
class Catalog:
    """What was made of it, by staff."""

    prices: list[Sold] = field(default_factory=list)
    #: Ids by code.
    addons: dict[str, str] = field(default_factory=dict)
    coupons: dict[str, str] = field(default_factory=dict)
    bundle: str = ""
    #: What coupons can be asked for by.
    codes: list[str] = field(default_factory=list)

    @property
    def ahead(self) -> list[Sold]:
        """Prices that are paid for before their period."""
        return [price for price in self.prices if price.plan != "metered"]

    @property
    def metered(self) -> Sold:
        return next(price for price in self.prices if price.plan == "metered")

    def monthly(self, *plans: str) -> list[Sold]:
        return [one for one in self.prices if one.plan in plans and one.interval == "month"]

    def publish(self, staff: Client) -> None:
        """Make it, before anything is broken."""
        meters = {}
        for code, more in METERS.items():
            counted = {"code": code, "name": code.title(), **more}
            meters[code] = staff.must("make a meter", "POST", "/v1/meters", counted)["id"]

        def make_price(more: dict[str, Any]) -> str:
            body = {"currency": "EUR", **more}
            if meter := body.pop("meter", None):
                body |= {"meter_id": meters[meter], "aggregation": "sum"}
            return str(staff.must("make a price", "POST", "/v1/prices", body)["id"])

        plans = {}
        for code, more in PLANS.items():
            wanted = {"code": code, "name": code.title(), **more}
            plans[code] = staff.must("make a plan", "POST", "/v1/plans", wanted)["id"]
        for (code, interval), more in PRICES.items():
            body: dict[str, Any] = {"plan_id": plans[code], "interval": interval}
            self.prices.append(Sold(make_price({**body, **more}), code, interval))
            if code in COMPONENTS:
                make_price({**body, **COMPONENTS[code]})
        for plan_id in plans.values():
            staff.must("publish", "POST", f"/v1/plans/{plan_id}/publish", {})
        for code, prices in ADDONS.items():
            addon = staff.must("make an add-on", "POST", "/v1/addons", {"code": code, "name": code})
            self.addons[code] = addon["id"]
            for price in prices:
                make_price({"addon_id": addon["id"], **price})
        bundle = {"code": "k", "name": "1,000", "tokens": 1000, "amount": 1000, "currency": "EUR"}
        self.bundle = staff.must("make a bundle", "POST", "/v1/bundles", bundle)["id"]
        self._give_coupons_out(staff, plans)

    def _give_coupons_out(self, staff: Client, plans: dict[str, str]) -> None:
        for code, more in COUPONS.items():
            body = {"code": code, "name": code.title(), "max_per_account": 50, **more}
            if plan := body.pop("plan", None):
                body["plan_ids"] = [plans[plan]]
            made = staff.must("make a coupon", "POST", "/v1/coupons", body)
            self.coupons[code] = made["id"]
        word, code = PROMOTION
        body = {"code": word, "coupon_id": self.coupons[code]}
        staff.must("give a code out", "POST", "/v1/promotion-codes", body)
        self.codes = [*COUPONS, word]
