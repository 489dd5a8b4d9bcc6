"""Simulated time over all four services: what is due happens, in order, and nothing is left."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from decimal import Decimal
from functools import partial
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import select

from services.subscriptions import tables
from services.subscriptions.domain.account import Account
from services.subscriptions.domain.coupon import Coupon, CouponDuration
from services.subscriptions.domain.period import IntervalUnit
from services.subscriptions.domain.plan import Plan, PlanStatus
from services.subscriptions.domain.price import Price, PriceType
from services.subscriptions.schedule import advance_due_subscriptions
from services.subscriptions.use_cases.change_subscription import (
    RequestedChange,
    change_subscription,
)
from services.subscriptions.use_cases.start_subscription import RequestedStart, start_subscription
from services.subscriptions.use_cases.who_may_ask import STAFF
from shared.events import Event
from shared.events.invoicing import InvoicePaid
from shared.events.subscriptions import Billable, SubscriptionRenewed
from shared.ids import new_id
from shared.messaging.envelope import parse
from shared.schedule import Due
from tests.conftest import service_named
from tests.eventlog import EventLog
from tests.harness import Deployment, Running, deployed_alone, running
from tests.servers import Servers
from tests.subscriptions.conftest import Client, Customer, Shop, answered, until
from tests.subscriptions.factories import at
from tests.tokens import TokenIssuer

pytestmark = pytest.mark.timeout(600)

YEAR_BEGINS = at(2024, 1, 31, 12)
#: On this day a cheaper price is chosen, which counts from the next period on.
CHANGED_ON = YEAR_BEGINS + timedelta(days=200)


@pytest.fixture(scope="module")
async def others(deployment: Deployment, issuer: TokenIssuer) -> AsyncIterator[dict[str, Running]]:
    """The other three services, which report their part of each round."""
    async with AsyncExitStack() as stack:
        yield {
            name: await stack.enter_async_context(running(service_named(name), deployment, issuer))
            for name in ("auth", "invoicing", "payments")
        }


@pytest.fixture
async def frozen(others: dict[str, Running], customer: Customer, staff: Client) -> dict[str, Any]:
    """A test clock of the customer's account at the last day of January."""
    del others
    clock: dict[str, Any] = await staff.post(
        "/v1/test-clocks", account_id=str(customer.account_id), now="2024-01-31T12:00:00Z"
    )
    return clock


async def advance(staff: Client, clock: dict[str, Any], to: str) -> dict[str, Any]:
    await staff.post(f"/v1/test-clocks/{clock['id']}/advance", to=to)

    async def ready() -> Any:
        found = await staff.get(f"/v1/test-clocks/{clock['id']}")
        return found if found["status"] == "ready" else None

    found: dict[str, Any] = await until(ready, within=240)
    return found


async def test_free_renewals_happen_in_order(
    frozen: dict[str, Any], customer: Customer, staff: Client, shop: Shop, events: EventLog
) -> None:
    assert frozen["status"] == "ready"
    price = await shop.price(unit_amount=0)
    subscription = await customer.post("/v1/subscriptions", price_id=price["id"])

    clock = await advance(staff, frozen, "2024-06-30T12:00:01Z")

    assert clock["now"] == "2024-06-30T12:00:01Z"
    renewals = events.all(SubscriptionRenewed, about=customer.account_id)
    assert [f"{event.period_start:%m-%d}" for event in renewals] == [
        *("02-29", "03-31", "04-30", "05-31", "06-30"),
    ]
    assert [event.occurred_at for event in renewals] == [event.period_start for event in renewals]
    paid = events.all(InvoicePaid, about=customer.account_id)
    assert len(paid) == 6
    found = await customer.get(f"/v1/subscriptions/{subscription['id']}")
    assert found["status"] == "active"
    timeline = await customer.get(f"/v1/subscriptions/{subscription['id']}/timeline", limit=200)
    names = [entry["name"] for entry in timeline["data"]]
    assert names[:4] == [
        "subscription.started",
        "invoice.finalized",
        "invoice.paid",
        "subscription.activated",
    ]


async def test_a_clock_only_moves_forward_and_one_account_has_one(
    frozen: dict[str, Any], customer: Customer, staff: Client
) -> None:
    path = f"/v1/test-clocks/{frozen['id']}/advance"
    assert await staff.refused(path, to="2024-01-30T00:00:00Z") == (422, "test-clock-invalid")
    assert await staff.refused(path, to="2034-01-30T00:00:00Z") == (422, "test-clock-invalid")
    account = str(customer.account_id)
    assert await staff.refused(
        "/v1/test-clocks", account_id=account, now="2024-01-31T12:00:00Z"
    ) == (409, "test-clock-exists")
    assert await customer.refused(path, to="2024-03-01T00:00:00Z") == (403, "forbidden")
    assert (
        await staff.refused(f"/v1/test-clocks/{new_id()}/advance", to="2024-03-01T00:00:00Z")
    ) == (404, "test-clock-not-found")


