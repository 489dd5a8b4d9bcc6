"""The sandbox's HTTP surface: charges, captures, refunds, disputes, and what it all came to."""

import asyncio
import hashlib
import json
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Header, Query, Request
from fastapi.responses import HTMLResponse, JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from services.payments.sandbox.behaviors import DECLINE_MESSAGES, Behavior, behavior_of, fee_of
from services.payments.sandbox.books import Books, Row, charge_view, refund_view
from services.payments.sandbox.settings import SandboxSettings
from services.payments.sandbox.webhooks import Sender

DISPUTE_FEE = 1500
NO_CURRENCY = {"XXX", "XTS", "XAU", "XAG"}
LARGEST_AMOUNT = 99_999_999

Answer = tuple[int, Row]


class Refusal(Exception):
    """An answer other than success."""

    def __init__(self, status: int, code: str, message: str, **more: Any) -> None:
        super().__init__(message)
        self.status = status
        self.body: Row = {"error": {"code": code, "message": message, **more}}


class Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class MethodBody(Body):
    token: str
    account: str = ""


class ChargeBody(Body):
    amount: int = Field(gt=0, le=LARGEST_AMOUNT)
    currency: str = Field(pattern="^[A-Z]{3}$")
    payment_method: str
    capture: bool = True
    metadata: dict[str, str] = {}


class AmountBody(Body):
    amount: int | None = Field(default=None, gt=0)


class RefundBody(Body):
    charge: str
    amount: int = Field(gt=0)


class ConfirmBody(Body):
    success: bool = True


class DisputeBody(Body):
    reason: str = "fraudulent"


class CloseBody(Body):
    won: bool


def books_of(request: Request) -> Books:
    books: Books = request.app.state.books
    return books


def settings_of(request: Request) -> SandboxSettings:
    settings: SandboxSettings = request.app.state.settings
    return settings


InBooks = Annotated[Books, Depends(books_of)]
InSettings = Annotated[SandboxSettings, Depends(settings_of)]
Key = Annotated[str, Header(alias="Idempotency-Key", min_length=1)]


def once(books: Books, key: str, asked: Row, work: Callable[[], Answer]) -> JSONResponse:
    """Do the work for a key once; the same question again gets the first answer again."""
    fingerprint = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()
    with books.transaction():
        earlier = books.one("SELECT * FROM requests WHERE key = ?", key)
        if earlier is None:
            status, body = work()
            books.insert(
                "requests", key=key, fingerprint=fingerprint, status=status, body=json.dumps(body)
            )
            return JSONResponse(body, status)
    if earlier["fingerprint"] != fingerprint:
        raise Refusal(400, "key_reused", "This key was used with other parameters.")
    return JSONResponse(
        json.loads(earlier["body"]), earlier["status"], {"Idempotent-Replayed": "true"}
    )


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
        base = settings.public_url or f"http://{settings.host}:{settings.port}"
        view["action_url"] = f"{base}/confirm/{row['id']}"
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
    elif behavior.outcome == "action":
        row = charge_of(books, row["id"])
    elif body.capture:
        row = taken(books, row, body.amount)
    else:
        row = save_charge(books, row["id"], status="authorized")
    announce_charge(books, row)
    return row


async def attach(body: MethodBody, books: InBooks) -> Row:
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
    return {
        "id": method["id"],
        "object": "payment_method",
        "brand": "sandbox",
        "last4": behavior.last4,
        "exp_month": method["exp_month"],
        "exp_year": method["exp_year"],
    }


async def detach(method_id: str, books: InBooks) -> Row:
    with books.transaction():
        books.run("UPDATE methods SET detached = 1 WHERE id = ?", method_id)
    return {"id": method_id, "detached": True}


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
    return answer


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


async def cancel(charge_id: str, key: Key, books: InBooks, settings: InSettings) -> JSONResponse:
    """Give up an unfinished charge; a finished one is shown as it is."""

    def work() -> Answer:
        row = charge_of(books, charge_id)
        if row["status"] in {"requires_action", "authorized"}:
            row = save_charge(books, charge_id, status="canceled")
            announce_charge(books, row)
        return answer_of(row, settings)

    return once(books, key, {"cancel": charge_id}, work)


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


