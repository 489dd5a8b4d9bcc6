"""A preview is the invoice that follows it, and nothing of it is kept."""

from datetime import timedelta
from typing import Any
from uuid import UUID

import httpx
import orjson
import pytest
from sqlalchemy import func, select

from services.invoicing.tables import credit_notes, documents, invoices, pending_charges
from shared.context import current_cause
from shared.events.subscriptions import (
    Billable,
    SubscriptionCanceled,
    SubscriptionChanged,
    SubscriptionRenewed,
)
from shared.ids import new_id
from shared.messaging import envelope
from tests.harness import Running
from tests.invoicing.conftest import NewAccount, body
from tests.invoicing.factories import END, START, a_charge, a_discount, a_renewed
from tests.invoicing.test_consolidated import a_renewal, consolidate
from tests.invoicing.test_take_backs import HALF, Life, a_take_back, life
from tests.tokens import TokenIssuer

pytestmark = pytest.mark.servers

__all__ = ["life"]

#: What no preview can foretell.
MADE_LATER = {"id", "number", "status", "issued_at", "due_at", "paid_at", "version"}


async def asked(
    http: httpx.AsyncClient, headers: dict[str, str], *events: Billable
) -> httpx.Response:
    told = [orjson.loads(envelope.write(event, current_cause())) for event in events]
    return await http.post("/v1/invoices/preview", json={"events": told}, headers=headers)


def comparable(view: dict[str, Any]) -> dict[str, Any]:
    """Without what is made with the real one."""
    kept = {name: value for name, value in view.items() if name not in MADE_LATER}
    kept["lines"] = [
        {name: value for name, value in line.items() if name not in {"id", "takes_back"}}
        for line in view["lines"]
    ]
    return kept


async def counts(invoicing: Running) -> list[int | None]:
    """How many rows there are of all that billing writes."""
    outbox = invoicing.runtime.database.platform.outbox
    async with invoicing.runtime.begin() as uow:
        return [
            await uow.session.scalar(select(func.count()).select_from(table))
            for table in (invoices, credit_notes, documents, pending_charges, outbox)
        ]


async def test_a_preview_is_the_invoice_that_follows_it(
    life: Life, issuer: TokenIssuer, invoicing: Running
) -> None:
    old, new = a_charge(1000), a_charge(5000, period_start=HALF, kind="proration_charge")
    first = await life.renew(old)
    await life.pay(first)
    await life.http.post(
        "/v1/account-credit",
        json={"amount": {"amount": 300, "currency": "EUR"}, "note": "Sorry"},
        headers=life.staff,
    )
    event = life.event(
        SubscriptionChanged,
        charges=(new,),
        take_backs=(a_take_back(old, HALF),),
        discounts=(a_discount(percent="10"),),
    )
    before = await counts(invoicing)

    answer = body(await asked(life.http, issuer.of_account(life.account_id), event))

    assert await counts(invoicing) == before
    assert (await life.read(first["id"]))["amount_moved"]["amount"] == 0
    assert answer["invoice"]["credit_applied"]["amount"] == 300
    assert answer["invoice"]["number"] is None
    assert answer["account_credit"]["amount"] == 0
    real = await life.bill(event)
    assert real is not None
    assert comparable(answer["invoice"]) == comparable(real)


async def test_credit_notes_are_previewed_as_well(life: Life, issuer: TokenIssuer) -> None:
    charge = a_charge(1000)
    await life.pay(await life.renew(charge))
    event = life.event(SubscriptionCanceled, take_backs=(a_take_back(charge, HALF),))

    answer = body(await asked(life.http, issuer.of_account(life.account_id), event))
    await life.bill(event)

    [real] = await life.notes()
    [note] = answer["credit_notes"]
    assert answer["invoice"] is None
    assert answer["account_credit"]["amount"] == real["credit"]["amount"] == 595
    assert [note[name] for name in ("net", "tax", "total", "credit", "refund")] == [
        real[name] for name in ("net", "tax", "total", "credit", "refund")
    ]


