"""Invoices by hand, over HTTP: what staff do, what accounts see, and what is refused."""

import asyncio
from typing import Any

import httpx
import pytest

from shared.events.invoicing import (
    CreditNoteIssued,
    InvoiceDrafted,
    InvoiceFinalized,
    InvoicePaid,
    InvoicePartlyPaid,
    InvoiceVoided,
)
from shared.ids import new_id
from shared.money import Money
from tests.eventlog import EventLog
from tests.invoicing.conftest import NewAccount, body, key
from tests.tokens import TokenIssuer

EUR = "EUR"


def an_invoice(account: object, **fields: Any) -> dict[str, Any]:
    usual = {
        "account_id": str(account),
        "currency": EUR,
        "lines": [{"description": "Set-up, one day", "unit_amount": "80000"}],
    }
    return {**usual, **fields}


async def test_staff_invoice_by_hand_and_the_account_sees_it(
    http: httpx.AsyncClient,
    staff: dict[str, str],
    issuer: TokenIssuer,
    events: EventLog,
    new_account: NewAccount,
) -> None:
    account = await new_account()

    made = await http.post("/v1/invoices", json=an_invoice(account), headers=staff | key())

    assert made.status_code == 201
    invoice = body(made)
    assert invoice["status"] == "open"
    assert invoice["total"] == {"amount": 95200, "currency": EUR}
    assert invoice["billing_reason"] == "manual"
    finalized = await events.next(InvoiceFinalized, about=account)
    assert (finalized.sequence, finalized.number) == (2, invoice["number"])
    mine = await http.get(f"/v1/invoices/{invoice['id']}", headers=issuer.of_account(account))
    assert body(mine)["number"] == invoice["number"]
    assert mine.headers["etag"] == '"2"'


async def test_the_same_key_makes_one_invoice(
    http: httpx.AsyncClient, staff: dict[str, str], new_account: NewAccount
) -> None:
    account = await new_account()
    headers = staff | key()

    first = await http.post("/v1/invoices", json=an_invoice(account), headers=headers)
    again = await http.post("/v1/invoices", json=an_invoice(account), headers=headers)

    assert body(again)["id"] == body(first)["id"]
    assert again.headers["idempotent-replayed"] == "true"


async def test_a_draft_is_changed_and_finalized_and_then_frozen(
    http: httpx.AsyncClient, staff: dict[str, str], events: EventLog, new_account: NewAccount
) -> None:
    account = await new_account()
    made = await http.post(
        "/v1/invoices", json=an_invoice(account, draft=True), headers=staff | key()
    )
    draft = body(made)
    assert (draft["status"], draft["number"]) == ("draft", None)
    await events.next(InvoiceDrafted, about=account)
    path = f"/v1/invoices/{draft['id']}"
    lines = [
        {"description": "One", "unit_amount": "10.5", "quantity": "3"},
        {"description": "Two", "unit_amount": "100"},
    ]

    changed = body(await http.patch(path, json={"lines": lines}, headers=staff))
    finalized = body(await http.post(f"{path}/finalize", headers=staff))
    late = await http.patch(path, json={"memo": "late"}, headers=staff)

    assert [line["amount"]["amount"] for line in changed["lines"]] == [32, 100]
    assert finalized["status"] == "open"
    assert finalized["net"]["amount"] == 132
    assert late.status_code == 409
    assert late.json()["code"] == "invoice-frozen"


async def test_an_account_sees_its_own_invoices_alone(
    http: httpx.AsyncClient, staff: dict[str, str], issuer: TokenIssuer, new_account: NewAccount
) -> None:
    mine, theirs = await new_account(), await new_account()
    other = body(await http.post("/v1/invoices", json=an_invoice(theirs), headers=staff | key()))

    me = issuer.of_account(mine)
    listed = body(await http.get("/v1/invoices", headers=me))
    read = await http.get(f"/v1/invoices/{other['id']}", headers=me)
    made = await http.post("/v1/invoices", json=an_invoice(mine), headers=me | key())

    assert listed["data"] == []
    assert read.status_code == 404
    assert made.status_code == 403