async def confirm_page(charge_id: str, books: InBooks) -> HTMLResponse:
    """What the payer's bank would show."""
    row = charge_of(books, charge_id)
    return HTMLResponse(
        f"<!doctype html><title>Sandbox bank</title><h1>Sandbox bank</h1>"
        f"<p>{row['amount']} {row['currency']} (minor units): {row['status']}</p>"
        f"<p><code>curl -X POST -H 'Content-Type: application/json' -d '{{}}' "
        f"…/v1/charges/{row['id']}/confirm</code></p>"
    )


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
        rows = books.all(
            "SELECT * FROM charges WHERE position > ? AND created >= ? ORDER BY position LIMIT ?",
            after,
            since,
            limit,
        )
    return {
        "data": [charge_view(row) for row in rows],
        "next": rows[-1]["position"] if len(rows) == limit else None,
    }


async def get_charge(charge_id: str, books: InBooks) -> Row:
    return charge_view(charge_of(books, charge_id))


async def refund(body: RefundBody, key: Key, books: InBooks) -> JSONResponse:
    def work() -> Answer:
        row = charge_of(books, body.charge)
        if row["status"] not in {"succeeded", "refunded"}:
            raise Refusal(409, "not_charged", "Nothing was charged.")
        if row["refunded"] + body.amount > row["captured"]:
            raise Refusal(409, "refund_above_charge", "More than was charged cannot go back.")
        new: Row = {
            "id": f"re_{secrets.token_hex(12)}",
            "key": key,
            "charge": body.charge,
            "amount": body.amount,
            "currency": row["currency"],
            "created": time.time(),
        }
        books.insert("refunds", **new)
        save_charge(books, body.charge, refunded=row["refunded"] + body.amount)
        behavior = behavior_for(books, row)
        books.announce(
            "refund.succeeded",
            refund_view(new),
            copies=behavior.webhook_copies,
            delay=behavior.webhook_delay_seconds,
        )
        return 200, refund_view(new)

    return once(books, key, body.model_dump(), work)


