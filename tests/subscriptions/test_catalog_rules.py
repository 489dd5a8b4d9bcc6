"""What the catalog takes and refuses: self-service, components, bounds, categories, scopes."""

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest

from services.subscriptions.domain.period import Interval, IntervalUnit
from services.subscriptions.domain.self_service import (
    EVERYTHING,
    CancelTime,
    ChangeKind,
    NotSelfService,
    ProrationChoice,
    SelfService,
)
from shared.ids import new_id
from shared.money import LARGEST_AMOUNT
from tests.conftest import service_named
from tests.harness import Deployment, Running, running
from tests.subscriptions.conftest import Client, Customer, Shop
from tests.subscriptions.stand_in import StandIn, served
from tests.tokens import TokenIssuer

USUAL: dict[str, Any] = {
    "changes": ["upgrade", "downgrade", "quantity", "addons"],
    "proration": [],
    "cancel": ["period_end"],
    "credit": False,
    "pause": True,
    "coupons": True,
}


@pytest.fixture
async def meter(staff: Client) -> dict[str, Any]:
    made: dict[str, Any] = await staff.post("/v1/meters", code=f"m-{new_id()}", name="Calls")
    return made


async def test_a_plan_shows_what_its_subscribers_may_do_themselves(
    staff: Client, shop: Shop
) -> None:
    usual, all_ = await shop.plan(), await shop.plan(self_service="all")
    own = await shop.plan(
        self_service={
            "changes": ["quantity", "upgrade", "upgrade"],
            "proration": ["at_period_end", "prorate_now"],
            "cancel": [],
            "credit": True,
        }
    )

    assert usual["self_service"] == USUAL
    assert all_["self_service"] == "all"
    assert own["self_service"] == {
        **USUAL,
        "changes": ["upgrade", "quantity"],
        "proration": ["prorate_now", "at_period_end"],
        "cancel": [],
        "credit": True,
    }
    for plan in (usual, all_, own):
        assert await staff.get(f"/v1/plans/{plan['id']}") == plan
    answer = await staff.ask(
        "PATCH", f"/v1/plans/{own['id']}", json={"self_service": {"pause": False}}
    )
    assert answer.json()["self_service"] == {**USUAL, "pause": False}
    for wrong in ("some", {"changes": ["everything"]}, {"cancel": "now"}, {"credits": True}, None):
        body = {"code": f"p-{new_id()}", "name": "Team", "self_service": wrong}
        assert await staff.refused("/v1/plans", **body) == (422, "validation-failed")


@pytest.mark.parametrize(
    ("policy", "refused", "field"),
    [
        (SelfService(), [("change", {"upgrade"}, "none")], "proration"),
        (SelfService(), [("change", {"downgrade"}, "at_period_end")], "proration"),
        (SelfService(), [("cancel", "now", False), ("cancel", "now", True)], "at_period_end"),
        (SelfService(), [("cancel", "date", False)], "cancel_at"),
        (SelfService(), [("cancel", "period_end", True)], "credit"),
        (SelfService(changes=(ChangeKind.UPGRADE,)), [("change", {"upgrade", "addons"})], None),
        (SelfService(changes=()), [("change", {"quantity"})], None),
        (SelfService(cancel=()), [("cancel", "period_end", False)], "at_period_end"),
        (SelfService(pause=False), [("pause",)], None),
        (SelfService(coupons=False), [("coupons",)], "coupon"),
    ],
)
def test_what_a_policy_does_not_allow_is_refused(
    policy: SelfService, refused: list[tuple[Any, ...]], field: str | None
) -> None:
    for what, *arguments in refused:
        with pytest.raises(NotSelfService) as refusal:
            ask(policy, what, *arguments)
        assert refusal.value.field == field
        ask(EVERYTHING, what, *arguments)


