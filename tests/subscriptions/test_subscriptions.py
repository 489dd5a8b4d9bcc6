"""A subscription's life over HTTP and events, on real servers."""

import asyncio
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import orjson
import pytest
from sqlalchemy import select, text, update

from services.subscriptions import tables
from services.subscriptions.schedule import advance_due_subscriptions
from shared.clock import utc_now
from shared.events import Event
from shared.events.auth import AccountClosed, ProjectActivated, ProjectArchived, ProjectCreated
from shared.events.invoicing import InvoiceFinalized, InvoicePaid
from shared.events.payments import DunningExhausted, DunningStarted
from shared.events.subscriptions import (
    SubscriptionActivated,
    SubscriptionCanceled,
    SubscriptionChanged,
    SubscriptionRenewed,
    SubscriptionStarted,
)
from shared.ids import new_id
from shared.money import Money
from shared.schedule import Due
from tests.eventlog import EventLog
from tests.harness import Running
from tests.subscriptions.conftest import Client, Customer, Publish, Shop, answered, until

#: What requests of one test may take, at most.
GRACE = timedelta(seconds=30)


def invoice_of(subscription: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "occurred_at": utc_now(),
        "account_id": UUID(subscription["account_id"]),
        "subscription_id": UUID(subscription["id"]),
        "invoice_id": new_id(),
        **more,
    }


def paid(invoice: dict[str, Any], reason: str = "subscription_start") -> InvoicePaid:
    return InvoicePaid(
        **invoice,
        sequence=2,
        number="INV-1",
        total=Money(1000, "EUR"),
        amount_paid=Money(1000, "EUR"),
        billing_reason=reason,
    )


def finalized(invoice: dict[str, Any], reason: str = "subscription_start") -> InvoiceFinalized:
    return InvoiceFinalized(
        **invoice,
        sequence=1,
        number="INV-1",
        total=Money(1000, "EUR"),
        amount_due=Money(1000, "EUR"),
        due_at=utc_now(),
        billing_reason=reason,
    )


async def reaches(customer: Customer, subscription: dict[str, Any], status: str) -> Any:
    async def look() -> Any:
        found = await customer.get(f"/v1/subscriptions/{subscription['id']}")
        return found if found["status"] == status else None

    return await until(look)


async def an_active_one(
    customer: Customer, publish: Publish, price: dict[str, Any], **more: Any
) -> Any:
    started = await customer.post("/v1/subscriptions", price_id=price["id"], **more)
    await publish(paid(invoice_of(started)))
    return await reaches(customer, started, "active")


async def test_a_start_waits_for_its_payment_and_a_paid_invoice_activates_it_once(
    customer: Customer, shop: Shop, publish: Publish, events: EventLog
) -> None:
    price = await shop.price(unit_amount=1999)

    subscription = await customer.post("/v1/subscriptions", price_id=price["id"])

    assert subscription["status"] == "incomplete"
    started = await events.next(SubscriptionStarted, about=UUID(subscription["id"]))
    assert [charge.amount for charge in started.charges] == [1999]
    assert started.sequence == subscription["version"] == 1
    news = paid(invoice_of(subscription))
    await publish(news)
    await publish(news)
    active = await reaches(customer, subscription, "active")
    assert active["version"] == 2
    activated = await events.next(SubscriptionActivated, about=UUID(subscription["id"]))
    assert activated.previous_status == "incomplete"


async def test_the_same_key_starts_it_once(customer: Customer, shop: Shop) -> None:
    price = await shop.price()
    key = {"Idempotency-Key": str(new_id())}
    body = {"price_id": price["id"]}

    first = await customer.ask("POST", "/v1/subscriptions", json=body, headers=key)
    again = await customer.ask("POST", "/v1/subscriptions", json=body, headers=key)

    assert first.json()["id"] == again.json()["id"]
    assert again.headers["Idempotent-Replayed"] == "true"
    assert len((await customer.get("/v1/subscriptions"))["data"]) == 1


