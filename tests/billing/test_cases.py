"""Small inputs that billing systems are known to get wrong, each with the right value.

Subscriptions, invoicing and payments run together, over HTTP and in simulated time.
"""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from shared.ids import new_id
from tests.billing.previewed import Json, Life, total
from tests.subscriptions.conftest import Client, Shop, until

pytestmark = [pytest.mark.servers, pytest.mark.timeout(600)]

Begin = Callable[..., Awaitable[Life]]

APRIL = datetime(2026, 4, 1, tzinfo=UTC)
EXEMPT = {"address": {"country": "DE"}, "exemption_reason": "Tried without tax"}


@pytest.fixture
def exempt(begin: Begin) -> Begin:
    """An account that pays no tax, from the start of a month of thirty days."""

    async def make(**how: Any) -> Life:
        life = await begin(**{"at": APRIL, **how})
        await life.bill_to(**EXEMPT)
        return life

    return make


async def credit_of(life: Life) -> int:
    """The account's credit in euro."""
    balances = (await life.invoicing.get("/v1/account-credit"))["balances"]
    return sum(one["amount"] for one in balances)


async def invoices_of(life: Life) -> list[Json]:
    """All invoices of the account, oldest first."""
    found: list[Json] = (await life.invoicing.get("/v1/invoices", limit=100))["data"]
    return found[::-1]


async def totals(life: Life) -> list[int]:
    return [total(invoice) for invoice in await invoices_of(life)]


async def credited(life: Life) -> list[int]:
    """What credit notes took back, oldest first."""
    found = (await life.invoicing.get("/v1/credit-notes", limit=100))["data"]
    return [note["total"]["amount"] for note in found[::-1]]


async def change(life: Life, path: str, price: Json | None = None, **more: Any) -> Json:
    body = {"price_id": price["id"], **more} if price else more
    made: Json = await life.subscriptions.post(f"{path}/change", **body)
    await life.settle()
    return made


async def cancel(life: Life, path: str, **more: Any) -> None:
    await life.subscriptions.post(f"{path}/cancel", at_period_end=False, **more)
    await life.settle()


def days(number: float) -> datetime:
    return APRIL + timedelta(days=number)


# --- 1: credit follows what was billed, not the price held ---------------------------------------


async def test_a_price_that_was_never_billed_is_not_given_back(exempt: Begin, shop: Shop) -> None:
    life = await exempt()
    path = await life.subscribe(await shop.price(unit_amount=100))
    await change(life, path, await shop.price(unit_amount=100_000), proration="none")

    await cancel(life, path, credit=True)

    assert 0 < await credit_of(life) <= 100


async def test_a_difference_that_was_let_be_is_not_billed_on_the_way_back(
    exempt: Begin, shop: Shop
) -> None:
    life = await exempt()
    dear, cheap = await shop.price(unit_amount=2000), await shop.price(unit_amount=100)
    path = await life.subscribe(dear)
    await change(life, path, cheap, proration="none")
    await life.advance(days(10))

    await change(life, path, dear, proration="prorate_now")

    assert sum(await totals(life)) - sum(await credited(life)) == 2000


# --- 2: a take-back is worth what its line came to -----------------------------------------------


@pytest.mark.parametrize(
    "value", [{"amount": 900, "currency": "EUR"}, {"percent": "90"}], ids=["fixed", "percent"]
)
async def test_what_a_coupon_took_off_is_not_given_back(
    value: Json, exempt: Begin, shop: Shop, staff: Client
) -> None:
    life = await exempt()
    code = f"C-{new_id()}"
    await staff.post("/v1/coupons", code=code, name="Much off", **value)
    path = await life.subscribe(await shop.price(unit_amount=1000), coupon=code)
    assert await totals(life) == [100]

    await cancel(life, path, credit=True)

    assert 0 < await credit_of(life) <= 100


# --- 3: nothing goes back twice ------------------------------------------------------------------


