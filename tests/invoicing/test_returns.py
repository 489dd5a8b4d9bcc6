"""Money that goes back: refunds and disputes, in any order, and never more than was paid."""

import asyncio
from collections.abc import Callable
from random import Random
from typing import Any
from uuid import UUID

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.invoicing.domain.credit_note import CreditExceedsPaid, Earlier, Settle, take_all
from services.invoicing.domain.payment import ReturnedPayment, Returns
from shared.events.invoicing import CreditNoteIssued, InvoiceFinalized, InvoicePaid
from shared.events.payments import (
    DisputeEvent,
    DisputeLost,
    DisputeOpened,
    DisputeWon,
    RefundCreated,
    RefundEvent,
    RefundFailed,
    RefundSucceeded,
)
from shared.ids import new_id
from shared.money import Money
from tests.eventlog import EventLog
from tests.harness import Running
from tests.invoicing.conftest import NewAccount, Publish, body, key, until
from tests.invoicing.factories import START, a_bundle, a_started
from tests.invoicing.test_bill_subscription import a_payment
from tests.invoicing.test_credit_notes import a_paid_invoice, take_back
from tests.tokens import TokenIssuer

Back = RefundEvent | DisputeEvent
servers = pytest.mark.servers


def a_refund(
    amount: int,
    *,
    invoice_id: UUID | None = None,
    account_id: UUID | None = None,
    reason: str = "requested",
    ends: type[RefundSucceeded | RefundFailed] | None = RefundSucceeded,
    credit_note_id: UUID | None = None,
) -> list[Back]:
    """All that is told of one refund, in order."""
    facts: dict[str, Any] = {
        "occurred_at": START,
        "account_id": account_id or new_id(),
        "refund_id": new_id(),
        "payment_id": new_id(),
        "invoice_id": invoice_id or new_id(),
        "amount": Money(amount, "EUR"),
        "credit_note_id": credit_note_id,
    }
    told: list[Back] = [RefundCreated(**facts, sequence=1, reason=reason)]
    if ends is RefundSucceeded:
        told.append(RefundSucceeded(**facts, sequence=2))
    elif ends is RefundFailed:
        told.append(RefundFailed(**facts, sequence=2, reason="account_closed"))
    return told


def a_dispute(
    amount: int,
    *,
    invoice_id: UUID | None = None,
    account_id: UUID | None = None,
    ends: type[DisputeWon | DisputeLost] | None = None,
) -> list[Back]:
    facts: dict[str, Any] = {
        "occurred_at": START,
        "account_id": account_id or new_id(),
        "dispute_id": new_id(),
        "payment_id": new_id(),
        "invoice_id": invoice_id or new_id(),
        "amount": Money(amount, "EUR"),
    }
    told: list[Back] = [DisputeOpened(**facts, sequence=1, reason="fraudulent")]
    return [*told, ends(**facts, sequence=2)] if ends else told


def taken_in(told: list[Back]) -> Returns:
    known: dict[UUID, ReturnedPayment] = {}
    for event in told:
        known.setdefault(event.subject, ReturnedPayment.of(event)).take_in(event)
    return Returns.of(known.values())


def test_refunds_and_disputes_count_by_what_became_of_them() -> None:
    note = new_id()
    told = [
        *a_refund(1),  # arrived
        *a_refund(2, ends=None),  # on its way
        *a_refund(4, ends=RefundFailed),
        *a_refund(8, reason="credit_note", credit_note_id=note),
        *a_refund(16, reason="surplus"),  # never counted as paid
        *a_dispute(32),
        *a_dispute(64, ends=DisputeWon),
        *a_dispute(128, ends=DisputeLost),
    ]

    assert taken_in(told) == Returns(returned=1 + 8 + 128, disputed=32, unnoted=1 + 2 + 128)


#: What may become of money that goes back.
HISTORIES: list[Callable[[int], list[Back]]] = [
    a_refund,
    lambda amount: a_refund(amount, ends=None),
    lambda amount: a_refund(amount, ends=RefundFailed),
    lambda amount: a_refund(amount, reason="surplus"),
    lambda amount: a_refund(amount, reason="credit_note", credit_note_id=new_id()),
    a_dispute,
    lambda amount: a_dispute(amount, ends=DisputeWon),
    lambda amount: a_dispute(amount, ends=DisputeLost),
]


@given(
    st.lists(st.integers(0, len(HISTORIES) - 1), max_size=5),
    st.integers(0, 2**32),
)
def test_the_order_of_the_news_is_no_matter(kinds: list[int], seed: int) -> None:
    news = [event for n, kind in enumerate(kinds) for event in HISTORIES[kind](10**n)]
    shuffled = [*news, *news]
    Random(seed).shuffle(shuffled)  # noqa: S311

    assert taken_in(shuffled) == taken_in(news)