@asynccontextmanager
async def on_its_way(
    others: dict[str, Running], customer: Customer, staff: Client, clock: dict[str, Any], to: str
) -> AsyncIterator[None]:
    """The clock moves, is known to do so everywhere, and stays under way while the block lasts.

    Payments does its part of a round only once nobody else holds the account's row.
    """
    account_id = customer.account_id
    moving = asyncio.create_task(advance(staff, clock, to))

    async def has_heard(service: Running) -> bool:
        clocks = service.runtime.database.platform.account_clocks
        mine = clocks.c.account_id == account_id
        async with service.runtime.begin() as uow:
            target = await uow.session.scalar(select(clocks.c.target).where(mine))
            return target is not None and target.isoformat() == to

    await until(partial(has_heard, others["payments"]))
    clocks = others["payments"].runtime.database.platform.account_clocks
    async with others["payments"].runtime.begin() as uow:
        await uow.session.execute(
            select(clocks).where(clocks.c.account_id == account_id).with_for_update()
        )
        for service in others.values():
            await until(partial(has_heard, service))
        assert not moving.done()
        yield
    await moving


async def test_while_the_clock_is_on_its_way_writes_wait_everywhere_and_reads_do_not(
    *,
    others: dict[str, Running],
    frozen: dict[str, Any],
    customer: Customer,
    staff: Client,
    shop: Shop,
) -> None:
    price = await shop.price(unit_amount=0)
    dearer = await shop.price(unit_amount=500)
    started = await customer.post("/v1/subscriptions", price_id=price["id"])
    subscription = f"/v1/subscriptions/{started['id']}"
    auth, billing, payments = (
        Client(others[name].http, customer.headers) for name in ("auth", "invoicing", "payments")
    )
    details = {"name": "Ada GmbH", "address": {"line1": "Weg 1", "city": "Ulm", "country": "DE"}}
    writes = [
        (customer, "POST", f"{subscription}/change", {"price_id": dearer["id"]}),
        (staff, "POST", f"{subscription}/cancel", {}),
        (customer, "POST", "/v1/usage-events", {"id": "1", "meter": "calls", "value": "1"}),
        (auth, "POST", "/v1/projects", {"name": "One"}),
        (billing, "PUT", "/v1/billing-details", details),
        (payments, "POST", "/v1/payment-methods", {"token": "tok_ok", "provider": "sandbox"}),
    ]
    to = at(2024, 6, 15, 12).isoformat()

    async with on_its_way(others, customer, staff, frozen, to):
        refused = [await who.ask(how, path, json=body) for who, how, path, body in writes]
        read = [
            await customer.ask("GET", subscription),
            await customer.ask("POST", f"{subscription}/preview", json={}),
            await billing.ask("GET", "/v1/invoices"),
            await payments.ask("GET", "/v1/payment-methods"),
        ]
        again = await staff.refused(f"/v1/test-clocks/{frozen['id']}/advance", to=to)

    assert [(one.status_code, one.json()["code"]) for one in refused] == [
        (409, "test-clock-busy")
    ] * len(writes)
    assert [one.status_code for one in read] == [200] * len(read)
    assert again == (409, "test-clock-busy")
    # It is there: what was refused is taken, and billed at the instant at which the clock stands.
    answered(await billing.ask("PUT", "/v1/billing-details", json=details))
    await customer.post(f"{subscription}/change", price_id=dearer["id"])

    async def billed() -> Any:
        found = (await billing.get("/v1/invoices"))["data"]
        return [one for one in found if one["total"]["amount"]]

    (invoice,) = await until(billed)
    assert invoice["issued_at"] == "2024-06-15T12:00:00Z"


async def test_a_first_payment_that_never_comes_expires_in_simulated_time(
    frozen: dict[str, Any], customer: Customer, staff: Client, shop: Shop
) -> None:
    price = await shop.price()
    subscription = await customer.post("/v1/subscriptions", price_id=price["id"])
    assert subscription["created_at"] == "2024-01-31T12:00:00Z"

    await advance(staff, frozen, (at(2024, 1, 31, 12) + timedelta(hours=24)).isoformat())

    found = await customer.get(f"/v1/subscriptions/{subscription['id']}")
    assert found["status"] == "incomplete_expired"


async def test_tokens_that_cost_nothing_are_invoiced_and_granted_and_expire_on_time(
    frozen: dict[str, Any], customer: Customer, staff: Client
) -> None:
    bundle = await staff.post(
        "/v1/bundles",
        code=f"b-{new_id()}",
        name="Gift",
        tokens=10,
        amount=0,
        currency="EUR",
        expires_after_days=5,
    )
    await customer.post("/v1/token-balance/purchase", bundle_id=bundle["id"])

    await advance(staff, frozen, "2024-02-02T12:00:00Z")
    assert (await customer.get("/v1/token-balance"))["balance"] == 10
    await advance(staff, frozen, "2024-02-06T12:00:00Z")
    assert (await customer.get("/v1/token-balance"))["balance"] == 0
    entries = (await customer.get("/v1/token-balance/entries"))["data"]
    assert entries[0]["kind"] == "expiry"
    assert entries[0]["created_at"] == "2024-02-05T12:00:00Z"