async def test_lists_have_filters_and_pages(
    http: httpx.AsyncClient, staff: dict[str, str], issuer: TokenIssuer, new_account: NewAccount
) -> None:
    account = await new_account()
    ids = []
    for name in ("Lizenz Jupiter", "Lizenz Saturn", "Beratung"):
        lines = [{"description": name, "unit_amount": "100"}]
        made = await http.post(
            "/v1/invoices", json=an_invoice(account, lines=lines), headers=staff | key()
        )
        ids.append(body(made)["id"])
    await http.post(f"/v1/invoices/{ids[0]}/void", headers=staff)
    me = issuer.of_account(account)

    async def found(**params: Any) -> list[str]:
        answer = body(await http.get("/v1/invoices", params=params, headers=me))
        return [invoice["id"] for invoice in answer["data"]]

    assert await found(status="void") == [ids[0]]
    assert await found(q="Lizenz") == [ids[1], ids[0]]
    assert await found(q="Saturm") == [ids[1]]
    assert await found(to="2020-01-01T00:00:00Z") == []
    page = body(await http.get("/v1/invoices", params={"limit": 2}, headers=me))
    assert [invoice["id"] for invoice in page["data"]] == [ids[2], ids[1]]
    assert await found(limit=2, cursor=page["next_cursor"]) == [ids[0]]


async def test_an_offline_payment_may_come_in_parts(
    http: httpx.AsyncClient, staff: dict[str, str], events: EventLog, new_account: NewAccount
) -> None:
    account = await new_account()
    invoice = body(await http.post("/v1/invoices", json=an_invoice(account), headers=staff | key()))
    path = f"/v1/invoices/{invoice['id']}/mark-paid"

    part = body(await http.post(path, json={"amount": 5200, "reference": "A1"}, headers=staff))
    more = await http.post(path, json={"amount": 90001}, headers=staff)
    rest = body(await http.post(path, json={}, headers=staff))

    assert (part["status"], part["amount_remaining"]["amount"]) == ("open", 90000)
    assert more.status_code == 422
    assert (rest["status"], rest["amount_paid"]["amount"]) == ("paid", 95200)
    told = await events.next(InvoicePartlyPaid, about=account)
    assert (told.amount_received.amount, told.amount_remaining.amount) == (5200, 90000)
    paid = await events.next(InvoicePaid, about=account)
    assert (paid.payment_id, paid.sequence) == (None, told.sequence + 1)


async def test_a_voided_invoice_keeps_its_number_and_is_made_again_as_a_draft(
    http: httpx.AsyncClient, staff: dict[str, str], events: EventLog, new_account: NewAccount
) -> None:
    account = await new_account()
    invoice = body(await http.post("/v1/invoices", json=an_invoice(account), headers=staff | key()))
    path = f"/v1/invoices/{invoice['id']}"

    early = await http.post(f"{path}/reissue", headers=staff | key())
    voided = body(await http.post(f"{path}/void", headers=staff))
    again = body(await http.post(f"{path}/reissue", headers=staff | key()))
    twice = await http.post(f"{path}/void", headers=staff)

    assert early.status_code == 409
    assert (voided["status"], voided["number"]) == ("void", invoice["number"])
    assert (again["status"], again["total"]) == ("draft", invoice["total"])
    assert twice.status_code == 409
    assert (await events.next(InvoiceVoided, about=account)).sequence == 3


async def test_given_up_money_may_still_come(
    http: httpx.AsyncClient, staff: dict[str, str], new_account: NewAccount
) -> None:
    account = await new_account()
    invoice = body(await http.post("/v1/invoices", json=an_invoice(account), headers=staff | key()))
    path = f"/v1/invoices/{invoice['id']}"

    given_up = body(await http.post(f"{path}/mark-uncollectible", headers=staff))
    paid = body(await http.post(f"{path}/mark-paid", json={}, headers=staff))

    assert (given_up["status"], paid["status"]) == ("uncollectible", "paid")


async def test_a_stale_version_is_refused(
    http: httpx.AsyncClient, staff: dict[str, str], new_account: NewAccount
) -> None:
    account = await new_account()
    invoice = body(await http.post("/v1/invoices", json=an_invoice(account), headers=staff | key()))

    stale = await http.post(
        f"/v1/invoices/{invoice['id']}/void", headers=staff | {"If-Match": '"1"'}
    )

    assert stale.status_code == 412