async def test_another_account_does_not_see_it(
    customer: Customer, new_customer: Any, shop: Shop
) -> None:
    price = await shop.price()
    subscription = await customer.post("/v1/subscriptions", price_id=price["id"])
    other = await new_customer()

    for path in ("", "/timeline"):
        answer = await other.ask("GET", f"/v1/subscriptions/{subscription['id']}{path}")
        assert answer.status_code == 404
    assert await other.refused(f"/v1/subscriptions/{subscription['id']}/cancel") == (
        404,
        "subscription-not-found",
    )
    assert (await other.get("/v1/subscriptions"))["data"] == []


async def test_an_account_that_is_not_known_yet_is_asked_to_try_again(
    shop: Shop, customer: Customer, issuer: Any
) -> None:
    price = await shop.price()
    unknown = Client(customer.http, issuer.of_account(new_id()))

    assert await unknown.refused("/v1/subscriptions", price_id=price["id"]) == (
        503,
        "account-not-ready",
    )


async def test_a_plan_that_is_not_published_takes_nobody(
    customer: Customer, staff: Client, shop: Shop
) -> None:
    plan = await shop.plan()
    price = await staff.post(
        "/v1/prices",
        plan_id=plan["id"],
        currency="EUR",
        type="flat",
        interval="month",
        unit_amount=100,
    )

    assert await customer.refused("/v1/subscriptions", price_id=price["id"]) == (
        409,
        "plan-not-published",
    )


async def make_due(service: Running, subscription: dict[str, Any], **times: Any) -> None:
    """Move a subscription in time, as if it had begun earlier."""
    async with service.runtime.begin() as uow:
        await uow.session.execute(
            update(tables.subscriptions)
            .where(tables.subscriptions.c.id == UUID(subscription["id"]))
            .values(**times)
        )
        uow.wake("advance_due_subscriptions")


async def test_a_late_renewal_run_catches_up_period_by_period_and_bills_each_once(
    new_customer: Any, shop: Shop, publish: Publish, service: Running, events: EventLog
) -> None:
    customer = await new_customer(time_zone="UTC")  # no clock change within these weeks
    price = await shop.price(interval="week")
    subscription = await an_active_one(customer, publish, price)
    start = datetime.fromisoformat(subscription["current_period_start"]) - timedelta(weeks=5)

    await make_due(
        service,
        subscription,
        anchor=start,
        period_start=start,
        basis_start=start,
        period_end=start + timedelta(weeks=1),
        due_at=start + timedelta(weeks=1),
    )

    async def look() -> Any:
        found = events.all(SubscriptionRenewed, about=UUID(subscription["id"]))
        return found if len(found) >= 5 else None

    renewals = await until(look)
    assert [event.period_start for event in renewals] == [
        start + timedelta(weeks=n) for n in range(1, 6)
    ]
    async with service.runtime.begin() as uow:
        billed = tables.billed_periods.c
        rows = (
            await uow.session.scalars(
                select(billed.period_start).where(
                    billed.subscription_id == UUID(subscription["id"]), billed.reason == "cycle"
                )
            )
        ).all()
    assert sorted(rows) == [event.period_start for event in renewals]


async def test_a_period_that_was_billed_before_is_not_billed_again(
    customer: Customer, shop: Shop, publish: Publish, service: Running, events: EventLog
) -> None:
    price = await shop.price()
    subscription = await an_active_one(customer, publish, price)
    end = datetime.fromisoformat(subscription["current_period_end"])
    async with service.runtime.begin() as uow:
        await uow.session.execute(
            tables.billed_periods.insert().values(
                subscription_id=UUID(subscription["id"]),
                reason="cycle",
                period_start=end - timedelta(days=40),
                period_end=end,
                event_id=new_id(),
            )
        )
    start = end - timedelta(days=80)

    await make_due(
        service,
        subscription,
        anchor=end - timedelta(days=40),
        period_index=0,
        period_start=start,
        basis_start=start,
        period_end=end - timedelta(days=40),
        due_at=end - timedelta(days=40),
    )

    renewed = await events.next(SubscriptionRenewed, about=UUID(subscription["id"]))
    assert renewed.period_start == end - timedelta(days=40)
    assert renewed.charges == ()


