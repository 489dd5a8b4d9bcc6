"""A preview equals the invoice that follows it: to the minor unit, with tax, total and words.

Subscriptions, invoicing and payments run together; each act is previewed, done, and compared with
what was made of it, and so is the invoice that comes by itself after it.
"""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from shared.ids import new_id
from tests.billing.previewed import Life, total
from tests.subscriptions.conftest import Client, Shop
from tests.tokens import TokenIssuer

pytestmark = [pytest.mark.servers, pytest.mark.long, pytest.mark.timeout(600)]

TIERS = [
    {"up_to": 5, "unit_amount_decimal": "700", "flat_amount": 0},
    {"up_to": None, "unit_amount_decimal": "650.5", "flat_amount": 100},
]

Begin = Callable[..., Awaitable[Life]]


# ---- what comes by itself -------------------------------------------------------------------


async def test_a_renewal(begin: Begin, shop: Shop) -> None:
    life = await begin()
    path = await life.subscribe(await shop.price(unit_amount=1999))

    for _ in range(2):  # the last of January, and the last of February
        invoice = await life.comes_next(path)
        assert total(invoice) == 2379


async def test_the_end_of_a_trial(begin: Begin, shop: Shop) -> None:
    life = await begin()
    plan = await shop.plan(trial_days=14)
    path = await life.subscribe(await shop.price(plan, unit_amount=2500, tax_behavior="inclusive"))

    assert total(await life.comes_next(path)) == 2500
    assert total(await life.comes_next(path)) == 2500


async def test_usage_so_far_in_tiers(begin: Begin, shop: Shop, staff: Client) -> None:
    life = await begin()
    meter = await staff.post("/v1/meters", code=f"m-{new_id()}", name="Calls")
    price = await shop.price(
        type="metered", tier_mode="graduated", tiers=TIERS, meter_id=meter["id"], aggregation="sum"
    )
    path = await life.subscribe(price)
    await used(life, path, meter, 4)
    early = await life.customer.get(
        "/v1/invoices/upcoming", subscription_id=path.rpartition("/")[2]
    )
    await life.half_way(path)
    await used(life, path, meter, "7.5")

    assert early["subtotal"]["amount"] == 2800
    invoice = await life.comes_next(path)
    assert invoice["subtotal"]["amount"] == 5 * 700 + 4228 + 100


async def test_a_base_fee_and_its_components(begin: Begin, shop: Shop, staff: Client) -> None:
    life = await begin()
    meter = await staff.post("/v1/meters", code=f"m-{new_id()}", name="Calls")
    plan = await shop.plan()
    base = await shop.price(plan, unit_amount=5000)
    await staff.post(
        "/v1/prices",
        plan_id=plan["id"],
        currency="EUR",
        type="metered",
        interval="month",
        unit_amount=3,
        meter_id=meter["id"],
        aggregation="sum",
        component=True,
    )
    path = await life.subscribe(base)
    await used(life, path, meter, 100)

    assert (await life.comes_next(path))["subtotal"]["amount"] == 5300


async def test_one_invoice_for_all_that_renews_on_a_day(begin: Begin, shop: Shop) -> None:
    life = await begin("AT")
    await life.bill_to(address={"country": "AT"}, consolidated_billing=True)
    price = await shop.price(unit_amount=1000)
    weekly = await shop.price(unit_amount=300, interval="week")
    path = await life.subscribe(price, billing="calendar")
    await life.subscribe(price, billing="calendar")
    await life.subscribe(weekly, billing="calendar")

    invoice = await life.comes_next(path, wait=timedelta(days=1))

    assert len(invoice["subscription_ids"]) > 1
    assert (await life.comes_next(path, wait=timedelta(days=1)))["total"]