async def test_what_a_credit_note_took_back_is_not_given_again(exempt: Begin, shop: Shop) -> None:
    life = await exempt()
    path = await life.subscribe(await shop.price(unit_amount=1000))
    (invoice,) = await invoices_of(life)
    await life.invoicing.post(
        "/v1/credit-notes", invoice_id=invoice["id"], reason="Goodwill", settle="credit"
    )

    await cancel(life, path, credit=True)

    assert await credit_of(life) == 1000


async def test_what_was_refunded_by_hand_is_not_given_again(exempt: Begin, shop: Shop) -> None:
    life = await exempt()
    path = await life.subscribe(await shop.price(unit_amount=1000))
    payments = life.payments
    (payment,) = (await payments.get("/v1/payments"))["data"]
    await payments.post(f"/v1/payments/{payment['id']}/refunds")
    await life.settle()

    await cancel(life, path, credit=True)

    assert await credit_of(life) == 0


async def test_part_of_a_credit_note_counts_toward_what_is_given_back(
    exempt: Begin, shop: Shop
) -> None:
    life = await exempt()
    path = await life.subscribe(await shop.price(unit_amount=3000))
    (invoice,) = await invoices_of(life)
    await life.invoicing.post(
        "/v1/credit-notes", invoice_id=invoice["id"], reason="Goodwill", settle="credit", amount=500
    )
    await life.advance(days(15))

    await cancel(life, path, credit=True)

    assert abs(await credit_of(life) - 1500) <= 1


# --- 4: what is not paid is owed less ------------------------------------------------------------


async def test_an_open_invoice_is_reduced_to_the_part_that_was_used(
    exempt: Begin, shop: Shop
) -> None:
    life = await exempt()
    path = await life.subscribe(await shop.price(unit_amount=3000))
    await life.pay_with("tok_insufficient_funds")
    await life.advance(datetime(2026, 5, 1, 12, tzinfo=UTC))
    assert (await life.subscriptions.get(path))["status"] == "past_due"

    await cancel(life, path, credit=True)

    assert await credit_of(life) == 0
    invoice = (await invoices_of(life))[-1]
    assert invoice["status"] == "open"
    assert 0 < invoice["amount_remaining"]["amount"] <= 50  # half a day of 31
    payment = (await life.payments.get("/v1/payments"))["data"][0]
    assert payment["amount"]["amount"] == invoice["amount_remaining"]["amount"]


# --- 5: a take-back has the tax of its line ------------------------------------------------------


async def test_what_bore_no_tax_comes_back_without_tax(begin: Begin, shop: Shop) -> None:
    life = await begin("FR", at=APRIL)
    await life.bill_to(address={"country": "FR"}, vat_id="FR40303265045")
    path = await life.subscribe(await shop.price(unit_amount=1000))
    assert await totals(life) == [1000]
    await life.bill_to(address={"country": "FR"})

    await cancel(life, path, credit=True)

    assert 990 <= await credit_of(life) <= 1000


async def test_a_rate_that_was_cut_meanwhile_does_not_count(begin: Begin, shop: Shop) -> None:
    life = await begin("DE", at=datetime(2020, 6, 20, 22, tzinfo=UTC))
    path = await life.subscribe(await shop.price(unit_amount=1000))
    assert await totals(life) == [1190]
    await life.advance(datetime(2020, 7, 10, 22, tzinfo=UTC))

    await cancel(life, path, credit=True)

    assert abs(await credit_of(life) - 397) <= 1  # a third of 11.90, with 19 %
    (note,) = (await life.invoicing.get("/v1/credit-notes"))["data"]
    assert note["taxes"][0]["rate"] == "19"


# --- 6: what waits brings its interval -----------------------------------------------------------


async def test_a_yearly_price_that_waits_for_a_trials_end_is_billed_once_a_year(
    exempt: Begin, shop: Shop
) -> None:
    life = await exempt()
    monthly = await shop.price(await shop.plan(trial_days=14), unit_amount=1000)
    yearly = await shop.price(unit_amount=10_000, interval="year")
    path = await life.subscribe(monthly)
    await change(life, path, yearly)

    await life.advance(days(120))

    assert await totals(life) == [10_000]
    held = await life.subscriptions.get(path)
    assert held["current_period_end"].startswith("2027-04-15")