async def test_two_changes_of_rhythm_at_one_instant_are_both_billed(
    customer: Customer, shop: Shop, publish: Publish, staff: Client, events: EventLog
) -> None:
    await staff.post(
        "/v1/test-clocks", account_id=str(customer.account_id), now="2024-01-15T09:00:00Z"
    )
    subscription = await an_active_one(customer, publish, await shop.price())
    path = f"/v1/subscriptions/{subscription['id']}/change"
    yearly = await shop.price(interval="year", unit_amount=500_000)
    weekly = await shop.price(interval="week", unit_amount=50_000)

    for price in (yearly, weekly):
        await customer.post(path, price_id=price["id"])

    async def both() -> Any:
        told = events.all(SubscriptionChanged, about=UUID(subscription["id"]))
        return sorted(told, key=lambda event: event.sequence) if len(told) == 2 else None

    first, second = await until(both)
    assert first.period_start == second.period_start
    assert [charge.amount for charge in first.charges] == [500_000]
    assert [charge.amount for charge in second.charges] == [50_000]
    assert [one.charge_id for one in second.take_backs] == [first.charges[0].id]


async def test_more_periods_than_can_be_right_are_parked_and_hold_up_nobody(
    customer: Customer, shop: Shop, publish: Publish, service: Running, staff: Client
) -> None:
    price = await shop.price(interval="day")
    runaway = await an_active_one(customer, publish, price)
    punctual = await an_active_one(customer, publish, price)
    long_ago = utc_now() - timedelta(days=3000)
    yesterday = utc_now() - timedelta(days=1, minutes=1)
    for one, start in ((runaway, long_ago), (punctual, yesterday)):
        await make_due(
            service,
            one,
            anchor=start,
            period_start=start,
            basis_start=start,
            period_end=start + timedelta(days=1),
            due_at=start + timedelta(days=1),
        )

    async def parked() -> Any:
        stuck = (await staff.get("/v1/ops/subscriptions/stuck"))["data"]
        return [one for one in stuck if one["id"] == runaway["id"]]

    (found,) = await until(parked)
    assert "due at once" in found["reason"]

    async def renewed() -> Any:
        one = await customer.get(f"/v1/subscriptions/{punctual['id']}")
        return datetime.fromisoformat(one["current_period_end"]) > utc_now()

    await until(renewed)


#: What a disk that is full says of one subscription's events, and how often it was asked.
NO_SPACE = (
    "CREATE SEQUENCE subscriptions.tries",
    """
    CREATE FUNCTION subscriptions.no_space() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
      PERFORM nextval('subscriptions.tries');
      RAISE 'could not extend file' USING ERRCODE = 'disk_full';
    END $$
    """,
    """
    CREATE TRIGGER no_space BEFORE INSERT ON subscriptions.outbox FOR EACH ROW
      WHEN (NEW.aggregate_id = '{id}') EXECUTE FUNCTION subscriptions.no_space()
    """,
)
SPACE = (
    "DROP FUNCTION subscriptions.no_space CASCADE",
    "DROP SEQUENCE subscriptions.tries",
)


async def test_a_full_disk_is_no_subscriptions_fault(
    customer: Customer, shop: Shop, publish: Publish, service: Running
) -> None:
    one = await an_active_one(customer, publish, await shop.price(interval="day"))
    yesterday = utc_now() - timedelta(days=1, minutes=1)
    moved = {"anchor": yesterday, "period_start": yesterday, "basis_start": yesterday}

    async def execute(statements: tuple[str, ...]) -> None:
        async with service.runtime.begin() as uow:
            for statement in statements:
                await uow.session.execute(text(statement.replace("{id}", one["id"])))

    async def was_tried() -> Any:
        async with service.runtime.begin() as uow:
            tried = await uow.session.scalar(text("SELECT last_value FROM subscriptions.tries"))
        return int(tried or 0) >= 4  # twice with all that is due, and twice alone

    async def renewed() -> Any:
        found = await customer.get(f"/v1/subscriptions/{one['id']}")
        return datetime.fromisoformat(found["current_period_end"]) > utc_now()

    await execute(NO_SPACE)
    try:
        await make_due(
            service,
            one,
            **moved,
            period_end=yesterday + timedelta(days=1),
            due_at=yesterday + timedelta(days=1),
        )
        await until(was_tried)
    finally:
        await execute(SPACE)

    await until(renewed)


