"""What a subscription says is owed becomes an invoice, once."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

import httpx
import pytest
from sqlalchemy import text

from services.invoicing.domain.payment import Means
from services.invoicing.use_cases.receive_payment import receive_payment
from shared.events.invoicing import (
    CreditNoteIssued,
    InvoiceFinalized,
    InvoicePaid,
    InvoiceVoided,
)
from shared.events.payments import PaymentSucceeded
from shared.events.subscriptions import (
    SubscriptionCanceled,
    SubscriptionChanged,
    SubscriptionExpired,
    SubscriptionStarted,
)
from shared.ids import new_id
from shared.money import Money
from tests.eventlog import EventLog
from tests.harness import Running
from tests.invoicing.conftest import NewAccount, Publish, body, until
from tests.invoicing.factories import END, START, a_charge, a_discount, a_renewed, a_started
from tests.invoicing.test_gapless_numbers import WAITING
from tests.tokens import TokenIssuer


def a_payment(invoice: InvoiceFinalized, amount: int | None = None) -> PaymentSucceeded:
    return PaymentSucceeded(
        occurred_at=START,
        account_id=invoice.account_id,
        sequence=2,
        payment_id=new_id(),
        invoice_id=invoice.invoice_id,
        amount=Money(amount or invoice.amount_due.amount, "EUR"),
        provider="sandbox",
        attempts=1,
    )


async def test_a_started_subscription_is_invoiced_with_number_and_tax(
    http: httpx.AsyncClient,
    issuer: TokenIssuer,
    events: EventLog,
    publish: Publish,
    new_account: NewAccount,
) -> None:
    account = await new_account("AT")
    started = a_started(account)

    await publish(started)

    finalized = await events.next(InvoiceFinalized, about=account)
    assert finalized.sequence == 1
    assert finalized.amount_due == Money(1200, "EUR")
    assert finalized.billing_reason == "subscription_start"
    assert finalized.dunning == started.dunning
    invoice = body(
        await http.get(f"/v1/invoices/{finalized.invoice_id}", headers=issuer.of_account(account))
    )
    assert invoice["status"] == "open"
    assert invoice["number"] == finalized.number
    assert invoice["number"].startswith("INV-2026-")
    assert invoice["lines"][0]["why"]["tax"]["why"] == "Standard rate of AT: 20 %."
    assert invoice["bill_to"]["address"]["country"] == "AT"
    assert invoice["seller"]["name"]


async def test_the_rate_is_that_of_the_day_on_which_the_period_begins_for_the_account(
    http: httpx.AsyncClient, issuer: TokenIssuer, publish: Publish, new_account: NewAccount
) -> None:
    """Romania went from 19 to 21 % on 1 August 2025; the account lives by Berlin's clock."""
    account = await new_account("RO")
    subscription_id = new_id()
    late = datetime(2025, 8, 20, tzinfo=UTC)
    begins = {
        datetime(2025, 7, 31, 21, 59, tzinfo=UTC): "19",
        datetime(2025, 7, 31, 22, 0, tzinfo=UTC): "21",
    }
    for sequence, start in enumerate(begins, start=1):
        charge = a_charge(period_start=start, period_end=late)
        renewed = a_renewed(
            account,
            subscription_id,
            sequence=sequence,
            occurred_at=late,
            period_start=start,
            period_end=late,
            charges=(charge,),
        )
        await publish(renewed)

    async def rates() -> list[str]:
        found = body(await http.get("/v1/invoices", headers=issuer.of_account(account)))["data"]
        return [invoice["taxes"][0]["rate"] for invoice in reversed(found)]

    async def both() -> list[str] | None:
        found = await rates()
        return found if len(found) == 2 else None

    assert await until(both) == list(begins.values())


