"""Edits of the catalog: what may be edited, by whom, against which version, and who sees it."""

import asyncio
from collections.abc import Sequence
from typing import Any
from uuid import UUID

import httpx
import pytest
from sqlalchemy import text

from shared.events.subscriptions import PlanArchived, PlanPublished
from shared.ids import new_id
from tests.eventlog import EventLog
from tests.harness import Running
from tests.subscriptions.conftest import Client, Customer, Publish, Shop, answered, until
from tests.subscriptions.test_subscriptions import an_active_one

#: Each kind of thing: where it is, what makes one, an edit of it, and whether it is archived.
KINDS: list[tuple[str, dict[str, Any], dict[str, Any], bool]] = [
    ("plans", {"name": "Team"}, {"name": "Crew", "description": "For many."}, True),
    ("products", {"name": "Suite"}, {"name": "Set", "description": "All of it."}, True),
    ("addons", {"name": "Backup"}, {"name": "Backups", "description": "Daily."}, True),
    ("meters", {"name": "Storage"}, {"name": "Store", "unit": "GB"}, True),
    ("features", {"name": "SSO", "type": "boolean"}, {"name": "Single sign-on"}, False),
    (
        "bundles",
        {"name": "Few", "tokens": 10, "amount": 100, "currency": "EUR"},
        {"name": "Ten"},
        True,
    ),
    (
        "coupons",
        {"name": "Spring", "percent": "10"},
        {
            "name": "Easter",
            "max_redemptions": 5,
            "max_per_account": 2,
            "redeem_by": "2999-01-01T00:00:00Z",
        },
        True,
    ),
]
NAMES = [path for path, *_ in KINDS]


async def patch(client: Client, path: str, version: int | None = None, **body: Any) -> Any:
    return answered(await patched(client, path, version, **body))


async def patched(
    client: Client, path: str, version: int | None = None, **body: Any
) -> httpx.Response:
    headers = {} if version is None else {"If-Match": f'"{version}"'}
    return await client.ask("PATCH", path, json=body, headers=headers)


async def audited(service: Running, entry: dict[str, Any]) -> Sequence[Any]:
    """Actions on one thing, oldest first, each with what it was before and after."""
    async with service.runtime.begin() as uow:
        found = await uow.session.execute(
            text(
                "SELECT action, before, after, actor FROM subscriptions.audit_log"
                " WHERE subject = :subject ORDER BY id"
            ),
            {"subject": entry["id"]},
        )
        entries: Sequence[Any] = found.all()
        return entries


@pytest.mark.parametrize("kind", KINDS, ids=NAMES)
async def test_a_thing_is_edited_where_that_rewrites_nothing(
    service: Running,
    staff: Client,
    customer: Customer,
    kind: tuple[str, dict[str, Any], dict[str, Any], bool],
) -> None:
    path, made, edit, archived = kind
    entry = await staff.post(f"/v1/{path}", code=f"c-{new_id()}", **made)
    url = f"/v1/{path}/{entry['id']}"
    read = await staff.ask("GET", url)
    entry.pop("warnings", None)
    assert (read.headers["etag"], read.json()) == ('"1"', entry)

    changed = await patch(staff, url, 1, **edit)

    assert changed == {**entry, **edit, "revision": 2}
    again = await staff.ask("GET", url, headers={"If-None-Match": '"1"'})
    assert (again.status_code, again.headers["etag"]) == (200, '"2"')
    assert (await staff.ask("GET", url, headers={"If-None-Match": '"2"'})).status_code == 304
    # Nothing that differs: nothing happens. Stale, unknown and forbidden: refused.
    assert await patch(staff, url, 2, **edit) == await patch(staff, url) == changed
    assert (await patched(staff, url, 1, **edit)).status_code == 412
    assert (await patched(staff, url, code="other")).json()["code"] == "validation-failed"
    assert (await patched(staff, url, name=None)).json()["code"] == "validation-failed"
    assert (await patched(customer, url, **edit)).status_code == 403
    # A code is worth money, and a plan a draft until it is published; the rest is on show.
    shown = await customer.ask("GET", url)
    assert shown.status_code == {"coupons": 403, "plans": 404}.get(path, 200)
    assert (await patched(staff, f"/v1/{path}/{new_id()}", **edit)).status_code == 404
    created, edited = await audited(service, entry)
    assert created.after == {"code": entry["code"]}
    assert edited.action.endswith(".edit")
    assert edited.before == {name: entry[name] for name in edit}
    assert edited.after.keys() == edit.keys()
    assert edited.actor.startswith("user:")
    assert archived or (await staff.ask("POST", f"{url}/archive")).status_code == 404