async def test_dunning_marks_it_past_due_and_a_payment_brings_it_back(
    customer: Customer, shop: Shop, publish: Publish
) -> None:
    subscription = await an_active_one(customer, publish, await shop.price())
    invoice = invoice_of(subscription)
    dunning: dict[str, Any] = {"dunning_id": new_id(), "payment_id": new_id()}

    await publish(finalized(invoice, "subscription_cycle"))
    await publish(DunningStarted(**invoice, **dunning, sequence=1, decline_class="retry_later"))
    await reaches(customer, subscription, "past_due")
    await publish(paid(invoice, "subscription_cycle"))

    active = await reaches(customer, subscription, "active")
    assert active["latest_invoice_id"] == str(invoice["invoice_id"])


@pytest.mark.parametrize(
    ("then", "status"), [("cancel", "canceled"), ("unpaid", "unpaid"), ("pause", "paused")]
)
async def test_when_dunning_comes_to_nothing_the_plan_decides(
    customer: Customer, shop: Shop, publish: Publish, then: Any, status: str
) -> None:
    subscription = await an_active_one(customer, publish, await shop.price())
    invoice = invoice_of(subscription)

    await publish(
        DunningExhausted(**invoice, dunning_id=new_id(), payment_id=new_id(), sequence=2, then=then)
    )

    await reaches(customer, subscription, status)


async def test_news_of_invoices_in_any_order_end_in_the_same_state(
    customer: Customer, shop: Shop, publish: Publish
) -> None:
    subscription = await an_active_one(customer, publish, await shop.price())
    invoice = invoice_of(subscription)
    started = DunningStarted(
        **invoice,
        dunning_id=new_id(),
        payment_id=new_id(),
        sequence=1,
        decline_class="retry_later",
    )
    news: list[Event] = [paid(invoice, "subscription_cycle"), started, finalized(invoice)]
    for event in [*news, *reversed(news)]:
        await publish(event)

    async def noted() -> Any:
        found = await customer.get(f"/v1/subscriptions/{subscription['id']}")
        return found if found["latest_invoice_id"] == str(invoice["invoice_id"]) else None

    found = await until(noted)
    assert found["status"] == "active"


async def test_an_upgrade_is_previewed_and_then_billed_by_the_same_sums(
    customer: Customer, shop: Shop, publish: Publish, events: EventLog, service: Running
) -> None:
    plan = await shop.plan()
    small = await shop.price(plan)
    big = await shop.price()
    subscription = await an_active_one(customer, publish, small)
    half = (
        datetime.fromisoformat(subscription["current_period_end"])
        - datetime.fromisoformat(subscription["current_period_start"])
    ) / 2
    start = utc_now() - half
    await make_due(
        service,
        subscription,
        anchor=start,
        period_start=start,
        basis_start=start,
        period_end=start + 2 * half,
    )

    preview = await customer.post(
        f"/v1/subscriptions/{subscription['id']}/preview", price_id=big["id"], quantity=1
    )
    changed = await customer.post(
        f"/v1/subscriptions/{subscription['id']}/change", price_id=big["id"]
    )

    first = await events.next(SubscriptionStarted, about=UUID(subscription["id"]))
    event = await events.next(SubscriptionChanged, about=UUID(subscription["id"]))
    assert changed["price_id"] == big["id"]
    assert [charge["amount"] for charge in preview["charges"]] == [500]
    assert [charge.amount for charge in event.charges] == [500]
    assert [charge.description for charge in event.charges] == [
        charge["description"] for charge in preview["charges"]
    ]
    (back,) = event.take_backs
    assert back.charge_id == first.charges[0].id
    assert timedelta() <= back.starts_at - (start + half).replace(microsecond=0) < GRACE
    (previewed,) = preview["take_backs"]
    assert previewed["charge_id"] == str(back.charge_id)
    assert "of" in event.charges[0].why["text"]


async def test_a_downgrade_is_scheduled_and_can_be_taken_back(
    customer: Customer, shop: Shop, publish: Publish
) -> None:
    subscription = await an_active_one(customer, publish, await shop.price())
    path = f"/v1/subscriptions/{subscription['id']}"
    cheaper = await shop.price(unit_amount=500)

    scheduled = await customer.post(f"{path}/change", price_id=cheaper["id"])
    assert scheduled["scheduled_change"]["price_id"] == cheaper["id"]
    assert scheduled["price_id"] == subscription["price_id"]
    withdrawn = answered(await customer.ask("DELETE", f"{path}/scheduled-change"))
    assert withdrawn["scheduled_change"] is None