async def test_what_came_before_has_happened_by_then(life: Life, issuer: TokenIssuer) -> None:
    """A change now, and the renewal after it, which takes in what waits and uses the credit."""
    old = a_charge(5000)
    await life.pay(await life.renew(old))
    later = END + (END - START)
    waits = life.event(SubscriptionChanged, charges=(a_charge(300),), invoice_now=False)
    cheap = life.event(
        SubscriptionChanged,
        charges=(a_charge(500, period_start=HALF),),
        take_backs=(a_take_back(old, HALF),),
    )
    renewal = life.event(
        SubscriptionRenewed,
        charges=(a_charge(1000, period_start=END, period_end=later),),
        period_start=END,
        period_end=later,
    )

    answer = body(await asked(life.http, issuer.of_account(life.account_id), waits, cheap, renewal))
    for event in (waits, cheap):
        await life.bill(event)
    real = await life.bill(renewal)

    assert real is not None
    assert [line["amount"]["amount"] for line in real["lines"]] == [300, 1000]
    assert real["credit_applied"]["amount"] == 1547
    assert comparable(answer["invoice"]) == comparable(real)
    assert answer["credit_notes"] == []


async def test_with_one_invoice_for_all_the_preview_has_what_others_renew_on_that_day(
    http: httpx.AsyncClient, staff: dict[str, str], issuer: TokenIssuer, new_account: NewAccount
) -> None:
    account = await new_account()
    mine, other = sorted(new_id() for _ in range(2))
    events = (a_renewal(account, other), a_renewal(account, mine))
    me = issuer.of_account(account)

    alone = body(await asked(http, me, *events))["invoice"]
    await consolidate(http, staff, account)
    together = body(await asked(http, me, *events))["invoice"]

    assert (alone["total"]["amount"], together["total"]["amount"]) == (1190, 2380)
    assert alone["subscription_ids"] == [str(mine)]
    assert together["subscription_ids"] == [str(mine), str(other)]
    assert together["finalizes_at"] is not None
    listed = body(await http.get("/v1/invoices", headers=me))
    assert listed["data"] == []


async def test_an_account_asks_for_itself_and_staff_for_all(
    http: httpx.AsyncClient, staff: dict[str, str], issuer: TokenIssuer, new_account: NewAccount
) -> None:
    account = await new_account()
    event = a_renewed(account, new_id())

    foreign = await asked(http, issuer.of_account(await new_account()), event)
    by_staff = await asked(http, staff, event)
    acting = await asked(http, staff | {"Perennial-Account": str(account)}, event)
    unknown = await asked(http, staff, a_renewed(new_id(), new_id()))

    assert (foreign.status_code, unknown.status_code) == (403, 404)
    assert body(by_staff)["invoice"]["total"] == body(acting)["invoice"]["total"]


async def test_what_bills_nothing_is_refused(
    http: httpx.AsyncClient, issuer: TokenIssuer, new_account: NewAccount
) -> None:
    account = await new_account()
    told = orjson.loads(envelope.write(a_renewed(account, new_id()), current_cause()))
    wrong = [
        {**told, "type": "subscription.expired"},
        {**told, "type": "no.event"},
        {**told, "data": {"charges": "none"}},
    ]

    for one in wrong:
        answer = await http.post(
            "/v1/invoices/preview", json={"events": [one]}, headers=issuer.of_account(account)
        )
        assert answer.status_code == 422


async def test_drafts_are_previewed_as_they_will_be_finalized(
    life: Life, staff: dict[str, str], issuer: TokenIssuer
) -> None:
    entity = {"name": "Later GmbH", "country": "DE", "draft_hours": 240}
    made = body(await life.http.post("/v1/legal-entities", json=entity, headers=staff))
    details = {"legal_entity_id": made["id"]}
    await life.http.put("/v1/billing-details", json=details, headers=life.staff)
    await life.http.post(
        "/v1/account-credit",
        json={"amount": {"amount": 300, "currency": "EUR"}, "note": "Sorry"},
        headers=life.staff,
    )
    far = END + timedelta(days=3650)
    event = life.event(SubscriptionRenewed, charges=(a_charge(1000),), occurred_at=far)

    answer = body(await asked(life.http, issuer.of_account(life.account_id), event))["invoice"]
    draft = await life.bill(event)

    assert draft is not None
    path = f"/v1/invoices/{draft['id']}/finalize"
    real = body(await life.http.post(path, headers=life.staff))
    assert answer["amount_due"] == real["amount_due"]
    assert answer["finalizes_at"] == draft["finalizes_at"]
    assert UUID(answer["id"]) != UUID(real["id"])