def test_what_a_policy_allows_is_let_through_and_a_refusal_says_what_that_is() -> None:
    usual = SelfService()
    ask(usual, "change", {"upgrade", "quantity"}, None)
    ask(usual, "change", set())
    ask(usual, "cancel", "period_end", False)
    ask(usual, "pause")
    ask(usual, "coupons")
    own = SelfService(
        changes=(ChangeKind.UPGRADE, ChangeKind.QUANTITY),
        proration=(ProrationChoice.PRORATE_NOW, ProrationChoice.AT_PERIOD_END),
        cancel=(CancelTime.PERIOD_END, CancelTime.DATE),
        credit=True,
    )
    ask(own, "change", {"upgrade"}, "at_period_end")
    ask(own, "cancel", "date", True)
    with pytest.raises(NotSelfService, match="may upgrade or change the quantity themselves"):
        ask(own, "change", {"addons"})
    with pytest.raises(NotSelfService, match="proration prorate_now or at_period_end"):
        ask(own, "change", {"upgrade"}, "none")
    with pytest.raises(NotSelfService, match="may cancel at the period's end or cancel at a date"):
        ask(own, "cancel", "now", False)


def ask(policy: SelfService, what: str, *arguments: Any) -> None:
    if what == "change":
        policy.require_change(*arguments)
    elif what == "cancel":
        when, credit = arguments
        policy.require_cancel(when, credit=credit)
    elif what == "pause":
        policy.require_pause()
    else:
        policy.require_coupons()


def a_component(plan: dict[str, Any], meter: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "plan_id": plan["id"],
        "currency": "EUR",
        "type": "metered",
        "interval": "month",
        "unit_amount": 2,
        "meter_id": meter["id"],
        "aggregation": "sum",
        "component": True,
        **more,
    }


async def test_a_component_is_a_metered_price_of_a_plan_and_no_price_to_publish_with(
    staff: Client, shop: Shop, meter: dict[str, Any]
) -> None:
    plan = await shop.plan()
    addon = await staff.post("/v1/addons", code=f"a-{new_id()}", name="Backup")
    part = a_component(plan, meter)
    of_an_addon = {**part, "addon_id": addon["id"]}
    del of_an_addon["plan_id"]
    flat = {"plan_id": plan["id"], "currency": "EUR", "type": "flat", "interval": "month"}
    for wrong in (of_an_addon, {**flat, "unit_amount": 1, "component": True}):
        assert await staff.refused("/v1/prices", **wrong) == (422, "price-invalid")

    made = await staff.post("/v1/prices", **part)

    assert made["component"] is True
    assert await staff.refused(f"/v1/plans/{plan['id']}/publish") == (409, "plan-has-no-price")
    base = await staff.post("/v1/prices", **flat, unit_amount=500)
    published = await staff.post(f"/v1/plans/{plan['id']}/publish")
    assert {(price["id"], price["component"]) for price in published["prices"]} == {
        (made["id"], True),
        (base["id"], False),
    }
    # It is found by what it is subscribed to for.
    for amount, is_found in ((500, True), (2, False)):
        found = await staff.get("/v1/plans", min_amount=amount, max_amount=amount, limit=200)
        assert (plan["id"] in {one["id"] for one in found["data"]}) is is_found