async def test_another_country_from_now_on(begin: Begin, shop: Shop) -> None:
    life = await begin("DE")
    path = await life.subscribe(await shop.price(unit_amount=1000))
    await life.bill_to(name="Société", address={"country": "FR"}, vat_id="FR40303265045")

    assert total(await life.comes_next(path)) == 1000
    await life.bill_to(name="Elle", address={"country": "FR"})
    assert total(await life.comes_next(path)) == 1200


async def test_a_rate_that_is_cut_within_a_period(begin: Begin, shop: Shop) -> None:
    life = await begin("DE", at=datetime(2020, 6, 16, tzinfo=UTC))
    price = await shop.price(unit_amount=1000)
    ends, goes_on = await life.subscribe(price), await life.subscribe(price)
    await life.advance(datetime(2020, 7, 6, tzinfo=UTC))

    preview = await life.does(ends, "cancel", at_period_end=False, credit=True)

    (note,) = preview["credit_notes"]
    assert [tax["rate"] for tax in note["taxes"]] == ["19"]
    assert [tax["rate"] for tax in (await life.comes_next(goes_on))["taxes"]] == ["16"]


async def test_an_invoice_that_is_looked_at_first(begin: Begin, shop: Shop) -> None:
    life = await begin()
    entity = {"name": "Slow", "country": "DE", "vat_id": "DE136695976", "draft_hours": 6}
    made = await life.invoicing.post("/v1/legal-entities", **entity)
    await life.bill_to(address={"country": "DE"}, legal_entity_id=made["id"])
    path = await life.subscribe(await shop.price(type="per_unit", unit_amount=1000))

    preview = await life.does(path, "change", quantity=3)
    assert preview["invoice"]["finalizes_at"]
    await life.comes_next(path, wait=timedelta(hours=7))


async def test_a_key_that_may_preview_may_have_it_priced(
    begin: Begin, shop: Shop, issuer: TokenIssuer
) -> None:
    life = await begin()
    path = await life.subscribe(await shop.price(unit_amount=1000))
    headers = issuer.of_account(life.account_id, scope="subscriptions:read")
    reader = Client(life.services.subscriptions.http, headers)

    preview = await reader.post(f"{path}/preview")

    assert preview["next_invoice"]["invoice"]["total"]["amount"] == 1190


async def test_account_credit_is_used_in_the_order_in_which_invoices_come(
    begin: Begin, shop: Shop
) -> None:
    life = await begin()
    gift = {"amount": 2000, "currency": "EUR"}
    await life.invoicing.post("/v1/account-credit", amount=gift, note="Welcome")
    small = await shop.price(type="per_unit", unit_amount=1000)
    path = await life.subscribe(small)
    await life.half_way(path)

    preview = await life.does(path, "change", quantity=2)

    assert preview["invoice"]["credit_applied"]["amount"] > 0
    left = 2000 - 1190 - preview["invoice"]["credit_applied"]["amount"]
    assert preview["next_invoice"]["invoice"]["credit_applied"]["amount"] == left
    await life.comes_next(path)


# ---- changes --------------------------------------------------------------------------------


@pytest.mark.parametrize("proration", ["prorate_now", "prorate_next", "none", "at_period_end"])
@pytest.mark.parametrize(("held", "wanted"), [(1000, 4900), (4900, 1000)])
async def test_a_change(begin: Begin, shop: Shop, proration: str, held: int, wanted: int) -> None:
    life = await begin()
    path = await life.subscribe(await shop.price(unit_amount=held))
    other = await shop.price(unit_amount=wanted)
    await life.half_way(path)

    await life.does(path, "change", price_id=other["id"], proration=proration)

    await life.comes_next(path)
    assert (await life.comes_next(path))["subtotal"]["amount"] == wanted


async def test_a_change_of_rhythm(begin: Begin, shop: Shop) -> None:
    life = await begin()
    path = await life.subscribe(await shop.price(unit_amount=1000))
    yearly = await shop.price(unit_amount=9900, interval="year")
    await life.half_way(path)

    preview = await life.does(path, "change", price_id=yearly["id"], proration="prorate_now")

    assert preview["invoice"]["subtotal"]["amount"] > 9000
    assert (await life.comes_next(path))["subtotal"]["amount"] == 9900


