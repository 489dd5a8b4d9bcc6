"""Several subscriptions on one invoice, where the account wants it."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from itertools import permutations
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import httpx
import pytest

from services.invoicing.domain.account import Account
from services.invoicing.domain.gathering import Gathering, gathers
from services.invoicing.domain.legal_entity import LegalEntity
from services.invoicing.use_cases.bill_subscription import bill_subscription, prepare_billing
from services.invoicing.use_cases.finalize_due_draft import finalize_due_draft
from shared.clock import utc_now
from shared.events.invoicing import InvoiceFinalized, InvoicePaid
from shared.events.subscriptions import Billable, SubscriptionRenewed
from shared.ids import new_id
from tests.eventlog import EventLog
from tests.harness import Running
from tests.invoicing.conftest import NewAccount, Publish, body, until
from tests.invoicing.factories import START, a_charge, a_discount, a_renewed, a_started
from tests.invoicing.test_bill_subscription import a_payment
from tests.tokens import TokenIssuer

servers = pytest.mark.servers

#: No draft of it is finalized by itself while the tests run.
SOON = utc_now() + timedelta(days=2)


def an_account(**fields: Any) -> Account:
    usual = {"account_id": new_id(), "country": "DE", "time_zone": "UTC", "sequence": 1}
    return Account(**{**usual, "consolidated_billing": True, **fields})


def an_entity(**fields: Any) -> LegalEntity:
    usual = {"id": new_id(), "name": "One", "country": "DE", "created_at": START}
    return LegalEntity(**{**usual, **fields})


def test_a_day_is_the_accounts_own_and_its_draft_closes_when_it_is_over() -> None:
    account = an_account(time_zone="America/New_York")
    late_in_the_day = datetime(2026, 3, 2, 4, 30, tzinfo=UTC)  # the 1st, 23:30, over there
    renewed = a_renewed(account.account_id, new_id(), period_start=late_in_the_day)

    gathering = Gathering.of(renewed, account, an_entity(draft_hours=6))

    assert gathering.day == date(2026, 3, 1)
    midnight = datetime(2026, 3, 2, tzinfo=ZoneInfo("America/New_York"))
    assert gathering.closes_at == midnight + timedelta(hours=6)


def test_what_is_collected_in_another_way_shares_no_invoice() -> None:
    account, entity = an_account(), an_entity()

    def key(**fields: Any) -> str:
        return Gathering.of(a_renewed(account.account_id, new_id(), **fields), account, entity).key

    card, euros = new_id(), key()
    others = [
        key(payment_method_id=card),
        key(dunning={"days": (1,), "then": "pause"}),
        key(currency="USD"),
        key(period_start=START + timedelta(days=1)),
    ]

    assert key(period_start=START + timedelta(hours=9)) == euros
    # However late it is billed, it belongs to the day on which it was due.
    assert key(occurred_at=START + timedelta(days=20)) == euros
    assert key(payment_method_id=card) == others[0]
    assert len({euros, *others}) == 5


def test_what_somebody_asked_for_at_once_is_invoiced_at_once() -> None:
    account = an_account()

    assert gathers(a_renewed(account.account_id, new_id()), account)
    assert not gathers(a_started(account.account_id), account)
    assert not gathers(
        a_renewed(account.account_id, new_id()), an_account(consolidated_billing=False)
    )


def a_renewal(account: UUID, subscription: UUID, **fields: Any) -> SubscriptionRenewed:
    """Of a period that begins soon: its draft is not finalized meanwhile."""
    period = {"period_start": SOON, "period_end": SOON + timedelta(days=30)}
    return a_renewed(account, subscription, **{"occurred_at": SOON, **period, **fields})


async def consolidate(
    http: httpx.AsyncClient, staff: dict[str, str], account: UUID, **fields: Any
) -> None:
    acting = staff | {"Perennial-Account": str(account)}
    wanted = {"consolidated_billing": True, "name": "Two Ltd", **fields}
    details = body(await http.put("/v1/billing-details", json=wanted, headers=acting))
    assert details["consolidated_billing"] is True


async def bill(invoicing: Running, *events: Billable) -> None:
    """As the consumer does, a transaction each."""
    for event in events:
        async with invoicing.runtime.begin() as uow:
            await prepare_billing(uow, [event])
            await bill_subscription(uow, event)


async def finalize(invoicing: Running, invoice_id: str) -> None:
    async with invoicing.runtime.begin() as uow:
        await finalize_due_draft(uow, await uow.invoices.get(UUID(invoice_id)))


async def invoices_of(
    http: httpx.AsyncClient, issuer: TokenIssuer, account: UUID, **query: str
) -> list[dict[str, Any]]:
    answer = await http.get("/v1/invoices", params=query, headers=issuer.of_account(account))
    found: list[dict[str, Any]] = body(answer)["data"]
    return found


def told(invoice: dict[str, Any], subscriptions: Sequence[UUID]) -> list[Any]:
    """What an invoice says, without the ids that no two have in common."""
    names = {str(one): n for n, one in enumerate(subscriptions)}
    return [
        [
            (names[line["subscription_id"]], line["description"], line["net"], line["discount"])
            for line in invoice["lines"]
        ],
        invoice["total"],
        invoice["taxes"],
        invoice["created_at"],
        invoice["finalizes_at"],
        [names[one] for one in invoice["subscription_ids"]],
    ]


@servers
async def test_whatever_the_order_the_invoice_is_the_same(
    http: httpx.AsyncClient,
    staff: dict[str, str],
    issuer: TokenIssuer,
    invoicing: Running,
    new_account: NewAccount,
) -> None:
    first: list[Any] | None = None
    for order in permutations(range(3)):
        account = await new_account()
        await consolidate(http, staff, account)
        subscriptions = [new_id() for _ in range(3)]
        half = a_discount(percent="50")
        renewals = [
            a_renewal(
                account,
                subscription,
                occurred_at=SOON + timedelta(seconds=n),
                charges=(a_charge(333 + n, description=f"Plan {n}"),),
                discounts=(half,) if n == 1 else (),
            )
            for n, subscription in enumerate(subscriptions)
        ]

        await bill(invoicing, *[renewals[n] for n in order])

        [invoice] = await invoices_of(http, issuer, account)
        first = first or told(invoice, subscriptions)
        assert told(invoice, subscriptions) == first
        assert invoice["lines"][1]["why"]["discounts"][0]["share"] == 167
        assert (invoice["status"], invoice["subscription_id"]) == ("draft", None)


@servers
async def test_many_at_once_are_one_invoice_and_paying_it_reports_each(
    *,
    http: httpx.AsyncClient,
    staff: dict[str, str],
    issuer: TokenIssuer,
    events: EventLog,
    publish: Publish,
    invoicing: Running,
    new_account: NewAccount,
) -> None:
    account = await new_account()
    await consolidate(http, staff, account)
    subscriptions = sorted(new_id() for _ in range(20))
    renewals = [a_renewal(account, one) for one in subscriptions]

    await asyncio.gather(*[publish(event) for event in renewals])
    # The same periods again, told by other events: nothing is billed twice.
    again = [event.model_copy(update={"id": new_id(), "sequence": 2}) for event in renewals]
    await asyncio.gather(*[publish(event) for event in again])

    async def complete() -> Any:
        found = await invoices_of(http, issuer, account)
        return found[0] if found and len(found[0]["lines"]) == 20 else None

    draft = await until(complete)
    await finalize(invoicing, draft["id"])
    finalized = await events.next(InvoiceFinalized, about=account)
    await publish(a_payment(finalized))
    paid = await events.next(InvoicePaid, about=account)

    assert len(await invoices_of(http, issuer, account)) == 1
    assert finalized.subscriptions == paid.subscriptions == tuple(subscriptions)
    assert finalized.subscription_id is None
    assert finalized.total.amount == 20 * 1190
    [invoice] = await invoices_of(
        http, issuer, account, subscription_id=str(subscriptions[7]), status="paid"
    )
    assert [line["subscription_id"] for line in invoice["lines"]] == [str(s) for s in subscriptions]
    assert all(line["why"]["rule"] == "flat" for line in invoice["lines"])
    assert await invoices_of(http, issuer, account, subscription_id=str(new_id())) == []


@servers
async def test_what_comes_after_the_day_was_invoiced_has_an_invoice_of_its_own(
    http: httpx.AsyncClient,
    staff: dict[str, str],
    issuer: TokenIssuer,
    invoicing: Running,
    new_account: NewAccount,
) -> None:
    account = await new_account()
    await consolidate(http, staff, account)
    on_time, late = (a_renewal(account, new_id()) for _ in range(2))

    await bill(invoicing, on_time)
    [draft] = await invoices_of(http, issuer, account)
    await finalize(invoicing, draft["id"])
    await bill(invoicing, late, on_time)

    second, first = await invoices_of(http, issuer, account)
    assert (first["status"], second["status"]) == ("open", "draft")
    assert second["subscription_ids"] == [str(late.subscription_id)]
    assert second["finalizes_at"] == draft["finalizes_at"]


@servers
async def test_a_consolidated_invoice_that_was_voided_is_made_again_with_its_subscriptions(
    http: httpx.AsyncClient,
    staff: dict[str, str],
    issuer: TokenIssuer,
    invoicing: Running,
    new_account: NewAccount,
) -> None:
    account = await new_account()
    await consolidate(http, staff, account)
    subscriptions = sorted(new_id() for _ in range(2))
    await bill(invoicing, *[a_renewal(account, one) for one in subscriptions])
    [draft] = await invoices_of(http, issuer, account)
    await finalize(invoicing, draft["id"])
    await http.post(f"/v1/invoices/{draft['id']}/void", headers=staff)

    again = body(
        await http.post(
            f"/v1/invoices/{draft['id']}/reissue", headers=staff | {"Idempotency-Key": "again"}
        )
    )

    assert again["subscription_ids"] == [str(one) for one in subscriptions]
    assert [line["subscription_id"] for line in again["lines"]] == again["subscription_ids"]
    assert again["total"] == draft["total"]


@servers
async def test_only_staff_consolidate(
    http: httpx.AsyncClient, issuer: TokenIssuer, new_account: NewAccount
) -> None:
    account = await new_account()

    answer = await http.put(
        "/v1/billing-details",
        json={"consolidated_billing": True},
        headers=issuer.of_account(account),
    )

    assert answer.status_code == 403