def test_what_went_back_by_hand_is_not_given_a_second_time() -> None:
    invoice = a_paid_invoice(a_bundle(1000))  # 1200 with tax
    invoice.note_returns(Returns(returned=300, unnoted=300))

    note = take_back(invoice, take_all(invoice, Earlier.of([])), Settle.REFUND)

    assert (note.total, note.returned_before, note.refund, note.credit) == (1200, 300, 900, 0)
    assert invoice.amount_overreturned == 0


@pytest.mark.parametrize("settle", Settle)
def test_a_lost_dispute_is_all_that_the_payer_gets(settle: Settle) -> None:
    invoice = a_paid_invoice(a_bundle(1000))
    invoice.note_returns(Returns(returned=1200, unnoted=1200))

    note = take_back(invoice, take_all(invoice, Earlier.of([])), settle)

    assert (note.returned_before, note.refund, note.credit) == (1200, 0, 0)


def test_what_the_payers_bank_holds_waits_for_the_disputes_end() -> None:
    invoice = a_paid_invoice(a_bundle(1000))
    invoice.note_returns(Returns(disputed=1200))

    with pytest.raises(CreditExceedsPaid):
        take_back(invoice, take_all(invoice, Earlier.of([])), Settle.CREDIT)


def test_a_refund_by_hand_of_what_was_credited_is_told() -> None:
    invoice = a_paid_invoice(a_bundle(1000))
    take_back(invoice, take_all(invoice, Earlier.of([])), Settle.CREDIT)

    invoice.note_returns(Returns(returned=500, unnoted=500))

    assert invoice.amount_overreturned == 500


def test_what_was_counted_as_given_back_and_was_not_is_attended_to_as_well() -> None:
    invoice = a_paid_invoice(a_bundle(1000))
    invoice.note_returns(Returns(returned=300, unnoted=300))
    take_back(invoice, take_all(invoice, Earlier.of([])), Settle.REFUND)
    assert not invoice.attend_returns(at=START)

    invoice.note_returns(Returns())  # the refund by hand came back

    assert invoice.attend_returns(at=START)
    assert not invoice.attend_returns(at=START)


async def a_paid_one(
    events: EventLog, publish: Publish, new_account: NewAccount
) -> tuple[UUID, UUID]:
    """An account and an invoice of 1190 that it paid."""
    account = await new_account()
    await publish(a_started(account))
    finalized = await events.next(InvoiceFinalized, about=account)
    await publish(a_payment(finalized))
    await events.next(InvoicePaid, about=account)
    return account, finalized.invoice_id


def reader(
    http: httpx.AsyncClient, path: str, headers: dict[str, str], name: str, wanted: Any
) -> Callable[[], Any]:
    async def look() -> Any:
        found = body(await http.get(path, headers=headers))
        value = found[name]
        return found if (value if isinstance(value, str) else value["amount"]) == wanted else None

    return look


@servers
async def test_a_credit_notes_refund_is_followed_and_shown(
    *,
    http: httpx.AsyncClient,
    staff: dict[str, str],
    issuer: TokenIssuer,
    events: EventLog,
    publish: Publish,
    new_account: NewAccount,
) -> None:
    account, invoice_id = await a_paid_one(events, publish, new_account)
    wanted = {"invoice_id": str(invoice_id), "reason": "Sorry"}
    me = issuer.of_account(account)
    notes = [
        body(await http.post("/v1/credit-notes", json=wanted | part, headers=staff | key()))
        for part in ({"amount": 500}, {"amount": 190, "settle": "credit"}, {"amount": 400})
    ]
    assert [note["refund_status"] for note in notes] == ["pending", "none", "pending"]
    ids: dict[str, Any] = {
        "invoice_id": invoice_id,
        "account_id": account,
        "reason": "credit_note",
    }
    arrives = a_refund(500, **ids, credit_note_id=UUID(notes[0]["id"]))
    fails = a_refund(400, **ids, credit_note_id=UUID(notes[2]["id"]), ends=RefundFailed)

    for event in [*reversed(arrives), *fails]:
        await publish(event)

    path = "/v1/credit-notes/{}"
    await until(reader(http, path.format(notes[0]["id"]), me, "refund_status", "succeeded"))
    await until(reader(http, path.format(notes[2]["id"]), me, "refund_status", "failed"))
    invoice = body(await http.get(f"/v1/invoices/{invoice_id}", headers=me))
    assert invoice["amount_returned"]["amount"] == 500
    assert invoice["amount_credited"]["amount"] == 1090
    # Payments makes it anew, for the same credit note.
    for event in a_refund(400, **ids, credit_note_id=UUID(notes[2]["id"])):
        await publish(event)
    await until(reader(http, path.format(notes[2]["id"]), me, "refund_status", "succeeded"))
    invoice = body(await http.get(f"/v1/invoices/{invoice_id}", headers=me))
    assert invoice["amount_returned"]["amount"] == 900


