"""Codes that a coupon is given out under: their limits, their accounts, their time."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from services.subscriptions.domain.coupon import PromotionCode, normalized
from services.subscriptions.use_cases.redeem_coupon import UNMISTAKABLE
from shared.clock import utc_now
from shared.ids import new_id
from tests.subscriptions.conftest import Client, Customer, Shop


@pytest.fixture
async def coupon(staff: Client) -> dict[str, Any]:
    made: dict[str, Any] = await staff.post(
        "/v1/coupons", code=f"c-{new_id()}", name="Spring", percent="20", max_per_account=5
    )
    return made


async def a_code(staff: Client, coupon: dict[str, Any], **more: Any) -> dict[str, Any]:
    made: dict[str, Any] = await staff.post("/v1/promotion-codes", coupon_id=coupon["id"], **more)
    return made


async def used(customer: Customer, shop: Shop, code: str) -> tuple[int, str]:
    """Status and error code (empty when it was taken) of a start with this code."""
    answer = await customer.ask(
        "POST",
        "/v1/subscriptions",
        json={"price_id": (await shop.price())["id"], "coupon": code},
    )
    return answer.status_code, answer.json().get("code", "")


async def test_a_coupon_has_any_number_of_codes_and_the_one_that_was_typed_is_shown(
    customer: Customer, staff: Client, shop: Shop, coupon: dict[str, Any]
) -> None:
    word = f"spring-{new_id()}"
    typed, made = await a_code(staff, coupon, code=word), await a_code(staff, coupon)
    assert typed["code"] == word.upper()
    assert len(made["code"]) == 10
    assert set(made["code"]) <= set(UNMISTAKABLE)

    subscription = await customer.post(
        "/v1/subscriptions", price_id=(await shop.price())["id"], coupon=f" {word.title()} "
    )

    (discount,) = subscription["discounts"]
    assert (discount["coupon_id"], discount["code"]) == (coupon["id"], word.upper())
    listed = await staff.get("/v1/promotion-codes", coupon_id=coupon["id"])
    assert {one["code"]: one["redeemed"] for one in listed["data"]} == {
        word.upper(): 1,
        made["code"]: 0,
    }
    assert await staff.refused(
        "/v1/promotion-codes", coupon_id=coupon["id"], code=word.lower()
    ) == (409, "code-taken")
    assert await staff.refused("/v1/coupons", code=word.upper(), name="Same word", percent="5") == (
        409,
        "code-taken",
    )
    assert await staff.refused("/v1/promotion-codes", coupon_id=str(new_id())) == (
        404,
        "coupon-not-found",
    )
    assert (await customer.ask("GET", "/v1/promotion-codes")).status_code == 403


async def test_a_codes_own_limit_holds_however_many_ask_at_once(
    new_customer: Any, staff: Client, shop: Shop, coupon: dict[str, Any]
) -> None:
    code = await a_code(staff, coupon, max_redemptions=3)
    customers = [await new_customer() for _ in range(10)]

    answers = await asyncio.gather(*(used(one, shop, code["code"]) for one in customers))

    assert sorted(answers) == [(201, "")] * 3 + [(409, "coupon-exhausted")] * 7
    (listed,) = (await staff.get("/v1/promotion-codes", coupon_id=coupon["id"]))["data"]
    assert listed["redeemed"] == 3


async def test_what_the_coupon_allows_holds_over_all_its_codes(
    customer: Customer, new_customer: Any, staff: Client, shop: Shop
) -> None:
    tight = await staff.post(
        "/v1/coupons", code=f"c-{new_id()}", name="Once each", percent="20", max_redemptions=2
    )
    one, two = await a_code(staff, tight), await a_code(staff, tight)

    assert await used(customer, shop, one["code"]) == (201, "")
    assert await used(customer, shop, two["code"]) == (409, "coupon-exhausted")
    assert await used(await new_customer(), shop, two["code"]) == (201, "")
    assert await used(await new_customer(), shop, one["code"]) == (409, "coupon-exhausted")


async def test_a_code_for_one_account_is_nobody_elses(
    customer: Customer, new_customer: Any, staff: Client, shop: Shop, coupon: dict[str, Any]
) -> None:
    code = await a_code(staff, coupon, account_id=str(customer.account_id))

    other = await used(await new_customer(), shop, code["code"])
    nonsense = await used(await new_customer(), shop, "NONSENSE")

    assert other == nonsense == (404, "coupon-not-found")
    assert await used(customer, shop, code["code"]) == (201, "")


async def test_a_code_for_the_first_subscription_is_for_one_of_two_at_once(
    customer: Customer, staff: Client, shop: Shop, coupon: dict[str, Any]
) -> None:
    code = await a_code(staff, coupon, first_time_only=True)

    answers = await asyncio.gather(*(used(customer, shop, code["code"]) for _ in range(4)))

    assert sorted(answers) == [(201, "")] + [(409, "coupon-for-first-subscription")] * 3


async def test_an_expired_and_an_archived_code_are_refused(
    customer: Customer, staff: Client, shop: Shop, coupon: dict[str, Any]
) -> None:
    over = await a_code(staff, coupon, expires_at=(utc_now() - timedelta(seconds=1)).isoformat())
    archived = await a_code(staff, coupon)
    await staff.post(f"/v1/promotion-codes/{archived['id']}/archive")

    assert await used(customer, shop, over["code"]) == (409, "coupon-expired")
    assert await used(customer, shop, archived["code"]) == (409, "coupon-expired")
    assert await staff.refused(f"/v1/promotion-codes/{new_id()}/archive") == (
        404,
        "promotion-code-not-found",
    )


def test_codes_are_the_same_in_upper_and_lower_case() -> None:
    made = PromotionCode(id=new_id(), coupon_id=new_id(), code=" Spring ", created_at=utc_now())
    assert made.code == normalized("sPRING") == "SPRING"


async def taken_off(customer: Customer, path: str, coupon: dict[str, Any]) -> None:
    off = await customer.ask("DELETE", f"{path}/{coupon['id']}")
    assert off.json()["discounts"] == []


async def redeemed(staff: Client, coupon: dict[str, Any]) -> int:
    listed = (await staff.get("/v1/coupons", limit=200))["data"]
    return int(next(one for one in listed if one["id"] == coupon["id"])["redeemed"])


async def test_a_coupon_that_was_taken_off_is_the_same_use_when_it_is_put_on_again(
    customer: Customer, staff: Client, shop: Shop
) -> None:
    """Of what the coupon allows, that takes no second one."""
    coupon = await staff.post(
        "/v1/coupons", code=f"C-{new_id()}", name="Spring", percent="20", max_redemptions=1
    )
    made = await customer.post("/v1/subscriptions", price_id=(await shop.price())["id"])
    path = f"/v1/subscriptions/{made['id']}/coupons"
    await customer.post(path, coupon=coupon["code"])
    for _ in range(2):
        await taken_off(customer, path, coupon)
        held = await customer.post(path, coupon=coupon["code"])
        assert len(held["discounts"]) == 1

    assert await redeemed(staff, coupon) == 1
    await taken_off(customer, path, coupon)
    await staff.post(f"/v1/coupons/{coupon['id']}/archive")
    assert await customer.refused(path, coupon=coupon["code"]) == (409, "coupon-expired")


async def test_one_of_which_nothing_is_left_is_used_anew_within_its_limits(
    customer: Customer, staff: Client, shop: Shop
) -> None:
    """It counted for the period that runs; put on again it would count for another one."""
    twice, once = [
        await staff.post(
            "/v1/coupons", code=f"C-{new_id()}", name="Once", percent="50", max_per_account=most
        )
        for most in (2, 1)
    ]
    for coupon in (twice, once):
        made = await customer.post(
            "/v1/subscriptions", price_id=(await shop.price())["id"], coupon=coupon["code"]
        )
        path = f"/v1/subscriptions/{made['id']}/coupons"
        await taken_off(customer, path, coupon)
        if coupon is once:
            assert await customer.refused(path, coupon=coupon["code"]) == (409, "coupon-exhausted")
        else:
            assert len((await customer.post(path, coupon=coupon["code"]))["discounts"]) == 1

    assert [await redeemed(staff, coupon) for coupon in (twice, once)] == [2, 1]