async def test_an_interval_that_waits_behind_a_pause_counts_when_it_wakes(
    exempt: Begin, shop: Shop
) -> None:
    life = await exempt()
    monthly = await shop.price(unit_amount=1000)
    yearly = await shop.price(unit_amount=10_000, interval="year")
    path = await life.subscribe(monthly)
    await change(life, path, yearly, proration="at_period_end")
    await life.subscriptions.post(f"{path}/pause")
    await life.advance(days(40))

    await life.subscriptions.post(f"{path}/resume")
    await life.advance(days(150))

    assert await totals(life) == [1000, 10_000]


# --- 7: what was to happen happens, whatever lies between ----------------------------------------


async def test_a_cancellation_that_waits_ends_it_also_while_it_is_unpaid(
    exempt: Begin, shop: Shop
) -> None:
    life = await exempt()
    plan = await shop.plan(dunning={"days": [1], "then": "unpaid"})
    path = await life.subscribe(await shop.price(plan, unit_amount=1000))
    await life.pay_with("tok_insufficient_funds")
    await life.advance(days(30.5))
    await life.subscriptions.post(f"{path}/cancel")
    await life.advance(days(45))
    assert (await life.subscriptions.get(path))["status"] == "unpaid"

    await life.advance(days(75))
    card = await life.pay_with("tok_ok")
    invoice = (await invoices_of(life))[-1]
    await life.payments.post(f"/v1/invoices/{invoice['id']}/pay", payment_method_id=card)
    await life.settle()
    assert (await invoices_of(life))[-1]["status"] == "paid"

    assert (await life.subscriptions.get(path))["status"] == "canceled"
    assert await totals(life) == [1000, 1000]


# --- 8: changes that wait compose ----------------------------------------------------------------


async def test_changes_that_wait_are_both_there_when_the_period_ends(
    exempt: Begin, shop: Shop
) -> None:
    life = await exempt()
    dear = await shop.price(unit_amount=2000, type="per_unit")
    cheap = await shop.price(await shop.plan(), unit_amount=500, type="per_unit")
    path = await life.subscribe(dear, quantity=3)
    await change(life, path, cheap)
    held = await change(life, path, quantity=1)

    assert held["scheduled_change"]["price_id"] == cheap["id"]
    assert held["scheduled_change"]["quantity"] == 1
    await life.advance(days(31))
    assert await totals(life) == [6000, 500]


async def test_a_price_move_takes_nobody_out_of_what_they_wait_for(
    exempt: Begin, shop: Shop, staff: Client
) -> None:
    life = await exempt()
    old, new = await shop.price(unit_amount=2000), await shop.price(unit_amount=3000)
    cheap = await shop.price(unit_amount=500)
    waits = await life.subscribe(old)
    stays = await life.subscribe(old)
    await change(life, waits, cheap)

    move = await staff.post("/v1/price-moves", from_price_id=old["id"], to_price_id=new["id"])

    async def moved() -> bool:
        found = await staff.get(f"/v1/price-moves/{move['id']}")
        return bool(found["status"] == "done")

    await until(moved)
    await life.advance(days(31))
    assert sorted((await totals(life))[2:]) == [500, 3000]
    assert (await life.subscriptions.get(stays))["price_id"] == new["id"]


# --- 9: coupons count where they are meant to ----------------------------------------------------


async def test_a_coupon_for_once_is_used_up_by_one_period(
    exempt: Begin, shop: Shop, staff: Client
) -> None:
    life = await exempt()
    code = f"C-{new_id()}"
    await staff.post("/v1/coupons", code=code, name="Half", percent="50")
    path = await life.subscribe(await shop.price(unit_amount=2000), coupon=code)
    await life.advance(days(15))

    yearly = await shop.price(unit_amount=20_000, interval="year")
    await change(life, path, yearly, proration="prorate_now")

    # A year in full, less what was left of a month that had cost half.
    spent = sum(await totals(life)) - sum(await credited(life))
    assert abs(spent - (1000 + 20_000 - 500)) <= 1