async def test_credit_notes_never_take_back_more_than_there_is_together(
    http: httpx.AsyncClient, staff: dict[str, str], events: EventLog, new_account: NewAccount
) -> None:
    account = await new_account()
    invoice = body(await http.post("/v1/invoices", json=an_invoice(account), headers=staff | key()))
    too_much = await http.post(
        "/v1/credit-notes",
        json={"invoice_id": invoice["id"], "amount": 95201, "reason": "More than there is"},
        headers=staff | key(),
    )
    await http.post(f"/v1/invoices/{invoice['id']}/mark-paid", json={}, headers=staff)

    async def take_back() -> int:
        wanted = {
            "invoice_id": invoice["id"],
            "amount": 30000,
            "reason": "A tenth was missing",
            "settle": "credit",
        }
        answer = await http.post("/v1/credit-notes", json=wanted, headers=staff | key())
        return answer.status_code

    statuses = await asyncio.gather(*[take_back() for _ in range(8)])

    assert too_much.status_code == 409
    assert sorted(statuses) == [201] * 3 + [409] * 5
    notes = body(
        await http.get("/v1/credit-notes", params={"invoice_id": invoice["id"]}, headers=staff)
    )["data"]
    assert sum(note["total"]["amount"] for note in notes) == 90000
    assert all(note["tax"]["amount"] == 4790 for note in notes)
    issued = await events.next(CreditNoteIssued, about=account)
    assert (issued.total, issued.credit) == (Money(30000, EUR), Money(30000, EUR))
    credit = body(
        await http.get("/v1/account-credit", headers=staff | {"Perennial-Account": str(account)})
    )
    assert credit["balances"] == [{"amount": 90000, "currency": EUR}]


async def test_billing_details_are_frozen_on_the_invoice(
    http: httpx.AsyncClient, staff: dict[str, str], issuer: TokenIssuer, new_account: NewAccount
) -> None:
    account = await new_account()
    me = issuer.of_account(account)
    details = {
        "name": "Łąkowa Sp. z o.o.",
        "address": {"line1": "ul. Łąkowa 1", "city": "Łódź", "country": "PL"},
        "vat_id": "PL 8567346215",
    }

    put = body(await http.put("/v1/billing-details", json=details, headers=me))
    invoice = body(await http.post("/v1/invoices", json=an_invoice(account), headers=staff | key()))
    await http.put("/v1/billing-details", json={"name": "Other"}, headers=me)
    later = body(await http.get(f"/v1/invoices/{invoice['id']}", headers=me))

    assert put["vat_id"] == "PL8567346215"
    assert invoice["taxes"][0]["category"] == "AE"
    assert invoice["taxes"][0]["exemption_reason"] == "Reverse charge"
    assert later["bill_to"] == invoice["bill_to"]
    assert later["bill_to"]["name"] == "Łąkowa Sp. z o.o."


async def test_a_wrong_vat_number_is_refused_with_the_field(
    http: httpx.AsyncClient, issuer: TokenIssuer, new_account: NewAccount
) -> None:
    account = await new_account()

    answer = await http.put(
        "/v1/billing-details", json={"vat_id": "DE1"}, headers=issuer.of_account(account)
    )

    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == "vat_id"


async def test_tax_rates_are_dated_and_do_not_overlap(
    http: httpx.AsyncClient, staff: dict[str, str]
) -> None:
    rate = {"country": "NO", "category": "standard", "rate": "25", "valid_from": "2020-01-01"}

    first = await http.post("/v1/tax-rates", json=rate, headers=staff)
    later = {**rate, "rate": "26", "valid_from": "2027-01-01"}
    second = await http.post("/v1/tax-rates", json=later, headers=staff)
    clash = await http.post(
        "/v1/tax-rates", json={**rate, "valid_from": "2019-01-01"}, headers=staff
    )

    assert (first.status_code, second.status_code, clash.status_code) == (201, 201, 409)
    listed = body(await http.get("/v1/tax-rates", params={"country": "NO"}, headers=staff))
    assert [(r["rate"], r["valid_to"]) for r in listed["data"]] == [
        ("26", None),
        ("25", "2027-01-01"),
    ]
    standard = {"country": "DE", "category": "standard"}
    germany = body(await http.get("/v1/tax-rates", params=standard, headers=staff))
    assert {r["rate"] for r in germany["data"]} == {"19", "16"}


