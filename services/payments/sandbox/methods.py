"""Ways to pay: attached by test token, confirmed by their owner, renewed by the card network."""

import secrets

from fastapi import APIRouter
from fastapi.responses import HTMLResponse

from services.payments.sandbox.behaviors import Behavior, behavior_of
from services.payments.sandbox.books import Books, Row
from services.payments.sandbox.edge import Body, InBooks, InSettings, Refusal, bank_page
from services.payments.sandbox.settings import SandboxSettings

router = APIRouter(prefix="/v1/payment_methods")


class MethodBody(Body):
    token: str
    account: str = ""


def method_of(books: Books, method_id: str) -> Row:
    row = books.one("SELECT * FROM methods WHERE id = ?", method_id)
    if row is None:
        raise Refusal(404, "no_such_payment_method", "There is no such payment method.")
    return row


def awaits_confirmation(books: Books, row: Row) -> bool:
    """Whether its owner has yet to confirm it before it can be charged without them."""
    behavior = behavior_of(row["token"]) or Behavior()
    return behavior.confirmed_first and not books.has_mark(row["id"], "confirmed")


def method_view(books: Books, row: Row, settings: SandboxSettings) -> Row:
    behavior = behavior_of(row["token"]) or Behavior()
    view: Row = {
        "id": row["id"],
        "object": "payment_method",
        "brand": "sandbox",
        "last4": behavior.last4,
        "exp_month": row["exp_month"],
        "exp_year": row["exp_year"],
    }
    if awaits_confirmation(books, row):
        view["action_url"] = f"{settings.base_url}/v1/payment_methods/{row['id']}/confirm"
    return view


@router.post("", status_code=201)
async def attach(body: MethodBody, books: InBooks, settings: InSettings) -> Row:
    behavior = behavior_of(body.token)
    if behavior is None:
        raise Refusal(400, "no_such_token", "There is no such test token.")
    method: Row = {
        "id": f"pm_{secrets.token_hex(12)}",
        "token": body.token,
        "account": body.account,
        "exp_month": 12,
        "exp_year": 2020 if behavior.expired else 2040,
    }
    with books.transaction():
        books.insert("methods", **method)
    return method_view(books, method, settings)


@router.delete("/{method_id}")
async def detach(method_id: str, books: InBooks) -> Row:
    with books.transaction():
        books.run("UPDATE methods SET detached = 1 WHERE id = ?", method_id)
    return {"id": method_id, "detached": True}


@router.get("/{method_id}/confirm")
async def confirm_page(method_id: str, books: InBooks) -> HTMLResponse:
    """What its owner's bank would show."""
    row = method_of(books, method_id)
    return bank_page(f"A card on file: {row['id']}", f"/v1/payment_methods/{row['id']}/confirm")


@router.post("/{method_id}/confirm")
async def confirm(method_id: str, books: InBooks, settings: InSettings) -> Row:
    """Its owner confirms it with their bank, once for all charges to come."""
    with books.transaction():
        row = method_of(books, method_id)
        books.mark(method_id, "confirmed")
        view = method_view(books, row, settings)
        books.announce("payment_method.confirmed", view)
    return view


@router.post("/{method_id}/network_update")
async def renew(method_id: str, books: InBooks, settings: InSettings) -> Row:
    """The card network sends a new expiry date for a card on file."""
    with books.transaction():
        books.run("UPDATE methods SET exp_year = exp_year + 4 WHERE id = ?", method_id)
        view = method_view(books, method_of(books, method_id), settings)
        books.announce("payment_method.updated", view)
    return view