async def test_a_change_twice_in_a_period(begin: Begin, shop: Shop) -> None:
    life = await begin()
    seats = await shop.price(type="per_unit", unit_amount=1333)
    path = await life.subscribe(seats, quantity=3)
    await life.half_way(path)
    await life.does(path, "change", quantity=7, proration="prorate_now")
    await life.advance(life.now + timedelta(days=3))
    await life.does(path, "change", quantity=2, proration="prorate_now")

    await life.comes_next(path)


async def test_a_change_at_a_date_takes_back_what_was_changed_meanwhile(
    begin: Begin, shop: Shop
) -> None:
    life = await begin()
    seats = await shop.price(type="per_unit", unit_amount=1333)
    path = await life.subscribe(seats)
    at = (life.now + timedelta(days=9)).isoformat()
    await life.does(path, "change", quantity=2, effective_at=at, proration="prorate_now")
    await life.does(path, "change", quantity=5, proration="prorate_now")

    invoice, (note,) = await life.passes(path)
    assert invoice is not None
    assert invoice["amount_due"]["amount"] == 0  # the note's credit pays it
    assert note["credit"]["amount"] > invoice["total"]["amount"] > 0
    await life.comes_next(path)


async def test_a_change_that_waits_for_its_payment(begin: Begin, shop: Shop) -> None:
    life = await begin()
    path = await life.subscribe(await shop.price(unit_amount=1000))
    dearer = await shop.price(unit_amount=9000)
    await life.half_way(path)

    preview = await life.does(
        path, "change", price_id=dearer["id"], payment_behavior="pending_if_unpaid"
    )

    assert preview["event"] == "subscription.change_pending"
    assert (await life.comes_next(path))["subtotal"]["amount"] == 9000


async def test_credit_that_a_lapsed_change_gives_back(begin: Begin, shop: Shop) -> None:
    """It paid a part of an invoice that is void by the time of the next one."""
    life = await begin()
    path = await life.subscribe(await shop.price(unit_amount=1000))
    dearer, dearest = await shop.price(unit_amount=9000), await shop.price(unit_amount=9900)
    await life.half_way(path)
    await life.invoicing.post(
        "/v1/account-credit", amount={"amount": 700, "currency": "EUR"}, note="Sorry"
    )
    await life.pay_with("tok_insufficient_funds")
    waits = {"payment_behavior": "pending_if_unpaid"}
    await life.does(path, "change", price_id=dearer["id"], **waits)
    await life.does(path, "change", price_id=dearest["id"], **waits)
    life.foretold.pop(path)  # it was taken for paid

    renewed = await life.comes_next(path)

    assert renewed["subtotal"]["amount"] == 1000
    assert renewed["credit_applied"]["amount"] == 700


async def test_addons_and_one_offs(begin: Begin, shop: Shop, staff: Client) -> None:
    life = await begin()
    path = await life.subscribe(await shop.price(unit_amount=1000))
    addons = []
    for name, more in (("Backups", {"interval": "month"}), ("Set-up", {"type": "one_off"})):
        addon = await staff.post("/v1/addons", code=f"a-{new_id()}", name=name)
        price = {"currency": "EUR", "type": "per_unit", "unit_amount": 250, **more}
        await staff.post("/v1/prices", addon_id=addon["id"], **price)
        addons.append(addon["id"])
    await life.half_way(path)

    both = [{"addon_id": addon, "quantity": 2} for addon in addons]
    preview = await life.does(path, "change", addons=both, proration="prorate_now")
    assert preview["invoice"]["subtotal"]["amount"] > 500
    await life.comes_next(path)
    await life.half_way(path)
    await life.does(path, "change", addons=both[1:], proration="prorate_now")
    await life.comes_next(path)