async def test_components_of_different_meters_are_no_versions_of_each_other(
    service: Running, staff: Client, shop: Shop, meter: dict[str, Any], customer: Customer
) -> None:
    plan = await shop.plan()
    storage = await staff.post("/v1/meters", code=f"m-{new_id()}", name="Storage", unit="GB")
    alone = await staff.post("/v1/prices", **a_component(plan, meter, component=False))
    calls = await staff.post("/v1/prices", **a_component(plan, meter))
    stored = await staff.post("/v1/prices", **a_component(plan, storage))
    yearly = await staff.post("/v1/prices", **a_component(plan, storage, interval="year"))
    mine = await staff.post(
        "/v1/prices", **a_component(plan, storage, account_id=str(customer.account_id))
    )
    assert [price["version"] for price in (alone, calls, stored, yearly, mine)] == [1] * 5
    newer = await staff.post("/v1/prices", **a_component(plan, meter, unit_amount=3))
    assert newer["version"] == 2
    shown = await staff.get(f"/v1/plans/{plan['id']}")
    assert {price["id"] for price in shown["prices"]} == {
        price["id"] for price in (alone, newer, stored, yearly, mine)
    }

    async def components(account_id: UUID, unit: IntervalUnit = IntervalUnit.MONTH) -> list[str]:
        async with service.runtime.begin() as uow:
            found = await uow.catalog.components_of(
                UUID(plan["id"]), "EUR", Interval(unit, 1), account_id=account_id
            )
            return [str(price.id) for price in found]

    # Of each meter one: the account's own before the one that everybody has.
    assert await components(new_id()) == [stored["id"], newer["id"]]
    assert await components(customer.account_id) == [mine["id"], newer["id"]]
    assert await components(new_id(), IntervalUnit.YEAR) == [yearly["id"]]


async def test_amounts_above_what_can_be_billed_are_refused_where_they_enter(
    staff: Client, shop: Shop
) -> None:
    plan = await shop.plan()
    price = {"plan_id": plan["id"], "currency": "EUR", "type": "flat", "interval": "month"}
    tiered = {**price, "type": "graduated"}
    bundle = {"name": "Many", "tokens": 1, "currency": "EUR"}
    coupon = {"name": "Much", "currency": "EUR"}
    over = LARGEST_AMOUNT + 1

    for path, body in (
        ("/v1/prices", {**price, "unit_amount": over}),
        ("/v1/prices", {**price, "unit_amount": 2**53}),
        ("/v1/prices", {**price, "unit_amount_decimal": f"{LARGEST_AMOUNT}.000000000001"}),
        ("/v1/prices", {**tiered, "tiers": [{"unit_amount_decimal": str(over)}]}),
        ("/v1/prices", {**tiered, "tiers": [{"flat_amount": over}]}),
        ("/v1/bundles", {**bundle, "code": f"b-{new_id()}", "amount": over}),
        ("/v1/coupons", {**coupon, "code": f"c-{new_id()}", "amount": over}),
    ):
        assert await staff.refused(path, **body) == (422, "amount-too-large"), body
    await staff.post("/v1/prices", **price, unit_amount=LARGEST_AMOUNT)
    await staff.post("/v1/bundles", **bundle, code=f"b-{new_id()}", amount=LARGEST_AMOUNT)
    await staff.post("/v1/coupons", **coupon, code=f"c-{new_id()}", amount=LARGEST_AMOUNT)
    # What no decimal of the database holds is no amount at all.
    for body in ({"unit_amount": 10**18}, {"unit_amount_decimal": "1" * 19}, {"unit_amount": -1}):
        assert await staff.refused("/v1/prices", **price, **body) == (422, "validation-failed")


@pytest.mark.parametrize("category", ["Standard", "zero rated", "1st", "", "a" * 51, "books\n"])
async def test_a_tax_category_is_named_as_rates_name_it(
    staff: Client, shop: Shop, category: str
) -> None:
    plan = await shop.plan()
    price = {"plan_id": plan["id"], "currency": "EUR", "type": "flat", "interval": "month"}
    bundle = {"code": f"b-{new_id()}", "name": "Few", "tokens": 1, "currency": "EUR"}
    for path, body in (
        ("/v1/prices", {**price, "unit_amount": 1}),
        ("/v1/bundles", {**bundle, "amount": 1}),
    ):
        answer = await staff.refused(path, **body, tax_category=category)
        assert answer == (422, "validation-failed")
    named = await staff.post("/v1/prices", **price, unit_amount=1, tax_category="e-books_2")
    assert named["tax_category"] == "e-books_2"


@pytest.fixture
async def rates() -> StandIn:
    made = StandIn()
    made.answers({"data": [], "next_cursor": None})
    return made