async def test_of_several_edits_at_once_against_one_version_one_is_made(
    service: Running, staff: Client, shop: Shop
) -> None:
    plan = await shop.plan()
    names = [f"Team {number}" for number in range(6)]

    answers = await asyncio.gather(
        *(patched(staff, f"/v1/plans/{plan['id']}", 1, name=name) for name in names)
    )

    assert sorted(answer.status_code for answer in answers) == [200] + [412] * 5
    (made,) = [answer.json() for answer in answers if answer.is_success]
    assert await staff.get(f"/v1/plans/{plan['id']}") == made
    assert len(await audited(service, plan)) == 2


@pytest.mark.parametrize(
    ("path", "made"), [(path, made) for path, made, _, archived in KINDS[1:] if archived]
)
async def test_a_thing_is_taken_off_sale_and_put_back(
    service: Running, staff: Client, customer: Customer, path: str, made: dict[str, Any]
) -> None:
    entry = await staff.post(f"/v1/{path}", code=f"c-{new_id()}", **made)
    url = f"/v1/{path}/{entry['id']}"

    stale = await staff.ask("POST", f"{url}/archive", headers={"If-Match": '"9"'})
    assert stale.status_code == 412
    assert await customer.refused(f"{url}/archive") == (403, "forbidden")
    assert (await staff.post(f"{url}/archive"))["active"] is False
    assert (await staff.post(f"{url}/archive"))["revision"] == 2
    assert (await staff.post(f"{url}/unarchive"))["active"] is True
    _, gone, back = await audited(service, entry)
    assert (gone.before, gone.after) == ({"active": True}, {"active": False})
    assert (back.before, back.after) == ({"active": False}, {"active": True})


async def test_a_promotion_codes_limits_are_edited_but_not_below_its_uses(
    service: Running, staff: Client, customer: Customer, shop: Shop
) -> None:
    coupon = await staff.post("/v1/coupons", code=f"c-{new_id()}", name="Spring", percent="20")
    code = await staff.post("/v1/promotion-codes", coupon_id=coupon["id"], max_redemptions=1)
    url, coupon_url = f"/v1/promotion-codes/{code['id']}", f"/v1/coupons/{coupon['id']}"
    assert (await staff.ask("GET", url)).json() == code
    start = {"price_id": (await shop.price())["id"], "coupon": code["code"]}
    await customer.post("/v1/subscriptions", **start)

    # A use is a change of what is shown, too.
    assert (await patched(staff, url, 1, max_redemptions=2)).status_code == 412
    changed = await patch(staff, url, 2, max_redemptions=2, expires_at="2999-01-01T00:00:00Z")
    assert (changed["redeemed"], changed["max_redemptions"], changed["revision"]) == (1, 2, 3)
    free = await patch(staff, url, max_redemptions=None, expires_at=None)
    assert (free["max_redemptions"], free["expires_at"]) == (None, None)
    for path in (url, coupon_url):
        assert (await patched(staff, path, max_redemptions=0)).status_code == 422
    await patch(staff, coupon_url, max_per_account=2)
    await customer.post("/v1/subscriptions", **start)
    for path in (url, coupon_url):
        refused = await patched(staff, path, max_redemptions=1)
        assert (refused.status_code, refused.json()["code"]) == (422, "coupon-invalid")
        assert refused.json()["errors"][0]["field"] == "max_redemptions"
    await staff.post(f"{url}/archive")
    assert await customer.refused("/v1/subscriptions", **start) == (409, "coupon-expired")
    assert (await staff.post(f"{url}/unarchive"))["active"] is True
    assert {entry.action for entry in await audited(service, code)} == {
        f"promotion_code.{verb}" for verb in ("create", "edit", "archive", "unarchive")
    }


