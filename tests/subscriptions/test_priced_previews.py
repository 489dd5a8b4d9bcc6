"""What previews and the next invoice ask of invoicing, for whom, and what they make of it."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import select, text
from starlette.responses import JSONResponse, Response

from services.subscriptions import tables
from shared.events import Event
from shared.events.subscriptions import Billable
from shared.ids import new_id
from tests.conftest import service_named
from tests.harness import Deployment, Running, running
from tests.subscriptions.conftest import Client, Customer, Publish, Shop
from tests.subscriptions.stand_in import Asked, StandIn, served
from tests.subscriptions.test_subscriptions import an_active_one
from tests.tokens import TokenIssuer

CYCLE = "subscription.renewed"


def an_invoice(events: Sequence[Event], **more: Any) -> dict[str, Any]:
    """As invoicing would answer, with a field that this release has not heard of."""
    billed = [event for event in events if isinstance(event, Billable)]
    amount = sum(charge.amount for event in billed for charge in event.charges)
    currency = billed[-1].currency

    def money(amount: int) -> dict[str, Any]:
        return {"amount": amount, "currency": currency}

    subscriptions = sorted({str(event.subscription_id) for event in billed})
    return {
        "subscription_id": subscriptions[0] if len(subscriptions) == 1 else None,
        "subscription_ids": subscriptions,
        "billing_reason": "subscription_cycle",
        "currency": currency,
        "lines": [],
        **dict.fromkeys(("subtotal", "net", "total", "amount_due"), money(amount)),
        **dict.fromkeys(("discount", "tax", "credit_applied"), money(0)),
        "taxes": [],
        "finalizes_at": None,
        "of_a_later_release": [1, 2],
        **more,
    }


async def priced(asked: Asked) -> Response:
    """Every event on one invoice, as for an account that wants that."""
    return JSONResponse({"invoice": an_invoice(asked.events), "credit_notes": []})


async def priced_alone(asked: Asked) -> Response:
    return JSONResponse({"invoice": an_invoice(asked.events[-1:]), "credit_notes": []})


@pytest.fixture
async def invoicing() -> StandIn:
    made = StandIn()
    made.answer = priced
    return made


@pytest.fixture
async def buyer(
    deployment: Deployment, issuer: TokenIssuer, customer: Customer, invoicing: StandIn
) -> AsyncIterator[Customer]:
    """At an API of the same subscriptions that knows where invoicing is."""
    subscriptions = service_named("subscriptions")
    async with (
        served(invoicing) as url,
        running(subscriptions, deployment, issuer, worker=False, invoicing_url=url) as asking,
    ):
        yield replace(customer, http=asking.http)


def names(invoicing: StandIn) -> list[list[str]]:
    """The events of each time that it was asked."""
    return [[event.name for event in asked.events] for asked in invoicing.asked]


async def held(buyer: Customer, publish: Publish, shop: Shop, amount: int = 1000) -> str:
    """The path of an active subscription."""
    price = await shop.price(type="per_unit", unit_amount=amount)
    return f"/v1/subscriptions/{(await an_active_one(buyer, publish, price))['id']}"


async def test_a_change_is_priced_for_itself_and_the_next_invoice_after_it(
    buyer: Customer, publish: Publish, shop: Shop, invoicing: StandIn
) -> None:
    path = await held(buyer, publish, shop)
    dearer = await shop.price(unit_amount=5000)

    preview = await buyer.post(f"{path}/preview", price_id=dearer["id"])

    assert names(invoicing) == [
        ["subscription.changed"],
        ["subscription.changed", CYCLE],
    ]
    for asked in invoicing.asked:
        assert asked.headers["Authorization"] == buyer.headers["Authorization"]
        assert asked.headers["Perennial-Account"] == str(buyer.account_id)
        # A key may be bound to addresses, and is held to them by invoicing too.
        assert asked.headers["X-Forwarded-For"] == "127.0.0.1"
    assert preview["invoice"]["total"]["amount"] == preview["subtotal"]
    assert preview["invoice"]["of_a_later_release"] == [1, 2]
    assert preview["credit_notes"] == []
    assert [taken["kind"] for taken in preview["take_backs"]] == ["recurring"]
    assert preview["next_invoice"]["subtotal"] == 5000
    assert preview["next_invoice"]["invoice"]["total"]["amount"] == preview["subtotal"] + 5000


async def test_what_waits_for_the_next_invoice_is_on_it_and_nothing_is_invoiced_now(
    buyer: Customer, publish: Publish, shop: Shop, invoicing: StandIn, issuer: TokenIssuer
) -> None:
    path = await held(buyer, publish, shop)
    dearer = await shop.price(unit_amount=5000)
    operator = Client(buyer.http, issuer.of_staff("admin"))

    preview = await operator.post(
        f"{path}/preview", price_id=dearer["id"], proration="prorate_next"
    )

    assert names(invoicing) == [["subscription.changed", CYCLE]]
    assert (preview["invoice_now"], preview["invoice"]) == (False, None)
    assert preview["subtotal"] > 0
    assert preview["next_invoice"]["invoice"]["total"]["amount"] == preview["subtotal"] + 5000


async def test_where_nothing_is_billed_nobody_is_asked(
    buyer: Customer, publish: Publish, shop: Shop, invoicing: StandIn
) -> None:
    path = await held(buyer, publish, shop)

    end = await buyer.post(f"{path}/preview", cancel={})
    assert (end["event"], end["invoice"]) == ("subscription.cancellation_scheduled", None)
    assert end["next_invoice"] is None
    assert invoicing.asked == []
    await buyer.post(f"{path}/preview")
    assert names(invoicing) == [[CYCLE]]


async def test_nothing_is_locked_while_invoicing_takes_its_time(
    buyer: Customer, publish: Publish, shop: Shop, invoicing: StandIn, service: Running
) -> None:
    path = await held(buyer, publish, shop)
    table = tables.subscriptions.c

    async def look(asked: Asked) -> Response:
        about = UUID(path.rpartition("/")[2])
        async with service.runtime.begin() as uow:
            # News of its first invoice may hold it for a moment; a preview would until it is told.
            await uow.session.execute(text("SET LOCAL lock_timeout = '2s'"))
            locked = select(table.id).where(table.id == about).with_for_update()
            assert await uow.session.scalar(locked) == about
        return await priced(asked)

    invoicing.answer = look
    assert (await buyer.post(f"{path}/preview", quantity=3))["invoice"]


async def test_without_invoicing_no_amount_is_said(
    buyer: Customer, publish: Publish, shop: Shop, invoicing: StandIn
) -> None:
    path = await held(buyer, publish, shop)
    before = as_held(await buyer.get(path))
    invoicing.refuses(500, "internal-error", "Something went wrong.")

    answer = await buyer.ask("POST", f"{path}/preview", json={"quantity": 3})
    upcoming = f"/v1/invoices/upcoming?subscription_id={path.rpartition('/')[2]}"

    assert (answer.status_code, answer.json()["code"]) == (503, "invoicing-away")
    assert answer.headers["Retry-After"] == "1"
    assert (await buyer.ask("GET", upcoming)).json()["code"] == "invoicing-away"
    assert as_held(await buyer.get(path)) == before


def as_held(subscription: dict[str, Any]) -> dict[str, Any]:
    """All but the invoice that billed it: its news may come at any time."""
    return {name: said for name, said in subscription.items() if name != "latest_invoice_id"}


async def test_where_nobody_said_where_invoicing_is_a_preview_has_no_invoice(
    customer: Customer, publish: Publish, shop: Shop
) -> None:
    path = await held(customer, publish, shop)

    preview = await customer.post(f"{path}/preview", quantity=3)

    assert preview["subtotal"] > 0
    assert preview["invoice"] is None
    assert preview["next_invoice"]["invoice"] is None
    upcoming = f"/v1/invoices/upcoming?subscription_id={path.rpartition('/')[2]}"
    assert (await customer.ask("GET", upcoming)).json()["code"] == "invoicing-away"


async def test_what_invoicing_refuses_is_refused(
    buyer: Customer, publish: Publish, shop: Shop, invoicing: StandIn
) -> None:
    path = await held(buyer, publish, shop)
    invoicing.refuses(404, "account-not-found", "There is no such account.")

    answer = await buyer.ask("POST", f"{path}/preview", json={"quantity": 3})

    assert answer.status_code == 404
    problem = answer.json()
    assert problem["code"] == "account-not-found"
    assert problem["detail"] == "There is no such account."
    assert problem["instance"] == f"{path}/preview"


async def test_staff_need_not_name_the_account(
    buyer: Customer, publish: Publish, shop: Shop, invoicing: StandIn, issuer: TokenIssuer
) -> None:
    path = await held(buyer, publish, shop)
    operator = Client(buyer.http, issuer.of_staff("support"))

    await operator.post(f"{path}/preview")

    (asked,) = invoicing.asked
    assert asked.headers["Perennial-Account"] == str(buyer.account_id)


async def test_the_next_invoice_says_when_it_is_made(
    buyer: Customer, publish: Publish, shop: Shop, invoicing: StandIn
) -> None:
    path = await held(buyer, publish, shop)
    about = path.rpartition("/")[2]
    ends = (await buyer.get(path))["current_period_end"]

    found = await buyer.get("/v1/invoices/upcoming", subscription_id=about)

    assert found["finalizes_at"] == ends
    assert found["total"]["amount"] == 1000
    assert found["of_a_later_release"] == [1, 2]
    later = "2100-01-01T00:00:00Z"

    async def drafted(asked: Asked) -> Response:
        invoice = an_invoice(asked.events, finalizes_at=later)
        return JSONResponse({"invoice": invoice, "credit_notes": []})

    invoicing.answer = drafted
    found = await buyer.get("/v1/invoices/upcoming", subscription_id=about)
    assert found["finalizes_at"] == later


async def test_nobody_else_reads_the_next_invoice(
    buyer: Customer, publish: Publish, shop: Shop, invoicing: StandIn, issuer: TokenIssuer
) -> None:
    path = await held(buyer, publish, shop)
    query = f"/v1/invoices/upcoming?subscription_id={path.rpartition('/')[2]}"
    stranger = issuer.of_account(new_id())
    without_the_scope = issuer.of_account(buyer.account_id, scope="subscriptions:read")

    for headers, status in ((stranger, 404), (without_the_scope, 403), ({}, 401)):
        assert (await Client(buyer.http, headers).ask("GET", query)).status_code == status
    assert invoicing.asked == []


async def test_what_ends_has_no_next_invoice(
    buyer: Customer, publish: Publish, shop: Shop, invoicing: StandIn
) -> None:
    path = await held(buyer, publish, shop)
    query = f"/v1/invoices/upcoming?subscription_id={path.rpartition('/')[2]}"

    invoicing.answers({"invoice": None, "credit_notes": []})
    assert (await buyer.ask("GET", query)).json()["code"] == "nothing-upcoming"
    await buyer.post(f"{path}/cancel")
    assert (await buyer.ask("GET", query)).json()["code"] == "nothing-upcoming"
    assert len(invoicing.asked) == 1


async def test_usage_is_in_the_next_invoice_as_far_as_it_has_happened(
    buyer: Customer, publish: Publish, shop: Shop, staff: Client
) -> None:
    meter = await staff.post("/v1/meters", code=f"m-{new_id()}", name="Calls")
    price = await shop.price(type="metered", unit_amount=7, meter_id=meter["id"], aggregation="sum")
    held = await an_active_one(buyer, publish, price)
    usage = {"meter": meter["code"], "subscription_id": held["id"]}
    for number in range(2):
        await buyer.post("/v1/usage-events", id=f"{held['id']}-{number}", value="5", **usage)

    found = await buyer.get("/v1/invoices/upcoming", subscription_id=held["id"])

    assert found["total"]["amount"] == 70


async def test_what_is_billed_on_the_same_day_is_asked_of_together(
    buyer: Customer, publish: Publish, shop: Shop, invoicing: StandIn
) -> None:
    price = await shop.price(unit_amount=1000)
    weekly = await shop.price(unit_amount=300, interval="week", interval_count=1)
    yearly = await shop.price(unit_amount=9000, interval="year")
    dollars = await shop.price(unit_amount=700, currency="USD")
    calendar = {"billing": "calendar"}
    first, second = [await an_active_one(buyer, publish, price, **calendar) for _ in range(2)]
    for other in (yearly, dollars, weekly):
        await an_active_one(buyer, publish, other, **calendar)
    # A week ends on a Monday, a month seldom does: then the week is on an invoice of its own.
    query = {"subscription_id": first["id"]}

    together = await buyer.get("/v1/invoices/upcoming", **query)

    (asked,) = invoicing.asked
    events = [event for event in asked.events if isinstance(event, Billable)]
    assert {str(event.subscription_id) for event in events} >= {first["id"], second["id"]}
    assert events[-1].subscription_id == UUID(first["id"])
    assert {event.currency for event in events} == {"EUR"}
    assert len({event.period_start.date() for event in events}) == 1
    assert together["subscription_ids"] == sorted({str(one.subscription_id) for one in events})
    invoicing.asked.clear()
    invoicing.answer = priced_alone
    alone = await buyer.get("/v1/invoices/upcoming", **query)
    assert [len(asked.events) for asked in invoicing.asked] == [len(events), 1]
    assert alone["subscription_ids"] == [first["id"]]