async def test_a_coupon_for_one_plan_does_not_follow_to_another(
    exempt: Begin, shop: Shop, staff: Client
) -> None:
    life = await exempt()
    first, second = await shop.plan(), await shop.plan()
    cheap = await shop.price(first, unit_amount=1000)
    dear = await shop.price(second, unit_amount=2000)
    code = f"C-{new_id()}"
    await staff.post(
        "/v1/coupons",
        code=code,
        name="Half",
        percent="50",
        duration="forever",
        plan_ids=[first["id"]],
    )
    path = await life.subscribe(cheap, coupon=code)
    await change(life, path, dear, proration="at_period_end")
    await life.advance(days(31))
    await change(life, path, cheap, proration="at_period_end")
    await life.advance(days(62))

    assert await totals(life) == [500, 2000, 500]


async def test_the_last_bill_of_usage_has_its_coupon_too(
    exempt: Begin, shop: Shop, staff: Client
) -> None:
    life = await exempt()
    code = f"C-{new_id()}"
    await staff.post("/v1/coupons", code=code, name="Half", percent="50", duration="forever")
    meter = await staff.post("/v1/meters", code=f"m-{new_id()}", name="Calls")
    price = await shop.price(type="metered", unit_amount=1, meter_id=meter["id"], aggregation="sum")
    path = await life.subscribe(price, coupon=code)
    await use(life, path, meter, 500)
    await life.subscriptions.post(f"{path}/cancel")

    await life.advance(days(31))

    assert await totals(life) == [250]


async def use(life: Life, path: str, meter: Json, value: int, **more: Any) -> str:
    event_id = str(new_id())
    await life.subscriptions.post(
        "/v1/usage-events",
        id=event_id,
        meter=meter["code"],
        value=value,
        subscription_id=path.rpartition("/")[2],
        **more,
    )
    return event_id


# --- 10: usage that was taken is billed ----------------------------------------------------------


async def test_usage_of_before_a_change_is_billed_however_late_it_comes(
    exempt: Begin, shop: Shop, staff: Client
) -> None:
    life = await exempt()
    meter = await staff.post("/v1/meters", code=f"m-{new_id()}", name="Calls", grace_hours=240)
    metered = {"type": "metered", "meter_id": meter["id"], "aggregation": "sum"}
    old = await shop.price(unit_amount=10, **metered)
    path = await life.subscribe(old)
    await life.advance(days(15))
    await change(life, path, await shop.price(unit_amount=20, **metered), proration="prorate_now")
    await life.advance(days(16))

    await use(life, path, meter, 7, at=days(9).isoformat())
    await life.advance(days(31))

    assert sum(await totals(life)) == 70


async def test_usage_of_before_it_went_unpaid_is_billed(
    exempt: Begin, shop: Shop, staff: Client
) -> None:
    life = await exempt()
    meter = await staff.post("/v1/meters", code=f"m-{new_id()}", name="Calls")
    plan = await shop.plan(dunning={"days": [1], "then": "unpaid"})
    base = await shop.price(plan, unit_amount=1000)
    await staff.post(
        "/v1/prices",
        plan_id=plan["id"],
        currency="EUR",
        interval="month",
        type="metered",
        unit_amount=10,
        meter_id=meter["id"],
        aggregation="sum",
        component=True,
    )
    path = await life.subscribe(base)
    await life.pay_with("tok_insufficient_funds")
    await life.advance(days(30.5))
    await use(life, path, meter, 5)

    await life.advance(days(40))

    assert (await life.subscriptions.get(path))["status"] == "unpaid"
    assert await totals(life) == [1000, 1000, 50]


# --- 11: one-offs are billed once for each unit --------------------------------------------------