@pytest.fixture
async def seller(
    deployment: Deployment, issuer: TokenIssuer, staff: Client, rates: StandIn
) -> AsyncIterator[Client]:
    """Staff at an API of the same subscriptions that knows where invoicing is."""
    subscriptions = service_named("subscriptions")
    async with (
        served(rates) as url,
        running(subscriptions, deployment, issuer, worker=False, invoicing_url=url) as asking,
    ):
        yield replace(staff, http=asking.http)


async def test_a_price_without_a_rate_for_its_category_says_so_when_it_is_made(
    seller: Client, staff: Client, shop: Shop, rates: StandIn
) -> None:
    plan = await shop.plan()
    flat = {"plan_id": plan["id"], "currency": "EUR", "type": "flat", "interval": "month"}

    async def warnings(who: Client, category: str) -> list[list[str]]:
        price = await who.post("/v1/prices", **flat, unit_amount=1, tax_category=category)
        bundle = {"code": f"b-{new_id()}", "name": "Few", "tokens": 1, "currency": "EUR"}
        sold = await who.post("/v1/bundles", **bundle, amount=1, tax_category=category)
        return [price["warnings"], sold["warnings"]]

    missing = "No tax rate is on file for 'books': the standard rate is charged until there is one."
    assert await warnings(seller, "books") == [[missing]] * 2
    for asked in rates.asked:
        assert (asked.path, asked.query["category"]) == ("/v1/tax-rates", "books")
        assert asked.headers["Authorization"] == staff.headers["Authorization"]
    none = "No tax rate is on file for 'standard': no tax is charged until there is one."
    assert await warnings(seller, "standard") == [[none]] * 2
    rates.answers({"data": [{"valid_to": None}], "next_cursor": None})
    assert await warnings(seller, "books") == [[], []]
    # Taxed by a rule: nobody is asked.
    asked_before = len(rates.asked)
    assert await warnings(seller, "exempt") == await warnings(seller, "zero") == [[], []]
    assert len(rates.asked) == asked_before
    # Nobody who could say: the price is made all the same.
    unknown = "It could not be checked whether a tax rate is on file for 'books'."
    rates.refuses(503, "unavailable", "Not now.")
    assert await warnings(seller, "books") == await warnings(staff, "books") == [[unknown]] * 2


async def test_a_coupon_for_prices_is_taken_where_one_of_them_is_held(
    customer: Customer, staff: Client, shop: Shop
) -> None:
    monthly = await shop.price()
    plan = await staff.get(f"/v1/plans/{monthly['plan_id']}")
    yearly = await shop.price(plan, unit_amount=9000, interval="year")
    addon = await staff.post("/v1/addons", code=f"a-{new_id()}", name="Backup")
    own = {"addon_id": addon["id"], "currency": "EUR", "type": "flat", "interval": "month"}
    extra = await staff.post("/v1/prices", **own, unit_amount=100)
    code = f"C{new_id()}"
    coupon = await staff.post(
        "/v1/coupons",
        code=code,
        name="Some",
        percent="10",
        max_per_account=9,
        price_ids=[yearly["id"], extra["id"], extra["id"]],
    )

    assert coupon["price_ids"] == [yearly["id"], extra["id"]]
    refused = {"price_id": monthly["id"], "coupon": code}
    assert await customer.refused("/v1/subscriptions", **refused) == (422, "coupon-not-for-plan")
    for start in (
        {"price_id": yearly["id"]},
        {"price_id": monthly["id"], "addons": [{"price_id": extra["id"]}]},
    ):
        subscription = await customer.post("/v1/subscriptions", **start, coupon=code)
        assert [one["coupon_id"] for one in subscription["discounts"]] == [coupon["id"]]
    for name, code_ in (("plan_ids", "plan-not-found"), ("price_ids", "price-not-found")):
        body = {"code": f"C{new_id()}", "name": "None", "percent": "10", name: [str(new_id())]}
        assert await staff.refused("/v1/coupons", **body) == (404, code_)
