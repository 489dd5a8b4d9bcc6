"""Charges: taken, reserved, declined or waiting for the payer, as the method's token says."""

import asyncio
import json
import secrets
import time
from typing import Annotated, Any

from fastapi import APIRouter, Query
from fastapi.responses import HTMLResponse, JSONResponse
from pydantic import Field

from services.payments.sandbox.behaviors import DECLINE_MESSAGES, Behavior, behavior_of, fee_of
from services.payments.sandbox.books import Books, Row, charge_view
from services.payments.sandbox.edge import (
    Answer,
    Body,
    InBooks,
    InSettings,
    Key,
    Refusal,
    bank_page,
    once,
)
from services.payments.sandbox.methods import awaits_confirmation
from services.payments.sandbox.settings import SandboxSettings

router = APIRouter()

NO_CURRENCY = {"XXX", "XTS", "XAU", "XAG"}
LARGEST_AMOUNT = 99_999_999


class ChargeBody(Body):
    amount: int = Field(gt=0, le=LARGEST_AMOUNT)
    currency: str = Field(pattern="^[A-Z]{3}$")
    payment_method: str
    capture: bool = True
    metadata: dict[str, str] = Field(default_factory=dict)


class AmountBody(Body):
    amount: int | None = Field(default=None, gt=0)


class ConfirmBody(Body):
    success: bool = True


def charge_of(books: Books, charge_id: str) -> Row:
    row = books.one("SELECT * FROM charges WHERE id = ?", charge_id)
    if row is None:
        raise Refusal(404, "no_such_charge", "There is no such charge.")
    return row


def save_charge(books: Books, charge_id: str, **values: Any) -> Row:
    names = ", ".join(f"{name} = ?" for name in values)
    books.run(
        f"UPDATE charges SET {names} WHERE id = ?",  # noqa: S608  (names are ours)
        *values.values(),
        charge_id,
    )
    return charge_of(books, charge_id)


def taken(books: Books, row: Row, amount: int) -> Row:
    return save_charge(
        books, row["id"], status="succeeded", captured=amount, fee=fee_of(amount), decline_code=None
    )


def behavior_for(books: Books, row: Row) -> Behavior:
    method = books.one("SELECT token FROM methods WHERE id = ?", row["method"])
    return (behavior_of(method["token"]) if method else None) or Behavior()


def announce_charge(books: Books, row: Row) -> None:
    behavior = behavior_for(books, row)
    books.announce(
        f"charge.{row['status']}",
        charge_view(row),
        copies=behavior.webhook_copies,
        delay=behavior.webhook_delay_seconds,
    )


def answer_of(row: Row, settings: SandboxSettings) -> Answer:
    """200 with the charge, 402 where it was declined."""
    view = charge_view(row)
    if row["status"] == "failed":
        code = row["decline_code"]
        message = DECLINE_MESSAGES.get(code, "The card was declined.")
        return 402, {
            "error": {"code": "card_declined", "decline_code": code, "message": message}
        } | {"charge": view}
    if row["status"] == "requires_action":
        view["action_url"] = f"{settings.base_url}/confirm/{row['id']}"
    return 200, view


def begin_charge(books: Books, body: ChargeBody, key: str, method: Row, behavior: Behavior) -> Row:
    tried = method["charges"]
    books.run("UPDATE methods SET charges = charges + 1 WHERE id = ?", method["id"])
    row: Row = {
        "id": f"ch_{secrets.token_hex(12)}",
        "key": key,
        "method": method["id"],
        "status": "requires_action",
        "amount": body.amount,
        "currency": body.currency,
        "capture": int(body.capture),
        "metadata": json.dumps(body.metadata),
        "created": time.time(),
    }
    books.insert("charges", **row)
    declined = behavior.outcome == "decline" or tried < behavior.fails_first
    if declined:
        row = save_charge(books, row["id"], status="failed", decline_code=behavior.decline_code)
    elif behavior.outcome == "action" or awaits_confirmation(books, method):
        row = charge_of(books, row["id"])
    elif body.capture:
        row = taken(books, row, body.amount)
    else:
        row = save_charge(books, row["id"], status="authorized")
    announce_charge(books, row)
    return row