async def test_a_one_off_that_waited_is_billed_and_one_more_unit_is_one_more(
    exempt: Begin, shop: Shop, staff: Client
) -> None:
    life = await exempt()
    addon = await staff.post("/v1/addons", code=f"a-{new_id()}", name="Training")
    once = await staff.post(
        "/v1/prices", addon_id=addon["id"], currency="EUR", type="one_off", unit_amount=300
    )
    path = await life.subscribe(await shop.price(unit_amount=1000))

    def training(quantity: int) -> Json:
        return {"addons": [{"price_id": once["id"], "quantity": quantity}]}

    await change(life, path, proration="at_period_end", **training(1))
    await life.advance(days(31))
    assert await totals(life) == [1000, 1300]

    await change(life, path, proration="prorate_now", **training(2))
    assert await totals(life) == [1000, 1300, 300]
    await life.advance(days(62))
    assert await totals(life) == [1000, 1300, 300, 1000]


# --- 12: single ones -----------------------------------------------------------------------------


async def test_another_interval_is_never_on_credit(exempt: Begin, shop: Shop) -> None:
    life = await exempt()
    path = await life.subscribe(await shop.price(unit_amount=1000))

    await change(
        life,
        path,
        await shop.price(unit_amount=10_000, interval="year"),
        proration="prorate_next",
    )

    assert sum(await totals(life)) - sum(await credited(life)) >= 10_000


async def test_an_addon_named_twice_can_be_reduced_to_one(
    exempt: Begin, shop: Shop, staff: Client
) -> None:
    life = await exempt()
    addon = await staff.post("/v1/addons", code=f"a-{new_id()}", name="Seat")
    seat = await staff.post(
        "/v1/prices",
        addon_id=addon["id"],
        currency="EUR",
        type="per_unit",
        interval="month",
        unit_amount=300,
    )
    path = await life.subscribe(
        await shop.price(unit_amount=1000), addons=[{"price_id": seat["id"]}] * 2
    )
    assert await totals(life) == [1600]

    await change(life, path, addons=[{"price_id": seat["id"]}])
    await life.advance(days(31))

    assert await totals(life) == [1600, 1300]


async def test_a_voided_invoice_is_made_again_once(exempt: Begin, shop: Shop) -> None:
    life = await exempt()
    await life.subscribe(await shop.price(unit_amount=1000))
    await life.pay_with("tok_insufficient_funds")
    await life.advance(days(30.5))
    voided = (await invoices_of(life))[-1]
    await life.invoicing.post(f"/v1/invoices/{voided['id']}/void")
    await life.invoicing.post(f"/v1/invoices/{voided['id']}/reissue")

    status, _ = await life.invoicing.refused(f"/v1/invoices/{voided['id']}/reissue")

    assert status == 409


# --- 14: what is too large is refused at the door ------------------------------------------------


async def test_what_is_too_large_is_refused_where_it_enters(
    exempt: Begin, shop: Shop, staff: Client
) -> None:
    life = await exempt()
    meter = await staff.post("/v1/meters", code=f"m-{new_id()}", name="Calls")
    metered = await shop.price(
        type="metered", unit_amount=1000, meter_id=meter["id"], aggregation="sum"
    )
    path = await life.subscribe(metered)
    status, code = await life.subscriptions.refused(
        "/v1/usage-events", id="much", meter=meter["code"], value="999999999999999"
    )
    assert (status, code) == (422, "amount-too-large")
    units = await shop.price(unit_amount=10**12, type="per_unit")
    status, code = await life.subscriptions.refused(
        "/v1/subscriptions", price_id=units["id"], quantity=1_000_000
    )
    assert (status, code) == (422, "amount-too-large")
    status, _ = await life.invoicing.refused(
        "/v1/account-credit", amount={"amount": 10**18, "currency": "EUR"}, note="Too much"
    )
    assert status == 422
    await cancel(life, path)
    assert (await life.subscriptions.get(path))["status"] == "canceled"