async def list_refunds(
    books: InBooks,
    key: str | None = None,
    after: int = 0,
    since: float = 0.0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> Row:
    if key is not None:
        rows = books.all("SELECT * FROM refunds WHERE key = ?", key)
    else:
        rows = books.all(
            "SELECT * FROM refunds WHERE position > ? AND created >= ? ORDER BY position LIMIT ?",
            after,
            since,
            limit,
        )
    return {
        "data": [refund_view(row) for row in rows],
        "next": rows[-1]["position"] if len(rows) == limit else None,
    }


async def dispute(charge_id: str, body: DisputeBody, books: InBooks) -> Row:
    """The payer's bank takes a charge back."""
    with books.transaction():
        row = charge_of(books, charge_id)
        if row["status"] != "succeeded":
            raise Refusal(409, "not_charged", "Nothing was charged.")
        if books.one("SELECT 1 FROM disputes WHERE charge = ?", charge_id):
            raise Refusal(409, "disputed_already", "This charge is disputed already.")
        new: Row = {
            "id": f"dp_{secrets.token_hex(12)}",
            "charge": charge_id,
            "amount": row["captured"] - row["refunded"],
            "currency": row["currency"],
            "fee": DISPUTE_FEE,
            "status": "open",
            "reason": body.reason,
            "created": time.time(),
        }
        books.insert("disputes", **new)
        new["key"] = row["key"]
        books.announce("dispute.opened", new)
    return new


async def get_dispute(dispute_id: str, books: InBooks) -> Row:
    row = books.one(
        "SELECT d.*, c.key FROM disputes d JOIN charges c ON c.id = d.charge WHERE d.id = ?",
        dispute_id,
    )
    if row is None:
        raise Refusal(404, "no_such_dispute", "There is no such dispute.")
    return row


async def close_dispute(dispute_id: str, body: CloseBody, books: InBooks) -> Row:
    with books.transaction():
        row = await get_dispute(dispute_id, books)
        if row["status"] != "open":
            raise Refusal(409, "dispute_closed", "This dispute is closed already.")
        row["status"] = "won" if body.won else "lost"
        books.run("UPDATE disputes SET status = ? WHERE id = ?", row["status"], dispute_id)
        books.announce(f"dispute.{row['status']}", row)
    return row


def balance(books: Books) -> dict[str, int]:
    """What the sandbox holds for the operator, by currency."""
    rows = books.all(
        "SELECT currency, sum(amount) AS amount FROM ("
        " SELECT currency, captured - fee AS amount FROM charges"
        " UNION ALL SELECT currency, -amount FROM refunds"
        " UNION ALL SELECT currency, -amount - fee FROM disputes WHERE status <> 'won'"
        " UNION ALL SELECT currency, -fee FROM disputes WHERE status = 'won'"
        " UNION ALL SELECT currency, -amount FROM payouts) GROUP BY currency"
    )
    return {row["currency"]: row["amount"] for row in rows}


async def get_balance(books: InBooks) -> dict[str, int]:
    return balance(books)


async def pay_out(books: InBooks) -> Row:
    """Send every positive balance to the operator's bank."""
    made = []
    with books.transaction():
        for currency, amount in balance(books).items():
            if amount <= 0:
                continue
            row: Row = {
                "id": f"po_{secrets.token_hex(12)}",
                "amount": amount,
                "currency": currency,
                "created": time.time(),
            }
            books.insert("payouts", **row)
            books.announce("payout.paid", row)
            made.append(row)
    return {"data": made}


async def get_payout(payout_id: str, books: InBooks) -> Row:
    row = books.one("SELECT * FROM payouts WHERE id = ?", payout_id)
    if row is None:
        raise Refusal(404, "no_such_payout", "There is no such payout.")
    return row


async def update_method(method_id: str, books: InBooks) -> Row:
    """The card network sends a new expiry date for a card on file."""
    with books.transaction():
        books.run("UPDATE methods SET exp_year = exp_year + 4 WHERE id = ?", method_id)
        row = books.one("SELECT * FROM methods WHERE id = ?", method_id)
        if row is None:
            raise Refusal(404, "no_such_payment_method", "There is no such payment method.")
        behavior = behavior_of(row["token"]) or Behavior()
        view = {
            "id": method_id,
            "brand": "sandbox",
            "last4": behavior.last4,
            "exp_month": row["exp_month"],
            "exp_year": row["exp_year"],
        }
        books.announce("payment_method.updated", view)
    return view


async def health(books: InBooks) -> Row:
    books.one("SELECT 1")
    return {"status": "ok"}


async def refuse(_: Request, refusal: Exception) -> JSONResponse:
    if not isinstance(refusal, Refusal):
        raise refusal
    return JSONResponse(refusal.body, refusal.status)


def create_app(settings: SandboxSettings) -> FastAPI:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        books = Books(settings.database)
        app.state.books = books
        sender = Sender(books, url=settings.webhook_url, secret=settings.webhook_secret)
        task = asyncio.create_task(sender.run())
        yield
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        books.close()

    app = FastAPI(title="Perennial sandbox payment provider", lifespan=lifespan)
    app.state.settings = settings
    app.add_exception_handler(Refusal, refuse)

    if settings.latency_seconds:

        @app.middleware("http")
        async def far_away(request: Request, call_next: Callable[[Request], Awaitable[Any]]) -> Any:
            await asyncio.sleep(settings.latency_seconds)
            return await call_next(request)

    app.get("/health/live")(health)
    app.get("/health/ready")(health)
    app.post("/v1/payment_methods", status_code=201)(attach)
    app.delete("/v1/payment_methods/{method_id}")(detach)
    app.post("/v1/payment_methods/{method_id}/network_update")(update_method)
    app.post("/v1/charges")(charge)
    app.get("/v1/charges")(list_charges)
    app.get("/v1/charges/{charge_id}")(get_charge)
    app.post("/v1/charges/{charge_id}/capture")(capture)
    app.post("/v1/charges/{charge_id}/cancel")(cancel)
    app.post("/v1/charges/{charge_id}/confirm")(confirm)
    app.post("/v1/charges/{charge_id}/dispute", status_code=201)(dispute)
    app.get("/confirm/{charge_id}")(confirm_page)
    app.post("/v1/refunds")(refund)
    app.get("/v1/refunds")(list_refunds)
    app.get("/v1/disputes/{dispute_id}")(get_dispute)
    app.post("/v1/disputes/{dispute_id}/close")(close_dispute)
    app.get("/v1/balance")(get_balance)
    app.post("/v1/payouts", status_code=201)(pay_out)
    app.get("/v1/payouts/{payout_id}")(get_payout)
    return app