async def test_a_foreign_currency_invoice_carries_the_accounting_currency(
    http: httpx.AsyncClient, staff: dict[str, str], new_account: NewAccount
) -> None:
    account = await new_account()
    rate = {"base": "JPY", "quote": "EUR", "rate": "0.0062", "on": "2026-01-02"}

    added = await http.post("/v1/exchange-rates", json=rate, headers=staff)
    again = await http.post("/v1/exchange-rates", json=rate, headers=staff)
    wanted = an_invoice(
        account, currency="JPY", lines=[{"description": "Set-up", "unit_amount": "10000"}]
    )
    invoice = body(await http.post("/v1/invoices", json=wanted, headers=staff | key()))

    assert (added.status_code, again.status_code) == (201, 409)
    assert invoice["total"] == {"amount": 11900, "currency": "JPY"}
    assert invoice["accounting"] == {
        "currency": "EUR",
        "rate": "0.0062",
        "on": "2026-01-02",
        "total": {"amount": 7378, "currency": "EUR"},
        "tax": {"amount": 1178, "currency": "EUR"},
    }


async def test_legal_entities_number_for_themselves(
    http: httpx.AsyncClient, staff: dict[str, str], issuer: TokenIssuer, new_account: NewAccount
) -> None:
    account = await new_account("FR")
    entity = {
        "name": "Exemple SARL",
        "country": "FR",
        "number_pattern": "FR/{year}/{seq:04}",
        "payment_terms_days": 14,
    }
    made = body(await http.post("/v1/legal-entities", json=entity, headers=staff))
    details = {"legal_entity_id": made["id"]}
    acting = staff | {"Perennial-Account": str(account)}
    refused = await http.put(
        "/v1/billing-details", json=details, headers=issuer.of_account(account)
    )
    await http.put("/v1/billing-details", json=details, headers=acting)

    numbers = []
    for _ in range(2):
        answer = await http.post("/v1/invoices", json=an_invoice(account), headers=staff | key())
        numbers.append(body(answer)["number"].split("/")[-1])

    assert refused.status_code == 403
    assert numbers == ["0001", "0002"]
    bad = await http.post(
        "/v1/legal-entities", json={**entity, "number_pattern": "X"}, headers=staff
    )
    assert bad.json()["code"] == "bad-number-pattern"


async def test_staff_grant_credit_and_the_next_invoice_takes_it(
    http: httpx.AsyncClient, staff: dict[str, str], new_account: NewAccount
) -> None:
    account = await new_account()
    acting = staff | {"Perennial-Account": str(account)}
    grant = {"amount": {"amount": 100000, "currency": EUR}, "note": "For the outage"}

    granted = body(await http.post("/v1/account-credit", json=grant, headers=acting))
    invoice = body(await http.post("/v1/invoices", json=an_invoice(account), headers=staff | key()))
    entries = body(await http.get("/v1/account-credit/entries", headers=acting))["data"]

    assert granted["balances"] == [{"amount": 100000, "currency": EUR}]
    assert (invoice["status"], invoice["credit_applied"]["amount"]) == ("paid", 95200)
    assert [(e["kind"], e["amount"]["amount"]) for e in entries] == [
        ("applied", -95200),
        ("granted", 100000),
    ]


async def test_what_does_not_make_sense_is_said_by_field(
    http: httpx.AsyncClient, staff: dict[str, str], new_account: NewAccount
) -> None:
    account = await new_account()

    async def refused(**fields: Any) -> int:
        answer = await http.post(
            "/v1/invoices", json=an_invoice(account, **fields), headers=staff | key()
        )
        return answer.status_code

    assert await refused(currency="XXX") == 422
    assert await refused(lines=[]) == 422
    assert await refused(color="red") == 422
    assert await refused(account_id=str(new_id())) == 404
    no_key = await http.post("/v1/invoices", json=an_invoice(account), headers=staff)
    assert no_key.status_code == 400