async def test_a_stale_version_is_refused(customer: Customer, shop: Shop, publish: Publish) -> None:
    subscription = await an_active_one(customer, publish, await shop.price())
    path = f"/v1/subscriptions/{subscription['id']}/cancel"

    stale = await customer.ask("POST", path, json={}, headers={"If-Match": '"1"'})
    current = await customer.ask("POST", path, json={}, headers={"If-Match": '"2"'})

    assert stale.status_code == 412
    assert current.is_success
    assert current.headers["etag"] == '"3"'


async def test_cancel_now_gives_back_what_is_left_when_asked(
    customer: Customer, staff: Client, shop: Shop, publish: Publish, events: EventLog
) -> None:
    subscription = await an_active_one(customer, publish, await shop.price())
    path = f"/v1/subscriptions/{subscription['id']}"

    later = await customer.post(f"{path}/cancel", reason="too expensive")
    assert later["cancel_at_period_end"]
    undone = await customer.post(f"{path}/uncancel")
    assert not undone["cancel_at_period_end"]
    await staff.post(f"{path}/cancel", at_period_end=False, credit=True)

    first = await events.next(SubscriptionStarted, about=UUID(subscription["id"]))
    canceled = await events.next(SubscriptionCanceled, about=UUID(subscription["id"]))
    assert canceled.charges == ()
    assert canceled.give_back == "credit"
    (back,) = canceled.take_backs
    assert back.charge_id == first.charges[0].id
    assert timedelta() <= back.starts_at - first.period_start < GRACE
    assert await customer.refused(f"{path}/resume") == (409, "illegal-subscription-transition")


async def test_subscribers_may_what_their_plan_lets_them_and_staff_may_all(
    customer: Customer, staff: Client, shop: Shop, publish: Publish
) -> None:
    """By default no choice of proration, no end at once and no credit."""
    dearer = (await shop.price(unit_amount=2000))["id"]
    held = await an_active_one(customer, publish, await shop.price())
    path = f"/v1/subscriptions/{held['id']}"
    refused = (403, "not-self-service")

    assert await customer.refused(f"{path}/change", price_id=dearer, proration="none") == refused
    for more in (
        {"at_period_end": False},
        {"credit": True},
        {"cancel_at": (utc_now() + timedelta(days=3)).isoformat()},
    ):
        assert await customer.refused(f"{path}/cancel", **more) == refused
    unchanged = await customer.get(path)
    assert unchanged["version"] == held["version"]
    changed = await staff.post(f"{path}/change", price_id=dearer, proration="none")
    assert changed["price_id"] == dearer


async def test_a_plan_may_let_its_subscribers_do_all(
    customer: Customer, shop: Shop, publish: Publish
) -> None:
    price = await shop.price(await shop.plan(self_service="all"))
    held = await an_active_one(customer, publish, price)
    path = f"/v1/subscriptions/{held['id']}"

    ended = await customer.post(f"{path}/cancel", at_period_end=False, credit=True)

    assert ended["status"] == "canceled"


async def test_an_unpaid_start_expires(customer: Customer, shop: Shop, service: Running) -> None:
    subscription = await customer.post("/v1/subscriptions", price_id=(await shop.price())["id"])
    expires = datetime.fromisoformat(subscription["expires_at"])
    created = datetime.fromisoformat(subscription["created_at"])
    assert expires - created == timedelta(hours=23)

    await make_due(service, subscription, expires_at=utc_now(), due_at=utc_now())

    await reaches(customer, subscription, "incomplete_expired")


async def test_a_start_that_expired_unpaid_is_no_use_of_the_accounts_coupon(
    customer: Customer, staff: Client, shop: Shop, service: Running
) -> None:
    coupon = await staff.post("/v1/coupons", code=f"c-{new_id()}", name="Once", percent="20")
    asked = {"price_id": (await shop.price())["id"], "coupon": coupon["code"]}
    unpaid = await customer.post("/v1/subscriptions", **asked)
    assert await customer.refused("/v1/subscriptions", **asked) == (409, "coupon-exhausted")

    await make_due(service, unpaid, expires_at=utc_now(), due_at=utc_now())
    await reaches(customer, unpaid, "incomplete_expired")

    assert (await customer.post("/v1/subscriptions", **asked))["discounts"]
    assert await customer.refused("/v1/subscriptions", **asked) == (409, "coupon-exhausted")