async def test_numbers_are_of_the_year_that_it_is_for_the_legal_entity(
    http: httpx.AsyncClient,
    staff: dict[str, str],
    events: EventLog,
    publish: Publish,
    new_account: NewAccount,
) -> None:
    account = await new_account()
    acting = staff | {"Perennial-Account": str(account)}
    entity = {"name": "Kiwi Ltd", "country": "NZ", "time_zone": "Pacific/Auckland"}
    made = body(await http.post("/v1/legal-entities", json=entity, headers=staff))
    await http.put("/v1/billing-details", json={"legal_entity_id": made["id"]}, headers=acting)
    new_year = datetime(2026, 12, 31, 11, tzinfo=UTC)

    await publish(a_started(account, occurred_at=new_year))

    finalized = await events.next(InvoiceFinalized, about=account)
    assert finalized.number == "INV-2027-000001"
    wrong = {**entity, "time_zone": "Middle-earth/Shire"}
    refused = await http.post("/v1/legal-entities", json=wrong, headers=staff)
    assert refused.status_code == 422
    assert refused.json()["errors"][0]["field"] == "time_zone"


async def test_a_period_is_billed_once_however_often_it_is_told(
    http: httpx.AsyncClient,
    issuer: TokenIssuer,
    publish: Publish,
    new_account: NewAccount,
) -> None:
    account = await new_account()
    started = a_started(account)
    again = a_renewed(account, started.subscription_id, sequence=2)
    same_period = a_renewed(account, started.subscription_id, sequence=3)

    for event in (started, started, again, same_period):
        await publish(event)
    last = a_renewed(account, started.subscription_id, sequence=4, period_start=END, period_end=END)
    await publish(last)

    async def reasons() -> list[str]:
        found = body(await http.get("/v1/invoices", headers=issuer.of_account(account)))["data"]
        return [invoice["billing_reason"] for invoice in found] if len(found) > 2 else []

    assert sorted(await until(reasons)) == [
        "subscription_cycle",
        "subscription_cycle",
        "subscription_start",
    ]


async def test_a_payment_pays_it_and_the_second_telling_changes_nothing(
    events: EventLog, publish: Publish, new_account: NewAccount
) -> None:
    account = await new_account()
    await publish(a_started(account))
    finalized = await events.next(InvoiceFinalized, about=account)
    payment = a_payment(finalized)

    await publish(payment)
    await publish(payment.model_copy(update={"id": new_id()}))

    paid = await events.next(InvoicePaid, about=account)
    assert (paid.sequence, paid.amount_paid) == (2, finalized.amount_due)
    assert paid.payment_id == payment.payment_id
    assert len(events.all(InvoicePaid, about=account)) == 1


async def test_what_a_provider_took_for_a_voided_invoice_is_sent_back_and_no_credit(
    invoicing: Running,
    issuer: TokenIssuer,
    events: EventLog,
    publish: Publish,
    new_account: NewAccount,
) -> None:
    account = await new_account()
    started = a_started(account)
    await publish(started)
    finalized = await events.next(InvoiceFinalized, about=account)
    await publish(
        SubscriptionExpired(
            occurred_at=START,
            account_id=account,
            sequence=2,
            subscription_id=started.subscription_id,
        )
    )
    await events.next(InvoiceVoided, about=account)

    payment = a_payment(finalized)
    await publish(payment)

    async def received() -> object:
        async with invoicing.runtime.begin() as uow:
            return await uow.receipts.find(payment.payment_id)

    assert await until(received)
    credit = body(
        await invoicing.http.get("/v1/account-credit", headers=issuer.of_account(account))
    )
    assert credit["balances"] == []


def canceled_before_it_began(started: SubscriptionStarted) -> SubscriptionCanceled:
    fields = started.model_dump(exclude={"id", "status", "plan_id", "trial_end"})
    more = {"sequence": 2, "charges": (), "effective_at": START, "previous_status": "incomplete"}
    return SubscriptionCanceled(**{**fields, **more})


async def test_a_start_that_is_canceled_before_it_began_owes_nothing(
    new_account: NewAccount, publish: Publish, events: EventLog
) -> None:
    started = a_started(await new_account())
    await publish(started)
    invoice = await events.next(InvoiceFinalized, about=started.account_id)

    await publish(canceled_before_it_began(started))

    voided = await events.next(InvoiceVoided, about=started.account_id)
    assert voided.invoice_id == invoice.invoice_id