async def a_year_of_days(
    servers: Servers, price: dict[str, Any], cheaper: dict[str, Any], coupon: dict[str, Any]
) -> list[Event]:
    """The same story without a test clock: the schedule is run on each day of the year.

    On a database of its own with nobody else at work; returns what is billed, in order.
    """
    service = service_named("subscriptions")
    heard: list[Event] = []
    async with (
        deployed_alone("subscriptions", servers) as made,
        service.open(made.settings(service, test_clocks=False)) as runtime,
    ):
        account_id, ids = await a_catalog(runtime, price, cheaper, coupon)
        asked = RequestedStart(price_id=ids[0], quantity=3, coupon=coupon["code"])
        async with runtime.begin() as uow:
            started = await start_subscription(
                uow, account_id, asked, by_staff=True, now=YEAR_BEGINS
            )
            for event in started.activate(await uow.catalog.terms_of(started), now=YEAR_BEGINS):
                uow.emit(event)
        for day in range(1, 367):
            now = YEAR_BEGINS + timedelta(days=day)
            if now == CHANGED_ON:
                async with runtime.begin() as uow:
                    held = await uow.subscriptions.get(started.id)
                    change = RequestedChange(asker=STAFF, price_id=ids[1])
                    await change_subscription(uow, held, change, now=now)
            due = Due(now, runtime.database.platform)
            while await advance_due_subscriptions(runtime, due):
                pass
        outbox = tables.metadata.tables["subscriptions.outbox"].c
        async with runtime.begin() as uow:
            statement = select(outbox.body).order_by(outbox.sequence)
            heard = [parse(body) for body in await uow.session.scalars(statement)]
    return heard


async def a_catalog(
    runtime: Any, price: dict[str, Any], cheaper: dict[str, Any], coupon: dict[str, Any]
) -> tuple[UUID, list[UUID]]:
    """An account, and the same offers as those that came over HTTP."""
    account_id, ids = new_id(), []
    async with runtime.begin() as uow:
        uow.session.add(Account(id=account_id, country="DE", time_zone="Europe/Berlin"))
        uow.session.add(
            Coupon(
                id=new_id(),
                code=coupon["code"],
                name=coupon["name"],
                percent=Decimal(coupon["percent"]),
                duration=CouponDuration.FOREVER,
                created_at=YEAR_BEGINS,
            )
        )
        for offer in (price, cheaper):
            plan = Plan(
                id=new_id(),
                code=f"p-{new_id()}",
                name="Team",
                status=PlanStatus.PUBLISHED,
                created_at=YEAR_BEGINS,
            )
            uow.session.add(plan)
            await uow.session.flush()
            made = Price(
                id=new_id(),
                plan_id=plan.id,
                currency="EUR",
                type=PriceType(offer["type"]),
                interval_unit=IntervalUnit.MONTH,
                unit_amount=Decimal(offer["unit_amount"]),
                created_at=YEAR_BEGINS,
            )
            uow.session.add(made)
            ids.append(made.id)
    return account_id, ids


def lines_of(invoices: list[dict[str, Any]]) -> list[list[tuple[Any, ...]]]:
    """What invoices say, oldest first: kinds, words, sums and periods of their lines."""
    names = ("kind", "description", "quantity", "period_start", "period_end")
    return [
        sorted((*(line[name] for name in names), amount(line["amount"])) for line in one["lines"])
        for one in sorted(invoices, key=lambda one: str(one["number"]))
    ]


def amount(money: Any) -> int:
    return int(money["amount"] if isinstance(money, dict) else money)


async def test_a_year_by_the_clock_gives_the_invoices_of_a_year_of_days(
    *,
    others: dict[str, Running],
    frozen: dict[str, Any],
    customer: Customer,
    staff: Client,
    shop: Shop,
    servers: Servers,
) -> None:
    price = await shop.price(type="per_unit", unit_amount=1999)
    cheaper = await shop.price(type="per_unit", unit_amount=1501)
    # All of it is given: what is billed shows on the invoices, and nobody has to pay.
    coupon = await staff.post(
        "/v1/coupons", code=f"c-{new_id()}", name="Gift", percent="100", duration="forever"
    )
    subscription = await customer.post(
        "/v1/subscriptions", price_id=price["id"], quantity=3, coupon=coupon["code"]
    )
    await advance(staff, frozen, CHANGED_ON.isoformat())
    await customer.post(f"/v1/subscriptions/{subscription['id']}/change", price_id=cheaper["id"])

    await advance(staff, frozen, (YEAR_BEGINS + timedelta(days=366)).isoformat())

    billing = Client(others["invoicing"].http, customer.headers)
    listed = (await billing.get("/v1/invoices", limit=200))["data"]
    by_clock = lines_of([await billing.get(f"/v1/invoices/{one['id']}") for one in listed])
    days = await a_year_of_days(servers, price, cheaper, coupon)
    billed = [event for event in days if isinstance(event, Billable) and event.charges]
    by_days = lines_of(
        [
            {
                "number": f"{number:02}",
                "lines": [charge.model_dump(mode="json") for charge in event.charges],
            }
            for number, event in enumerate(billed)
        ]
    )
    assert len(by_days) == 13
    assert by_clock == by_days
