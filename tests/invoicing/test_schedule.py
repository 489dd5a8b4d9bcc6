"""What happens by itself: drafts that become invoices, and reminders."""

from datetime import timedelta
from typing import Any
from uuid import UUID

import httpx
from sqlalchemy import update

from services.invoicing.schedule import finalize_drafts, remind_payers
from services.invoicing.tables import number_series
from shared.clock import utc_now
from shared.events.invoicing import InvoiceFinalized, InvoicePaid, InvoiceReminderDue
from shared.ids import new_id
from shared.schedule import Due
from tests.eventlog import EventLog
from tests.harness import Running
from tests.invoicing.conftest import NewAccount, Publish, body, key, until
from tests.invoicing.factories import START, a_renewed, a_started


async def test_subscription_invoices_rest_as_drafts_where_the_entity_wants_it(
    *,
    http: httpx.AsyncClient,
    staff: dict[str, str],
    events: EventLog,
    publish: Publish,
    invoicing: Running,
    new_account: NewAccount,
) -> None:
    account = await new_account()
    acting = staff | {"Perennial-Account": str(account)}
    entity = {"name": "Careful GmbH", "country": "DE", "draft_hours": 1}
    made = body(await http.post("/v1/legal-entities", json=entity, headers=staff))
    await http.put("/v1/billing-details", json={"legal_entity_id": made["id"]}, headers=acting)

    started = a_started(account)
    await publish(started)
    first = await events.next(InvoiceFinalized, about=account)
    await publish(a_renewed(account, started.subscription_id, sequence=2))

    # A start waits for its payment, and therefore for nobody's look.
    assert first.sequence == 1

    async def second() -> InvoiceFinalized | None:
        found = events.all(InvoiceFinalized, about=account)
        return found[1] if len(found) > 1 else None

    finalized = await until(second, within=30)
    assert finalized is not None
    assert finalized.occurred_at == START + timedelta(hours=1)
    assert finalized.sequence == 2
    assert await finalize_drafts(invoicing.runtime, due_in(invoicing, timedelta())) == 0


async def test_a_draft_that_cannot_be_finalized_waits_for_a_person_and_says_why(
    *,
    http: httpx.AsyncClient,
    staff: dict[str, str],
    events: EventLog,
    publish: Publish,
    invoicing: Running,
    new_account: NewAccount,
) -> None:
    account = await new_account()
    acting = staff | {"Perennial-Account": str(account)}
    entity = {"name": "Numberless GmbH", "country": "DE", "draft_hours": 1}
    made = body(await http.post("/v1/legal-entities", json=entity, headers=staff))
    await http.put("/v1/billing-details", json={"legal_entity_id": made["id"]}, headers=acting)
    mine = number_series.c.legal_entity_id == UUID(made["id"])
    numbers = update(number_series).where(mine, number_series.c.series.in_(("invoice", "lost")))
    async with invoicing.runtime.begin() as uow:
        await uow.session.execute(numbers.values(series="lost"))

    await publish(a_renewed(account, new_id()))

    async def stuck() -> Any:
        # The worker does it as well; whoever comes first.
        await finalize_drafts(invoicing.runtime, due_in(invoicing, timedelta()))
        answer = await http.get("/v1/ops/invoicing/stuck", params={"limit": 200}, headers=staff)
        found = body(answer)["data"]
        return [one for one in found if one["account_id"] == str(account)]

    [parked] = await until(stuck, within=30)
    assert (parked["kind"], parked["reason"]) == (
        "draft",
        "The legal entity has no number series 'invoice'.",
    )
    async with invoicing.runtime.begin() as uow:
        await uow.session.execute(numbers.values(series="invoice"))
    path = f"/v1/invoices/{parked['id']}/finalize"
    assert body(await http.post(path, headers=staff))["status"] == "open"
    assert await stuck() == []
    assert (await events.next(InvoiceFinalized, about=account)).number


def due_in(invoicing: Running, ahead: timedelta) -> Due:
    return Due(utc_now() + ahead, invoicing.runtime.database.platform)


async def test_a_payer_is_reminded_before_and_after_the_due_date_until_it_is_paid(
    http: httpx.AsyncClient,
    staff: dict[str, str],
    events: EventLog,
    invoicing: Running,
    new_account: NewAccount,
) -> None:
    account = await new_account()
    wanted: dict[str, Any] = {
        "account_id": str(account),
        "currency": "EUR",
        "lines": [{"description": "One", "unit_amount": "100"}],
        "collect_automatically": False,
        "payment_terms_days": 14,
    }
    invoice = body(await http.post("/v1/invoices", json=wanted, headers=staff | key()))
    path = f"/v1/invoices/{invoice['id']}"

    late = due_in(invoicing, timedelta(days=16))
    assert await remind_payers(invoicing.runtime, late) == 1
    assert await remind_payers(invoicing.runtime, late) == 1
    assert await remind_payers(invoicing.runtime, late) == 0
    await http.post(f"{path}/mark-paid", json={}, headers=staff)
    await events.next(InvoicePaid, about=account)
    assert await remind_payers(invoicing.runtime, due_in(invoicing, timedelta(days=99))) == 0

    reminders = events.all(InvoiceReminderDue, about=account)
    assert [reminder.days for reminder in reminders] == [-3, 1]
    assert reminders[0].amount_remaining.amount == 119