async def test_all_of_a_plan_but_its_code_is_edited(
    service: Running, staff: Client, shop: Shop
) -> None:
    price = await shop.price()
    url = f"/v1/plans/{price['plan_id']}"
    plan = await staff.get(url)
    edit = {
        "features": [{"feature": "seats", "limit": 3}],
        "trial_days": 7,
        "trial_end_behavior": "pause",
        "trial_requires_payment_method": True,
        "dunning": {"days": [2], "then": "pause"},
        "self_service": "all",
    }

    changed = await patch(staff, url, plan["revision"], **edit)

    assert changed == {**plan, **edit, "revision": plan["revision"] + 1}
    last = (await audited(service, plan))[-1]
    assert (last.before["dunning"], last.after["dunning"]) == (plan["dunning"], edit["dunning"])
    refused = await patched(staff, url, dunning={"days": [99], "then": "cancel"})
    assert (refused.status_code, refused.json()["code"]) == (422, "dunning-invalid")


async def test_edits_leave_no_gap_between_a_plans_events(
    staff: Client, shop: Shop, customer: Customer, events: EventLog
) -> None:
    price = await shop.price()
    plan_id, url = UUID(price["plan_id"]), f"/v1/plans/{price['plan_id']}"
    await patch(staff, url, name="Crew")
    archived = await staff.post(f"{url}/archive")
    await patch(staff, url, name="Club")
    start = {"price_id": price["id"]}
    assert await customer.refused("/v1/subscriptions", **start) == (409, "plan-not-published")
    stale = {"If-Match": f'"{archived["revision"]}"'}
    assert (await staff.ask("POST", f"{url}/unarchive", headers=stale)).status_code == 412

    back = await staff.post(f"{url}/unarchive")

    assert (back["status"], back["name"]) == ("published", "Club")
    assert await staff.refused(f"{url}/unarchive") == (409, "illegal-plan-transition")
    await customer.post("/v1/subscriptions", **start)

    async def told() -> Any:
        found = [
            event
            for event in [*events.all(PlanPublished), *events.all(PlanArchived)]
            if event.plan_id == plan_id
        ]
        return found if len(found) >= 3 else None

    found = sorted(await until(told), key=lambda event: event.sequence)
    assert [(event.sequence, event.name) for event in found] == [
        (1, "plan.published"),
        (2, "plan.archived"),
        (3, "plan.published"),
    ]


async def test_an_archived_draft_needs_a_price_to_be_put_on_sale(staff: Client, shop: Shop) -> None:
    plan = await shop.plan()
    await staff.post(f"/v1/plans/{plan['id']}/archive")
    assert await staff.refused(f"/v1/plans/{plan['id']}/unarchive") == (409, "plan-has-no-price")


async def test_an_archived_product_takes_no_new_plans_and_an_archived_meter_nothing(
    staff: Client, shop: Shop
) -> None:
    product = await staff.post("/v1/products", code=f"p-{new_id()}", name="Suite")
    meter = await staff.post("/v1/meters", code=f"m-{new_id()}", name="Calls", unit="call")
    plan = await shop.plan(product_id=product["id"])
    await staff.post(f"/v1/products/{product['id']}/archive")
    await staff.post(f"/v1/meters/{meter['id']}/archive")

    other = {"code": f"p-{new_id()}", "name": "Other", "product_id": product["id"]}
    assert await staff.refused("/v1/plans", **other) == (409, "not-on-sale")
    price = {"plan_id": plan["id"], "currency": "EUR", "type": "metered", "interval": "month"}
    price |= {"unit_amount": 1, "aggregation": "sum", "meter_id": meter["id"]}
    assert await staff.refused("/v1/prices", **price) == (409, "not-on-sale")
    feature = {"code": f"f-{new_id()}", "name": "Calls", "type": "metered"}
    feature |= {"meter_id": meter["id"]}
    assert await staff.refused("/v1/features", **feature) == (409, "not-on-sale")
    for path, body in (("/v1/plans", other), ("/v1/prices", price), ("/v1/features", feature)):
        name = "product_id" if path == "/v1/plans" else "meter_id"
        status, _ = await staff.refused(path, **{**body, name: str(new_id())})
        assert status == 404, path