async def test_who_cancels_a_start_that_was_paid_a_moment_before_gets_the_money_back(
    new_account: NewAccount, publish: Publish, events: EventLog
) -> None:
    started = a_started(await new_account())
    await publish(started)
    invoice = await events.next(InvoiceFinalized, about=started.account_id)
    await publish(a_payment(invoice))
    await events.next(InvoicePaid, about=started.account_id)

    await publish(canceled_before_it_began(started))

    note = await events.next(CreditNoteIssued, about=started.account_id)
    assert note.invoice_id == invoice.invoice_id
    assert note.refund == note.total == invoice.total


async def test_who_cancels_a_start_while_its_payment_comes_gets_the_money_back(
    new_account: NewAccount, publish: Publish, events: EventLog, invoicing: Running
) -> None:
    started = a_started(await new_account())
    await publish(started)
    invoice = await events.next(InvoiceFinalized, about=started.account_id)

    async def somebody_waits() -> bool:
        async with invoicing.runtime.begin() as uow:
            return bool(await uow.session.scalar(text(WAITING)))

    async with invoicing.runtime.begin() as uow:
        await receive_payment(
            uow,
            invoice.invoice_id,
            payment_id=new_id(),
            amount=invoice.amount_due,
            means=Means.PROVIDER,
            at=START,
        )
        await uow.session.flush()
        await publish(canceled_before_it_began(started))
        # It has found the invoice open, and waits to have it to itself.
        await until(somebody_waits)

    note = await events.next(CreditNoteIssued, about=started.account_id)
    assert note.refund == note.total == invoice.total


async def test_a_negative_total_of_an_earlier_release_becomes_account_credit(
    http: httpx.AsyncClient,
    issuer: TokenIssuer,
    events: EventLog,
    publish: Publish,
    new_account: NewAccount,
) -> None:
    account = await new_account()
    subscription = new_id()
    renewed = a_renewed(account, subscription, sequence=1)
    canceled = SubscriptionCanceled(
        **{
            **renewed.model_dump(exclude={"id", "sequence", "charges", "plan_name"}),
            "plan_name": "Pro",
            "sequence": 2,
            "effective_at": START + timedelta(days=10),
            "charges": (a_charge(-500, kind="proration_credit"),),
        }
    )

    await publish(renewed)
    await publish(canceled)

    zero = await events.next(InvoicePaid, about=account)
    assert zero.total == Money(0, "EUR")
    credit = body(await http.get("/v1/account-credit", headers=issuer.of_account(account)))
    assert credit["balances"] == [{"amount": 595, "currency": "EUR"}]


def a_change(account: UUID, subscription: UUID, **fields: object) -> SubscriptionChanged:
    renewed = a_renewed(account, subscription)
    values = renewed.model_dump(exclude={"id", "charges", "sequence"})
    return SubscriptionChanged(
        **{**values, "previous_price_id": new_id(), "quantity": 1, "sequence": 1, **fields}
    )


async def test_charges_for_the_next_invoice_wait_for_it(
    http: httpx.AsyncClient,
    issuer: TokenIssuer,
    events: EventLog,
    publish: Publish,
    new_account: NewAccount,
) -> None:
    account = await new_account()
    subscription = new_id()
    waiting = a_change(account, subscription, invoice_now=False, charges=(a_charge(300),))

    await publish(waiting)
    await publish(
        a_renewed(
            account,
            subscription,
            sequence=2,
            discounts=(a_discount(amount=100, currency="EUR"),),
        )
    )

    finalized = await events.next(InvoiceFinalized, about=account)
    invoice = body(
        await http.get(f"/v1/invoices/{finalized.invoice_id}", headers=issuer.of_account(account))
    )
    assert [line["amount"]["amount"] for line in invoice["lines"]] == [300, 1000]
    assert [line["discount"]["amount"] for line in invoice["lines"]] == [0, 100]


@pytest.mark.usefixtures("invoicing")
async def test_an_account_that_is_not_known_yet_is_billed_when_it_is(
    events: EventLog, publish: Publish
) -> None:
    from shared.clock import utc_now  # noqa: PLC0415
    from shared.events.auth import AccountRegistered  # noqa: PLC0415

    account = new_id()
    await publish(a_started(account))
    await publish(
        AccountRegistered(
            occurred_at=utc_now(),
            account_id=account,
            sequence=1,
            country="DE",
            time_zone="Europe/Berlin",
        )
    )

    assert (await events.next(InvoiceFinalized, about=account, within=30)).number
