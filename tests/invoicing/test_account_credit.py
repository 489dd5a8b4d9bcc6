"""What an account has in credit: exact, and spent once, whoever wants it at the same time."""

import asyncio
from itertools import pairwise

import httpx

from shared.ids import new_id
from tests.invoicing.conftest import NewAccount, body, key
from tests.tokens import TokenIssuer


async def test_invoices_at_once_spend_credit_once_and_its_entries_add_up(
    http: httpx.AsyncClient, staff: dict[str, str], issuer: TokenIssuer, new_account: NewAccount
) -> None:
    account = await new_account()
    acting = staff | {"Perennial-Account": str(account)}
    grant = {"amount": {"amount": 1000, "currency": "EUR"}, "note": "Sorry"}
    repeated = acting | {"Idempotency-Key": str(new_id())}
    for _ in range(2):
        body(await http.post("/v1/account-credit", json=grant, headers=repeated))
    wanted = {
        "account_id": str(account),
        "currency": "EUR",
        "lines": [{"description": "One", "unit_amount": "250"}],
    }

    answers = await asyncio.gather(
        *[http.post("/v1/invoices", json=wanted, headers=staff | key()) for _ in range(8)]
    )

    made = [body(answer) for answer in answers]
    applied = sorted(invoice["credit_applied"]["amount"] for invoice in made)
    assert sum(applied) == 1000
    assert applied == [0, 0, 0, 0, 106, 298, 298, 298]
    assert {
        invoice["status"] for invoice in made if invoice["credit_applied"]["amount"] == 298
    } == {"paid"}
    me = issuer.of_account(account)
    entries = body(await http.get("/v1/account-credit/entries", headers=me))["data"]
    assert sum(entry["amount"]["amount"] for entry in entries) == 0
    assert entries[0]["balance_after"]["amount"] == 0
    assert [entry["kind"] for entry in entries].count("granted") == 1
    for newer, older in pairwise(entries):
        before = older["balance_after"]["amount"]
        assert before + newer["amount"]["amount"] == newer["balance_after"]["amount"]


async def test_credit_never_goes_below_zero(
    http: httpx.AsyncClient, staff: dict[str, str], new_account: NewAccount
) -> None:
    acting = staff | {"Perennial-Account": str(await new_account())}
    taken = {"amount": {"amount": -1, "currency": "EUR"}, "note": "Too much"}

    answer = await http.post("/v1/account-credit", json=taken, headers=acting)

    assert answer.status_code == 409
    assert body(await http.get("/v1/account-credit", headers=acting)) == {"balances": []}


async def test_credit_of_nothing_is_refused(
    http: httpx.AsyncClient, staff: dict[str, str], new_account: NewAccount
) -> None:
    acting = staff | {"Perennial-Account": str(await new_account())}
    nothing = {"amount": {"amount": 0, "currency": "EUR"}, "note": "Sorry"}

    answer = await http.post("/v1/account-credit", json=nothing, headers=acting)

    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == "amount"