async def test_a_pause_can_be_taken_back_before_it_begins(
    customer: Customer, shop: Shop, publish: Publish
) -> None:
    subscription = await an_active_one(customer, publish, await shop.price())
    path = f"/v1/subscriptions/{subscription['id']}"

    paused = await customer.post(f"{path}/pause")
    assert paused["pause"]["at_period_end"]
    resumed = await customer.post(f"{path}/resume")
    assert resumed["pause"] is None


async def test_the_timeline_tells_what_happened_in_order_and_what_caused_it(
    customer: Customer, shop: Shop, publish: Publish
) -> None:
    subscription = await an_active_one(customer, publish, await shop.price())

    path = f"/v1/subscriptions/{subscription['id']}/timeline"
    # Other services of this run may bill the account too, and add what they did.
    expected = ["subscription.started", "invoice.paid", "subscription.activated"]

    async def told() -> Any:
        entries = (await customer.get(path))["data"]
        return entries if {entry["name"] for entry in entries} >= set(expected) else None

    entries = await until(told)
    assert [entry["id"] for entry in entries] == sorted(entry["id"] for entry in entries)
    started, paid_first, activated = (
        next(entry for entry in entries if entry["name"] == name) for name in expected
    )
    assert paid_first["service"] == "invoicing"
    assert activated["caused_by"] == paid_first["id"]
    assert entries.index(started) < entries.index(paid_first) < entries.index(activated)


async def test_the_timeline_keeps_what_only_a_later_release_knows(
    customer: Customer, shop: Shop, events: EventLog
) -> None:
    started = await customer.post("/v1/subscriptions", price_id=(await shop.price())["id"])
    path = f"/v1/subscriptions/{started['id']}/timeline"
    data = {"subscription_id": started["id"], "reason": {"of": "the next release"}}
    other = {
        "specversion": "1.0",
        "id": str(new_id()),
        "source": "perennial/invoicing",
        "type": "invoice.disputed_by_post",
        "subject": str(new_id()),
        "time": "2026-01-15T09:00:00+00:00",
        "accountid": str(customer.account_id),
        "sequence": 1,
        "correlationid": "a request",
        "data": data,
    }
    await events.publish(orjson.dumps(other))

    async def told() -> Any:
        entries = (await customer.get(path))["data"]
        return [entry for entry in entries if entry["id"] == other["id"]]

    (entry,) = await until(told)
    assert (entry["name"], entry["service"]) == ("invoice.disputed_by_post", "invoicing")
    assert entry["occurred_at"] == "2026-01-15T09:00:00Z"
    assert entry["data"] == data


async def test_a_timeline_is_read_in_pages(
    customer: Customer, shop: Shop, publish: Publish
) -> None:
    subscription = await an_active_one(customer, publish, await shop.price())
    path = f"/v1/subscriptions/{subscription['id']}/timeline"

    async def told() -> Any:
        entries = (await customer.get(path))["data"]
        return entries if len(entries) >= 3 else None

    whole = [entry["id"] for entry in await until(told)]
    first = await customer.get(path, limit=2)
    rest = await customer.get(path, cursor=first["next_cursor"])

    paged = [entry["id"] for entry in [*first["data"], *rest["data"]]]
    assert len(first["data"]) == 2
    assert paged == sorted(set(paged))
    assert set(whole) <= set(paged)


async def test_staff_import_what_runs_elsewhere(
    customer: Customer, staff: Client, shop: Shop, events: EventLog
) -> None:
    price = await shop.price()
    start = (utc_now() - timedelta(days=100)).isoformat()
    body = {"price_id": price["id"], "start_at": start, "imported": True}

    assert await customer.refused("/v1/subscriptions", **body) == (422, "invalid")
    imported = answered(
        await staff.ask(
            "POST",
            "/v1/subscriptions",
            json=body,
            headers={"Perennial-Account": str(customer.account_id)},
        )
    )

    assert imported["status"] == "active"
    started = await events.next(SubscriptionStarted, about=UUID(imported["id"]))
    assert started.charges == ()
    assert started.period_start <= utc_now() < started.period_end