async def test_one_price_is_taken_off_sale_and_put_back_in_the_place_of_another(
    service: Running, staff: Client, shop: Shop, customer: Customer, publish: Publish
) -> None:
    first = await shop.price()
    held = await an_active_one(customer, publish, first)
    plan = await staff.get(f"/v1/plans/{first['plan_id']}")
    second = await shop.price(plan, unit_amount=1500)
    yearly = await shop.price(plan, unit_amount=9000, interval="year")
    old, new = f"/v1/prices/{first['id']}", f"/v1/prices/{second['id']}"

    async def on_sale() -> set[str]:
        return {one["id"] for one in (await staff.get(f"/v1/plans/{plan['id']}"))["prices"]}

    gone = await staff.post(f"{new}/archive")
    assert (gone["active"], gone["revision"]) == (False, 2)
    assert await staff.post(f"{new}/archive") == gone
    assert await on_sale() == {yearly["id"]}
    assert await customer.refused("/v1/subscriptions", price_id=second["id"]) == (
        409,
        "price-not-on-sale",
    )
    assert (await staff.post(f"{new}/unarchive"))["active"] is True
    stale = await staff.ask("POST", f"{old}/unarchive", headers={"If-Match": '"1"'})
    assert stale.status_code == 412
    assert (await staff.post(f"{old}/unarchive"))["version"] == 1
    assert await on_sale() == {first["id"], yearly["id"]}
    # Those who hold it held it all the time, and a plan is seen to have other prices.
    assert (await customer.get(f"/v1/subscriptions/{held['id']}"))["price_id"] == first["id"]
    assert (await staff.get(f"/v1/plans/{plan['id']}"))["revision"] > plan["revision"]
    last = (await audited(service, first))[-1]
    assert (last.action, last.before["on_sale"]) == ("price.unarchive", [second["id"]])
    assert await customer.refused(f"{old}/archive") == (403, "forbidden")
    assert await staff.refused(f"/v1/prices/{new_id()}/archive") == (404, "price-not-found")


async def test_other_features_of_a_plan_or_an_add_on_reach_those_who_hold_it(
    staff: Client, shop: Shop, customer: Customer, publish: Publish
) -> None:
    seats = f"seats-{new_id()}"
    await staff.post("/v1/features", code=seats, name="Seats", type="limit")
    granted = [{"feature": seats, "limit": 5}]
    plan = await shop.plan(features=granted)
    addon = await staff.post("/v1/addons", code=f"a-{new_id()}", name="Seats", features=granted)
    own = {"addon_id": addon["id"], "currency": "EUR", "type": "flat", "interval": "month"}
    await staff.post("/v1/prices", **own, unit_amount=100)
    price = await shop.price(plan)
    await an_active_one(customer, publish, price, addons=[{"addon_id": addon["id"]}])

    async def limit(expected: int) -> Any:
        found = await customer.get(f"/v1/entitlements/{seats}")
        return found["limit"] == expected

    await until(lambda: limit(10))
    await patch(staff, f"/v1/plans/{plan['id']}", features=[{"feature": seats, "limit": 20}])
    await until(lambda: limit(25))
    await patch(staff, f"/v1/addons/{addon['id']}", features=[])
    await until(lambda: limit(20))