@router.post("/v1/charges")
async def charge(body: ChargeBody, key: Key, books: InBooks, settings: InSettings) -> JSONResponse:
    if body.currency in NO_CURRENCY:
        raise Refusal(400, "currency_not_supported", f"{body.currency} cannot be charged.")
    method = books.one("SELECT * FROM methods WHERE id = ?", body.payment_method)
    if method is None or method["detached"]:
        raise Refusal(400, "no_such_payment_method", "There is no such payment method.")
    behavior = behavior_of(method["token"]) or Behavior()
    hangs_now = False
    if behavior.hang_before or behavior.hang_after:
        with books.transaction():
            hangs_now = books.one("SELECT 1 FROM hung WHERE key = ?", key) is None
            if hangs_now:
                books.insert("hung", key=key)
    if hangs_now and behavior.hang_before:
        await asyncio.sleep(settings.hang_seconds)
        raise Refusal(504, "timeout", "Too late, and nothing was charged.")

    answer = once(
        books,
        key,
        body.model_dump(),
        lambda: answer_of(begin_charge(books, body, key, method, behavior), settings),
    )
    if hangs_now:
        await asyncio.sleep(settings.hang_seconds)
        raise Refusal(504, "timeout", "Too late. It was done, and the answer is lost.")
    return answer


@router.post("/v1/charges/{charge_id}/capture")
async def capture(
    charge_id: str, body: AmountBody, key: Key, books: InBooks, settings: InSettings
) -> JSONResponse:
    def work() -> Answer:
        row = charge_of(books, charge_id)
        amount = body.amount or row["amount"]
        if row["status"] != "authorized" or amount > row["amount"]:
            raise Refusal(409, "not_capturable", "This amount cannot be captured.")
        row = taken(books, row, amount)
        announce_charge(books, row)
        return answer_of(row, settings)

    return once(books, key, {"capture": charge_id} | body.model_dump(), work)


@router.post("/v1/charges/{charge_id}/cancel")
async def cancel(charge_id: str, key: Key, books: InBooks, settings: InSettings) -> JSONResponse:
    """Give up an unfinished charge; a finished one is shown as it is."""

    def work() -> Answer:
        row = charge_of(books, charge_id)
        if row["status"] in {"requires_action", "authorized"}:
            row = save_charge(books, charge_id, status="canceled")
            announce_charge(books, row)
        return answer_of(row, settings)

    return once(books, key, {"cancel": charge_id}, work)


@router.post("/v1/charges/{charge_id}/confirm")
async def confirm(
    charge_id: str, body: ConfirmBody, books: InBooks, settings: InSettings
) -> JSONResponse:
    """The payer confirms (or does not) with their bank: 3-D Secure."""
    with books.transaction():
        row = charge_of(books, charge_id)
        if row["status"] != "requires_action":
            raise Refusal(409, "nothing_to_confirm", "This charge waits for nobody.")
        if not body.success:
            row = save_charge(
                books, charge_id, status="failed", decline_code="authentication_failed"
            )
        elif row["capture"]:
            row = taken(books, row, row["amount"])
        else:
            row = save_charge(books, charge_id, status="authorized")
        announce_charge(books, row)
    status, view = answer_of(row, settings)
    return JSONResponse(view, status)


@router.get("/confirm/{charge_id}")
async def confirm_page(charge_id: str, books: InBooks) -> HTMLResponse:
    """What the payer's bank would show."""
    row = charge_of(books, charge_id)
    what = f"{row['amount']} {row['currency']} (minor units): {row['status']}"
    return bank_page(what, f"/v1/charges/{row['id']}/confirm")


@router.get("/v1/charges")
async def list_charges(
    books: InBooks,
    key: str | None = None,
    after: int = 0,
    since: float = 0.0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> Row:
    """What the sandbox charged, oldest first; by our key where one is given."""
    if key is not None:
        rows = books.all("SELECT * FROM charges WHERE key = ?", key)
    else:
        rows = books.page("charges", after=after, since=since, limit=limit)
    return {
        "data": [charge_view(row) for row in rows],
        "next": rows[-1]["position"] if len(rows) == limit else None,
    }


@router.get("/v1/charges/{charge_id}")
async def get_charge(charge_id: str, books: InBooks) -> Row:
    return charge_view(charge_of(books, charge_id))