async def test_no_amount_enters_that_is_larger_than_any_that_can_be_billed(
    http: httpx.AsyncClient, staff: dict[str, str], new_account: NewAccount
) -> None:
    account = await new_account()
    acting = staff | {"Perennial-Account": str(account)}
    small = body(await http.post("/v1/invoices", json=an_invoice(account), headers=staff | key()))
    most = 10**15

    async def posted(path: str, wanted: dict[str, Any]) -> tuple[int, str]:
        answer = await http.post(path, json=wanted, headers=acting | key())
        return answer.status_code, answer.json().get("code", "")

    def draft(*amounts: int, quantity: str = "1", **fields: Any) -> dict[str, Any]:
        lines = [
            {"description": "One", "unit_amount": str(amount), "quantity": quantity}
            for amount in amounts
        ]
        return an_invoice(account, lines=lines, draft=True, **fields)

    def credit(amount: int) -> dict[str, Any]:
        return {"amount": {"amount": amount, "currency": EUR}, "note": "x"}

    too_large: list[tuple[str, dict[str, Any]]] = [
        ("/v1/invoices", draft(999_999_999_999_999, quantity="999999999999.999999")),
        ("/v1/invoices", draft(9 * 10**14, 2 * 10**14)),
        ("/v1/invoices", draft(1, discount={"description": "x", "amount": most + 1})),
        ("/v1/account-credit", credit(10**18)),
        ("/v1/account-credit", credit(-most - 1)),
        ("/v1/credit-notes", {"invoice_id": small["id"], "amount": 10**30, "reason": "x"}),
        (f"/v1/invoices/{small['id']}/mark-paid", {"amount": most + 1}),
    ]
    for path, wanted in too_large:
        assert await posted(path, wanted) == (422, "amount-too-large"), path
    made = body(await http.post("/v1/invoices", json=draft(1), headers=acting | key()))
    more = {"lines": draft(9 * 10**14, 10**14 + 1)["lines"]}
    changed = await http.patch(f"/v1/invoices/{made['id']}", json=more, headers=staff)

    assert changed.json()["code"] == "amount-too-large"
    assert (await posted("/v1/invoices", draft(9 * 10**14, 10**14)))[0] == 201
    assert (await posted("/v1/account-credit", credit(most)))[0] == 200


async def test_a_tax_category_is_named_alike_where_rates_and_lines_are_made(
    http: httpx.AsyncClient, staff: dict[str, str], new_account: NewAccount
) -> None:
    account = await new_account()
    rate = {"country": "IS", "category": "e-book_2", "rate": "11", "valid_from": "2020-01-01"}
    line = {"description": "One", "unit_amount": "100", "tax_category": "e-book_2"}

    added = await http.post("/v1/tax-rates", json=rate, headers=staff)
    used = await http.post(
        "/v1/invoices", json=an_invoice(account, lines=[line]), headers=staff | key()
    )
    wrong = [
        await http.post("/v1/tax-rates", json={**rate, "category": name}, headers=staff)
        for name in ("Standard", "1st", "", "a" * 51, "with space")
    ]

    assert (added.status_code, used.status_code) == (201, 201)
    assert {answer.status_code for answer in wrong} == {422}
    of_category = await http.get("/v1/tax-rates", params={"category": "e-book_2"}, headers=staff)
    assert [one["country"] for one in body(of_category)["data"]] == ["IS"]


async def test_an_amount_that_the_accounting_currency_cannot_hold_is_left_out(
    http: httpx.AsyncClient, staff: dict[str, str], new_account: NewAccount
) -> None:
    account = await new_account()
    rate = {"base": "VND", "quote": "EUR", "rate": "999999999999", "on": "2026-01-02"}
    await http.post("/v1/exchange-rates", json=rate, headers=staff)
    wanted = an_invoice(
        account, currency="VND", lines=[{"description": "One", "unit_amount": "10000000000"}]
    )

    invoice = body(await http.post("/v1/invoices", json=wanted, headers=staff | key()))

    assert (invoice["status"], invoice["accounting"]) == ("open", None)


@pytest.mark.parametrize(
    ("path", "rate", "field"),
    [
        (
            "/v1/tax-rates",
            {
                "country": "DE",
                "category": "standard",
                "rate": "19",
                "valid_from": "2040-01-02",
                "valid_to": "2040-01-01",
            },
            "valid_to",
        ),
        (
            "/v1/exchange-rates",
            {"base": "EUR", "quote": "EUR", "rate": "1", "on": "2040-01-01"},
            "quote",
        ),
    ],
)
async def test_a_rate_that_cannot_be_is_refused(
    http: httpx.AsyncClient, staff: dict[str, str], path: str, rate: dict[str, str], field: str
) -> None:
    answer = await http.post(path, json=rate, headers=staff)

    assert (answer.status_code, answer.json()["code"]) == (422, "invalid")
    assert answer.json()["errors"][0]["field"] == field
