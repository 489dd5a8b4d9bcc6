"""What leaves again: refunds, disputes, payouts; and what is left of it all."""

import secrets
import time
from typing import Annotated

from fastapi import APIRouter, Query
from fastapi.responses import JSONResponse
from pydantic import Field

from services.payments.sandbox.books import Books, Row, refund_view
from services.payments.sandbox.charges import behavior_for, charge_of, save_charge
from services.payments.sandbox.edge import Answer, Body, InBooks, Key, Refusal, once

router = APIRouter(prefix="/v1")

DISPUTE_FEE = 1500

After = Annotated[int, Query(ge=0)]
Most = Annotated[int, Query(ge=1, le=1000)]


class RefundBody(Body):
    charge: str
    amount: int = Field(gt=0)


class DisputeBody(Body):
    reason: str = "fraudulent"


class CloseBody(Body):
    won: bool


def disputed(books: Books, charge_id: str) -> int:
    """What a bank holds or has taken of a charge."""
    row = books.one(
        "SELECT coalesce(sum(amount), 0) AS amount FROM disputes"
        " WHERE charge = ? AND status <> 'won'",
        charge_id,
    )
    return int(row["amount"]) if row else 0


@router.post("/refunds")
async def refund(body: RefundBody, key: Key, books: InBooks) -> JSONResponse:
    def work() -> Answer:
        row = charge_of(books, body.charge)
        if row["status"] not in {"succeeded", "refunded"}:
            raise Refusal(409, "not_charged", "Nothing was charged.")
        if row["refunded"] + disputed(books, body.charge) + body.amount > row["captured"]:
            raise Refusal(409, "refund_above_charge", "More than is left cannot go back.")
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


@router.get("/refunds")
async def list_refunds(
    books: InBooks,
    key: str | None = None,
    after: After = 0,
    since: float = 0.0,
    limit: Most = 100,
) -> Row:
    """What the sandbox sent back, oldest first; by our key where one is given."""
    if key is not None:
        rows = books.all("SELECT * FROM refunds WHERE key = ?", key)
    else:
        rows = books.page("refunds", after=after, since=since, limit=limit)
    return {
        "data": [refund_view(row, failed=books.has_mark(row["id"], "failed")) for row in rows],
        "next": rows[-1]["position"] if len(rows) == limit else None,
    }


@router.post("/refunds/{refund_id}/fail")
async def fail_refund(refund_id: str, books: InBooks) -> Row:
    """The money could not be delivered (the card is closed, say) and comes back."""
    with books.transaction():
        row = books.one("SELECT * FROM refunds WHERE id = ?", refund_id)
        if row is None:
            raise Refusal(404, "no_such_refund", "There is no such refund.")
        if books.has_mark(refund_id, "failed"):
            raise Refusal(409, "refund_failed", "This refund has failed already.")
        books.mark(refund_id, "failed")
        back = charge_of(books, row["charge"])
        save_charge(books, back["id"], refunded=back["refunded"] - row["amount"])
        view = refund_view(row, failed=True)
        books.announce("refund.failed", view)
    return view


@router.post("/charges/{charge_id}/dispute", status_code=201)
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


@router.get("/disputes")
async def list_disputes(
    books: InBooks, after: After = 0, since: float = 0.0, limit: Most = 100
) -> Row:
    """What banks took back, oldest first."""
    rows = books.all(
        "SELECT d.rowid AS position, d.*, c.key FROM disputes d JOIN charges c ON c.id = d.charge"
        " WHERE d.rowid > ? AND d.created >= ? ORDER BY d.rowid LIMIT ?",
        after,
        since,
        limit,
    )
    return {"data": rows, "next": rows[-1]["position"] if len(rows) == limit else None}


@router.get("/disputes/{dispute_id}")
async def get_dispute(dispute_id: str, books: InBooks) -> Row:
    row = books.one(
        "SELECT d.*, c.key FROM disputes d JOIN charges c ON c.id = d.charge WHERE d.id = ?",
        dispute_id,
    )
    if row is None:
        raise Refusal(404, "no_such_dispute", "There is no such dispute.")
    return row


@router.post("/disputes/{dispute_id}/close")
async def close_dispute(dispute_id: str, body: CloseBody, books: InBooks) -> Row:
    with books.transaction():
        row = await get_dispute(dispute_id, books)
        if row["status"] != "open":
            raise Refusal(409, "dispute_closed", "This dispute is closed already.")
        row["status"] = "won" if body.won else "lost"
        books.run("UPDATE disputes SET status = ? WHERE id = ?", row["status"], dispute_id)
        books.announce(f"dispute.{row['status']}", row)
    return row


#: What is held for the operator, by currency: what came in, and what left again.
BALANCE = """
SELECT currency, sum(amount) AS amount FROM (
    SELECT currency, captured - fee AS amount FROM charges
    UNION ALL SELECT currency, -amount FROM refunds
     WHERE id NOT IN (SELECT id FROM marks WHERE mark = 'failed')
    UNION ALL SELECT currency, -amount - fee FROM disputes WHERE status <> 'won'
    UNION ALL SELECT currency, -fee FROM disputes WHERE status = 'won'
    UNION ALL SELECT currency, -amount FROM payouts
     WHERE id NOT IN (SELECT id FROM marks WHERE mark = 'failed')) GROUP BY currency
"""


def balance(books: Books) -> dict[str, int]:
    """What the sandbox holds for the operator, by currency."""
    return {row["currency"]: row["amount"] for row in books.all(BALANCE)}


@router.get("/balance")
async def get_balance(books: InBooks) -> dict[str, int]:
    return balance(books)


@router.post("/payouts", status_code=201)
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
            books.announce("payout.paid", payout_view(books, row))
            made.append(payout_view(books, row))
    return {"data": made}


@router.get("/payouts")
async def list_payouts(
    books: InBooks, after: After = 0, since: float = 0.0, limit: Most = 100
) -> Row:
    """What was sent to the operator's bank, oldest first."""
    rows = books.all(
        "SELECT rowid AS position, * FROM payouts"
        " WHERE rowid > ? AND created >= ? ORDER BY rowid LIMIT ?",
        after,
        since,
        limit,
    )
    return {
        "data": [payout_view(books, row) for row in rows],
        "next": rows[-1]["position"] if len(rows) == limit else None,
    }


def payout_view(books: Books, row: Row) -> Row:
    return {**row, "status": "failed" if books.has_mark(row["id"], "failed") else "paid"}


@router.get("/payouts/{payout_id}")
async def get_payout(payout_id: str, books: InBooks) -> Row:
    row = books.one("SELECT * FROM payouts WHERE id = ?", payout_id)
    if row is None:
        raise Refusal(404, "no_such_payout", "There is no such payout.")
    return payout_view(books, row)


@router.post("/payouts/{payout_id}/fail")
async def fail_payout(payout_id: str, books: InBooks) -> Row:
    """The operator's bank sends it back."""
    with books.transaction():
        view = await get_payout(payout_id, books)
        if view["status"] == "failed":
            raise Refusal(409, "payout_failed", "This payout has failed already.")
        books.mark(payout_id, "failed")
        view["status"] = "failed"
        books.announce("payout.failed", view)
    return view