async def test_a_closed_account_loses_what_it_holds_and_buys_nothing_more(
    customer: Customer, shop: Shop, publish: Publish
) -> None:
    price = await shop.price()
    subscription = await an_active_one(customer, publish, price)

    await publish(AccountClosed(occurred_at=utc_now(), account_id=customer.account_id, sequence=2))

    canceled = await reaches(customer, subscription, "canceled")
    assert canceled["cancel_reason"] == "account_closed"
    assert await customer.refused("/v1/subscriptions", price_id=price["id"]) == (
        409,
        "account-closed",
    )


async def test_many_workers_at_once_bill_each_period_once(
    new_customer: Any, shop: Shop, publish: Publish, service: Running, events: EventLog
) -> None:
    customer = await new_customer(time_zone="UTC")
    price = await shop.price(interval="day")
    held = [await an_active_one(customer, publish, price) for _ in range(6)]
    start = utc_now() - timedelta(days=2, minutes=1)
    ids = [UUID(one["id"]) for one in held]
    async with service.runtime.begin() as uow:
        await uow.session.execute(
            update(tables.subscriptions)
            .where(tables.subscriptions.c.id.in_(ids))
            .values(
                anchor=start,
                period_start=start,
                basis_start=start,
                period_end=start + timedelta(days=1),
                due_at=start + timedelta(days=1),
            )
        )
    due = Due(utc_now(), service.runtime.database.platform)

    async def work() -> None:
        while await advance_due_subscriptions(service.runtime, due):
            pass

    await asyncio.gather(*(work() for _ in range(4)))

    async def all_told() -> Any:
        told = [len(events.all(SubscriptionRenewed, about=one)) for one in ids]
        return told if sum(told) >= 2 * len(ids) else None

    assert await until(all_told) == [2] * len(ids)


async def test_a_back_dated_start_bills_from_then_on(
    new_customer: Any, staff: Client, shop: Shop, publish: Publish, events: EventLog
) -> None:
    customer = await new_customer(time_zone="UTC")
    price = await shop.price(interval="week")
    start = (utc_now() - timedelta(weeks=2, days=1)).replace(microsecond=0)
    body = {"price_id": price["id"], "start_at": start.isoformat()}
    made = answered(
        await staff.ask(
            "POST",
            "/v1/subscriptions",
            json=body,
            headers={"Perennial-Account": str(customer.account_id)},
        )
    )
    started = await events.next(SubscriptionStarted, about=UUID(made["id"]))
    assert [charge.period_start for charge in started.charges] == [start]

    await publish(paid(invoice_of(made)))

    async def caught_up() -> Any:
        found = events.all(SubscriptionRenewed, about=UUID(made["id"]))
        return found if len(found) >= 2 else None

    assert [event.period_start for event in await until(caught_up)] == [
        start + timedelta(weeks=1),
        start + timedelta(weeks=2),
    ]
    assert (await customer.get(f"/v1/subscriptions/{made['id']}"))["status"] == "active"


async def test_a_subscription_belongs_to_an_active_project_of_its_account(
    customer: Customer, new_customer: Any, shop: Shop, publish: Publish
) -> None:
    price = (await shop.price())["id"]
    told = {"account_id": customer.account_id, "project_id": new_id()}
    project_id = str(told["project_id"])
    asked = {"price_id": price, "project_id": project_id}

    async def tried(status: int, who: Customer = customer) -> bool:
        answer = await who.ask("POST", "/v1/subscriptions", json=asked)
        if answer.status_code == 422:
            assert answer.json()["code"] == "project-not-active"
        return answer.status_code == status

    assert await tried(422)
    activated = ProjectActivated(occurred_at=utc_now(), sequence=2, **told)
    created = ProjectCreated(occurred_at=utc_now(), sequence=1, status="draft", **told)
    # Older news that come later change nothing.
    await publish(activated)
    await publish(created)
    await until(lambda: tried(201))
    assert await tried(201)
    assert await tried(422, await new_customer())
    found = await customer.get("/v1/subscriptions", project_id=project_id)
    assert len(found["data"]) == 2
    await publish(ProjectArchived(occurred_at=utc_now(), sequence=3, **told))
    await until(lambda: tried(422))