@servers
async def test_a_dispute_is_shown_until_it_is_decided(
    http: httpx.AsyncClient,
    issuer: TokenIssuer,
    events: EventLog,
    publish: Publish,
    new_account: NewAccount,
) -> None:
    account, invoice_id = await a_paid_one(events, publish, new_account)
    opened, lost = a_dispute(1190, invoice_id=invoice_id, account_id=account, ends=DisputeLost)
    path, me = f"/v1/invoices/{invoice_id}", issuer.of_account(account)

    await publish(opened)
    await until(reader(http, path, me, "amount_disputed", 1190))
    await publish(lost)
    after = await until(reader(http, path, me, "amount_returned", 1190))

    assert after["amount_disputed"]["amount"] == 0
    assert after["status"] == "paid"


@servers
async def test_together_refunds_and_credit_notes_at_once_never_give_more_than_was_paid(
    *,
    http: httpx.AsyncClient,
    staff: dict[str, str],
    events: EventLog,
    publish: Publish,
    invoicing: Running,
    new_account: NewAccount,
) -> None:
    account, invoice_id = await a_paid_one(events, publish, new_account)
    by_hand = [
        event
        for _ in range(3)
        for event in a_refund(100, invoice_id=invoice_id, account_id=account)
    ]
    # What was refunded by hand is known; then everything comes at once, and again.
    await asyncio.gather(*[publish(event) for event in by_hand])
    me = staff | {"Perennial-Account": str(account)}
    await until(reader(http, f"/v1/invoices/{invoice_id}", me, "amount_returned", 300))

    async def take_back_300(n: int) -> int:
        settle = "refund" if n % 2 else "credit"
        wanted = {"invoice_id": str(invoice_id), "reason": "x", "amount": 300, "settle": settle}
        answer = await http.post("/v1/credit-notes", json=wanted, headers=staff | key())
        return answer.status_code

    codes = await asyncio.gather(
        *[take_back_300(n) for n in range(8)],
        *[publish(event.model_copy(update={"id": new_id()})) for event in by_hand],
    )

    assert [code for code in codes if code].count(201) == 3
    async with invoicing.runtime.begin() as uow:
        invoice = await uow.invoices.get(invoice_id)
        notes = await uow.credit_notes.list_of(invoice_id)
    assert invoice.amount_overreturned == 0
    assert sum(note.returned_before for note in notes) == 300
    given = sum(note.refund + note.credit for note in notes)
    assert given + 300 <= 1190
    ordered = events.all(CreditNoteIssued, about=account)
    assert sum(event.refund.amount + event.credit.amount for event in ordered) == given


@servers
async def test_what_was_given_back_twice_waits_for_a_person_until_it_is_settled(
    *,
    http: httpx.AsyncClient,
    staff: dict[str, str],
    events: EventLog,
    publish: Publish,
    new_account: NewAccount,
) -> None:
    account, invoice_id = await a_paid_one(events, publish, new_account)
    path = f"/v1/ops/invoicing/stuck/{invoice_id}/dismiss"

    async def stuck() -> list[Any]:
        answer = await http.get("/v1/ops/invoicing/stuck", params={"limit": 200}, headers=staff)
        return [one for one in body(answer)["data"] if one["account_id"] == str(account)]

    async def refunded_by_hand(amount: int) -> None:
        for event in a_refund(amount, invoice_id=invoice_id, account_id=account):
            await publish(event)

    async def dismiss() -> httpx.Response:
        return await http.post(path, headers=staff)

    note = {"invoice_id": str(invoice_id), "reason": "Sorry", "settle": "credit"}
    assert body(await http.post("/v1/credit-notes", json=note, headers=staff | key()))
    assert (await dismiss()).json()["code"] == "nothing-stuck"

    await refunded_by_hand(300)
    [told] = await until(stuck)
    assert (told["kind"], told["id"]) == ("returned_too_much", str(invoice_id))
    assert path in told["next_step"]

    answers = await asyncio.gather(*(dismiss() for _ in range(3)))
    assert sorted(answer.status_code for answer in answers) == [204, 404, 404]
    assert await stuck() == []

    await refunded_by_hand(200)
    [again] = await until(stuck)
    assert again["id"] == str(invoice_id)