# ---- coupons --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "coupon",
    [
        {"percent": "15", "duration": "repeating", "periods": 2},
        {"percent": "50", "duration": "once"},
        {"amount": 900, "currency": "EUR", "duration": "forever"},
    ],
    ids=lambda coupon: coupon["duration"],
)
async def test_a_coupon(begin: Begin, shop: Shop, staff: Client, coupon: dict[str, Any]) -> None:
    life = await begin()
    code = f"c-{new_id()}"
    await staff.post("/v1/coupons", code=code, name="Off", **coupon)
    path = await life.subscribe(await shop.price(type="per_unit", unit_amount=1000), coupon=code)
    await life.half_way(path)
    await life.does(path, "change", quantity=3, proration="prorate_now")

    for _ in range(3):
        await life.comes_next(path)


# ---- ends, rests, and what waits ------------------------------------------------------------


async def test_an_end_with_credit(begin: Begin, shop: Shop) -> None:
    life = await begin()
    path = await life.subscribe(await shop.price(unit_amount=3000))
    await life.half_way(path)

    preview = await life.does(path, "cancel", at_period_end=False, credit=True)

    (note,) = preview["credit_notes"]
    assert preview["invoice"] is preview["next_invoice"] is None
    assert abs(note["credit"]["amount"] - 1785) < 5


async def test_an_end_with_credit_of_what_was_never_paid(begin: Begin, shop: Shop) -> None:
    life = await begin()
    path = await life.subscribe(await shop.price(unit_amount=3000))
    await life.pay_with("tok_insufficient_funds")
    await life.comes_next(path)
    assert (await life.subscriptions.get(path))["status"] == "past_due"

    preview = await life.does(path, "cancel", at_period_end=False, credit=True)

    (note,) = preview["credit_notes"]
    assert note["reduction"]["amount"] == note["total"]["amount"] > 3500
    assert note["credit"]["amount"] == note["refund"]["amount"] == 0


async def test_an_end_with_usage(begin: Begin, shop: Shop, staff: Client) -> None:
    life = await begin()
    meter = await staff.post("/v1/meters", code=f"m-{new_id()}", name="Calls")
    price = await shop.price(type="metered", unit_amount=7, meter_id=meter["id"], aggregation="sum")
    now, later = await life.subscribe(price), await life.subscribe(price)
    for path in (now, later):
        await used(life, path, meter, 100)
    await life.settle()

    preview = await life.does(now, "cancel", at_period_end=False)
    assert preview["invoice"]["subtotal"]["amount"] == 700
    await life.does(later, "cancel")
    assert (await life.comes_next(later))["subtotal"]["amount"] == 700


async def test_a_pause_and_its_end(begin: Begin, shop: Shop) -> None:
    life = await begin()
    path = await life.subscribe(await shop.price(unit_amount=3000))
    await life.subscriptions.post(f"{path}/pause")
    ends = (await life.subscriptions.get(path))["current_period_end"]
    await life.advance(datetime.fromisoformat(ends) + timedelta(days=4))

    preview = await life.does(path, "resume")

    assert preview["invoice"]["subtotal"]["amount"] == 3000
    await life.comes_next(path)


async def test_what_waits_is_in_what_comes_next(begin: Begin, shop: Shop) -> None:
    life = await begin()
    seats = await shop.price(type="per_unit", unit_amount=2000)
    path = await life.subscribe(seats, quantity=3)
    cheaper = await shop.price(type="per_unit", unit_amount=500)
    await life.half_way(path)
    await life.does(path, "change", price_id=cheaper["id"], proration="at_period_end")
    await life.does(path, "change", quantity=1, proration="at_period_end")

    assert (await life.comes_next(path))["subtotal"]["amount"] == 500


async def used(life: Life, path: str, meter: dict[str, Any], value: float | str) -> None:
    await life.subscriptions.post(
        "/v1/usage-events",
        id=str(new_id()),
        meter=meter["code"],
        value=str(value),
        subscription_id=path.rpartition("/")[2],
    )
