"""What must hold of an account's books, whoever made them: asked of the database alone.

B1: of a line never goes back more than was billed for it, and of an invoice in money or credit
never more than was paid of it. B2: what was taken back of a charge has gone back. B3: what the
system gives back by itself is what was not used. And the books add up: each balance is the sum of
what led to it.
"""

from collections import defaultdict
from collections.abc import Mapping
from datetime import datetime
from fractions import Fraction
from uuid import UUID

import asyncpg

from tests.billing.model import Charge

INVOICES = """
SELECT i.*, coalesce((SELECT sum(r.applied) FROM invoicing.received_payments r
                       WHERE r.invoice_id = i.id), 0)::bigint AS received
  FROM invoicing.invoices i WHERE i.account_id = $1 AND i.status <> 'draft'
"""
LINES = """
SELECT l.*, i.status, i.number, i.amount_brought,
       i.amount_unnoted + i.amount_disputed + i.amount_withheld > 0 AS unsettled
  FROM invoicing.invoice_lines l
  JOIN invoicing.invoices i ON i.id = l.invoice_id
 WHERE i.account_id = $1 AND i.status <> 'draft'
"""
NOTED = """
SELECT n.*, c.invoice_id FROM invoicing.credit_note_lines n
  JOIN invoicing.credit_notes c ON c.id = n.credit_note_id WHERE c.account_id = $1
"""
NOTES = "SELECT * FROM invoicing.credit_notes WHERE account_id = $1"
ENTRIES = "SELECT * FROM invoicing.account_credit_entries WHERE account_id = $1"


async def broken_rules(
    connection: asyncpg.Connection, account_id: UUID, charges: Mapping[UUID, Charge]
) -> list[str]:
    """Each rule that the account's books break, in words. `charges` are the model's, by id."""
    invoices = {row["id"]: row for row in await connection.fetch(INVOICES, account_id)}
    lines = await connection.fetch(LINES, account_id)
    noted = await connection.fetch(NOTED, account_id)
    notes = await connection.fetch(NOTES, account_id)
    entries = await connection.fetch(ENTRIES, account_id)
    return [
        *_of_lines(lines, noted, charges),
        *_of_invoices(invoices, notes),
        *_of_credit(invoices, notes, entries),
    ]


def _of_lines(
    lines: list[asyncpg.Record], noted: list[asyncpg.Record], charges: Mapping[UUID, Charge]
) -> list[str]:
    by_all: dict[UUID, int] = defaultdict(int)
    by_system: dict[UUID, int] = defaultdict(int)
    for row in noted:
        by_all[row["invoice_line_id"]] += row["net"]
        if row["starts_at"] is not None:
            by_system[row["invoice_line_id"]] += row["net"]
    beside = {line["id"]: line["invoice_id"] for line in lines}
    for row in lines:
        # Of a change that lapsed the lines stand where they stood, and take nothing back.
        counts = row["amount_brought"] > 0 or beside.get(row["takes_back"]) == row["invoice_id"]
        if row["takes_back"] is not None and row["status"] != "void" and counts:
            by_all[row["takes_back"]] -= row["net"]
            by_system[row["takes_back"]] -= row["net"]
    found = []
    for line in lines:
        about = f"line {line['position']} of {line['number']} ({line['net']})"
        if line["net"] > 0 and by_all[line["id"]] > line["net"]:
            found.append(f"B1: {by_all[line['id']]} went back of {about}")
        charge = charges.get(line["charge_id"])
        if charge is not None and charge.kind in {"ahead", "rest"}:
            unused = _share(charge, charge.covers_until) * line["net"]
            owed_back = _share(charge, charge.taken_back or charge.ends) * line["net"]
            if (
                by_all[line["id"]] < int(owed_back) - 2
                and line["status"] in {"open", "paid"}
                and not line["unsettled"]
            ):
                found.append(
                    f"B2: only {by_all[line['id']]} went back of {about}, {charge}, and taken back"
                    f" was {float(owed_back):.1f}"
                )
            # Of an inclusive price the gross is shared and the net rounded on its own, twice.
            if by_system[line["id"]] > unused + (2 if line["tax_behavior"] == "inclusive" else 1):
                found.append(
                    f"B3: {by_system[line['id']]} was given back of {about}, {charge}, and unused"
                    f" is {float(unused):.1f}"
                )
    return found


def _share(charge: Charge, since: datetime) -> Fraction:
    whole = (charge.ends - charge.starts).total_seconds()
    return Fraction(int((charge.ends - since).total_seconds()), int(whole))


def _of_invoices(invoices: Mapping[UUID, asyncpg.Record], notes: list[asyncpg.Record]) -> list[str]:
    found = []
    for row in invoices.values():
        about = row["number"]
        settled = row["credit_applied"] + row["amount_paid"] + row["amount_brought"]
        given = row["amount_credited"] - row["amount_reduced"] + row["amount_moved"]
        if row["status"] != "void" and given > settled:
            found.append(f"B1: {given} was given back of {about}, and {settled} was paid")
        if row["amount_credited"] + row["amount_moved"] > row["total"] + row["amount_brought"]:
            found.append(f"B1: more went back of {about} than was billed")
        if row["received"] != row["amount_paid"]:
            found.append(f"{about} says that {row['amount_paid']} was paid, not {row['received']}")
        mine = [note for note in notes if note["invoice_id"] == row["id"]]
        if sum(note["total"] for note in mine) != row["amount_credited"]:
            found.append(f"{about} says other than its credit notes")
        if sum(note["reduction"] for note in mine) != row["amount_reduced"]:
            found.append(f"{about} is reduced by other than its credit notes say")
    return found


def _of_credit(
    invoices: Mapping[UUID, asyncpg.Record],
    notes: list[asyncpg.Record],
    entries: list[asyncpg.Record],
) -> list[str]:
    by_kind: dict[str, int] = defaultdict(int)
    for entry in entries:
        by_kind[entry["kind"]] += entry["amount"]
    found = []
    if by_kind["credit_note"] != sum(note["credit"] for note in notes):
        found.append("account credit got other than the credit notes gave")
    applied = sum(row["credit_applied"] for row in invoices.values())
    if by_kind["applied"] != -applied:
        found.append("account credit paid other than the invoices say")
    if by_kind["carried_over"]:
        found.append("a total below zero was carried over")
    voided = [row for row in invoices.values() if row["status"] == "void"]
    if by_kind["returned"] > sum(row["credit_applied"] + row["amount_paid"] for row in voided):
        found.append("B1: void invoices gave back more than was paid of them")
    return found