# --- 15: what customers may do -------------------------------------------------------------------


async def test_subscribers_do_what_their_plan_lets_them(exempt: Begin, shop: Shop) -> None:
    life = await exempt()
    cheap, dear = await shop.price(unit_amount=1000), await shop.price(unit_amount=900_000)
    path = await life.subscribe(cheap)
    customer = life.customer

    for proration in ("none", "prorate_next", "prorate_now", "at_period_end"):
        assert await customer.refused(
            f"{path}/change", price_id=dear["id"], proration=proration
        ) == (403, "not-self-service")
    assert await customer.refused(f"{path}/cancel", at_period_end=False) == (
        403,
        "not-self-service",
    )
    assert await customer.refused(f"{path}/cancel", credit=True) == (403, "not-self-service")
    await customer.post(f"{path}/change", price_id=dear["id"])
    await life.settle()
    assert sum(await totals(life)) - sum(await credited(life)) > 899_000


async def test_a_plan_may_let_its_subscribers_do_all(exempt: Begin, shop: Shop) -> None:
    life = await exempt()
    plan = await shop.plan(self_service="all")
    path = await life.subscribe(await shop.price(plan, unit_amount=1000))

    await life.customer.post(f"{path}/cancel", at_period_end=False, credit=True)
    await life.settle()

    assert await credit_of(life) == 1000


# --- a change that waits for its payment ---------------------------------------------------------


async def test_a_pending_upgrade_counts_once_it_is_paid(exempt: Begin, shop: Shop) -> None:
    life = await exempt()
    cheap, dear = await shop.price(unit_amount=1000), await shop.price(unit_amount=3000)
    path = await life.subscribe(cheap)
    await life.advance(days(15))

    await change(life, path, dear, payment_behavior="pending_if_unpaid")

    held = await life.subscriptions.get(path)
    assert (held["price_id"], held["pending_change"]) == (dear["id"], None)
    assert sum(await totals(life)) - sum(await credited(life)) == 2000


async def test_a_pending_upgrade_lapses_when_it_is_not_paid(exempt: Begin, shop: Shop) -> None:
    life = await exempt()
    cheap, dear = await shop.price(unit_amount=1000), await shop.price(unit_amount=3000)
    path = await life.subscribe(cheap)
    await life.pay_with("tok_insufficient_funds")
    await life.advance(days(15))

    await change(life, path, dear, payment_behavior="pending_if_unpaid")
    held = await life.subscriptions.get(path)
    assert (held["status"], held["price_id"]) == ("active", cheap["id"])
    assert held["pending_change"]["price_id"] == dear["id"]
    await life.advance(days(17))

    held = await life.subscriptions.get(path)
    assert (held["status"], held["price_id"], held["pending_change"]) == (
        "active",
        cheap["id"],
        None,
    )
    assert [i["status"] for i in await invoices_of(life)] == ["paid", "void"]
    assert await credited(life) == []


async def test_usage_while_an_upgrade_waits_for_its_payment_is_billed(
    exempt: Begin, shop: Shop, staff: Client
) -> None:
    life = await exempt()
    meter = await staff.post("/v1/meters", code=f"m-{new_id()}", name="Calls")
    metered = await shop.price(
        type="metered", unit_amount=1, meter_id=meter["id"], aggregation="sum"
    )
    path = await life.subscribe(metered)
    await life.pay_with("tok_insufficient_funds")
    await life.advance(days(15))
    await use(life, path, meter, 10)
    flat = await shop.price(unit_amount=3000)
    await change(life, path, flat, payment_behavior="pending_if_unpaid")
    await life.advance(days(15.5))
    await use(life, path, meter, 25)

    card = await life.pay_with("tok_ok")
    (invoice,) = await invoices_of(life)
    await life.payments.post(f"/v1/invoices/{invoice['id']}/pay", payment_method_id=card)
    await life.settle()

    assert (await life.subscriptions.get(path))["price_id"] == flat["id"]
    assert (await totals(life))[1:] == [35]
