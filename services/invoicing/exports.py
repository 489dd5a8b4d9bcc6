"""Invoices and lines of a period as CSV or JSON lines, streamed, with totals that match."""

import csv
import io
from collections.abc import AsyncIterator, Iterator
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any

import orjson
from sqlalchemy import Select, select, text, tuple_

from services.invoicing.domain.invoice import Invoice, InvoiceLine
from services.invoicing.tables import invoices, with_lines
from shared.db import UnitOfWork
from shared.money import exponent

ROWS_AT_ONCE = 500
#: What a spreadsheet would take for a formula.
FORMULA = ("=", "+", "-", "@", "\t", "\r")


class Format(StrEnum):
    CSV = "csv"
    JSONL = "jsonl"


class Of(StrEnum):
    INVOICES = "invoices"
    LINES = "lines"


MEDIA_TYPES = {Format.CSV: "text/csv; charset=utf-8", Format.JSONL: "application/jsonl"}

Row = dict[str, Any]
#: The amounts of each kind of row; the last rows have their sums, one per currency.
AMOUNTS = {
    Of.INVOICES: (
        *("net", "tax", "total", "credit_applied", "amount_paid", "amount_credited"),
        # Of what was credited, what was not paid: total less credit, paid and this is owed.
        "amount_reduced",
    ),
    Of.LINES: ("net",),
}


async def export(
    uow: UnitOfWork, of: Of, form: Format, *, since: datetime, until: datetime
) -> AsyncIterator[bytes]:
    """What was issued from `since` up to `until`, as one moment saw it."""
    await uow.session.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY"))
    totals: dict[str, Row] = {}
    write = _csv if form is Format.CSV else _jsonl
    first = True
    async for chunk in _chunks(uow, since, until):
        rows = [row for invoice in chunk for row in _rows(invoice, of)]
        for row in rows:
            _add(totals, row, AMOUNTS[of])
        yield write(rows, of, head=first)
        first = False
    yield write([_decimal(row, AMOUNTS[of]) for _, row in sorted(totals.items())], of, head=first)


async def _chunks(
    uow: UnitOfWork, since: datetime, until: datetime
) -> AsyncIterator[list[Invoice]]:
    period: Select[Invoice] = (
        select(Invoice)
        .where(invoices.c.issued_at >= since, invoices.c.issued_at < until)
        .options(with_lines)
        .order_by(invoices.c.issued_at, invoices.c.id)
        .limit(ROWS_AT_ONCE)
    )
    statement = period
    while found := list(await uow.session.scalars(statement)):
        yield found
        last = found[-1]
        # A reader that holds all it has read would be no stream.
        uow.session.expunge_all()
        after = tuple_(invoices.c.issued_at, invoices.c.id) > (last.issued_at, last.id)
        statement = period.where(after)


def _rows(invoice: Invoice, of: Of) -> Iterator[Row]:
    shared: Row = {
        "number": invoice.number,
        "invoice_id": str(invoice.id),
        "account_id": str(invoice.account_id),
        "issued_at": invoice.issued_at.isoformat() if invoice.issued_at else None,
        "currency": invoice.currency,
    }
    if of is Of.INVOICES:
        yield {
            **shared,
            "status": invoice.status.value,
            "customer": invoice.bill_to.get("name"),
            "country": invoice.bill_to["address"].get("country"),
            "vat_id": invoice.bill_to.get("vat_id"),
            **{name: _money(invoice, name) for name in AMOUNTS[of]},
        }
        return
    for line in invoice.lines:
        yield {
            **shared,
            "position": line.position,
            "kind": line.kind,
            "description": line.description,
            "quantity": f"{line.quantity:f}",
            "period_start": line.period_start.isoformat(),
            "period_end": line.period_end.isoformat(),
            "tax_category": line.tax_code,
            "tax_rate": f"{line.tax_rate.normalize():f}",
            "net": _text(line, invoice.currency),
        }


def _money(invoice: Invoice, name: str) -> str:
    return _written(getattr(invoice, name), invoice.currency)


def _text(line: InvoiceLine, currency: str) -> str:
    return _written(line.net, currency)


def _written(minor: int, currency: str) -> str:
    digits = exponent(currency)
    return f"{Decimal(minor).scaleb(-digits):.{digits}f}"


def _add(totals: dict[str, Row], row: Row, amounts: tuple[str, ...]) -> None:
    empty: Row = {**dict.fromkeys(row), "number": "TOTAL", "currency": row["currency"]}
    total = totals.setdefault(row["currency"], {**empty, **dict.fromkeys(amounts, Decimal(0))})
    for name in amounts:
        total[name] += Decimal(row[name])


def _decimal(row: Row, amounts: tuple[str, ...]) -> Row:
    return {**row, **{name: f"{row[name]:f}" for name in amounts}}


def _csv(rows: list[Row], of: Of, *, head: bool) -> bytes:
    out = io.StringIO()
    names = list(rows[0]) if rows else ["number", "currency", *AMOUNTS[of]]
    writer = csv.DictWriter(out, names)
    if head:
        writer.writeheader()
    for row in rows:
        writer.writerow(
            {
                name: _harmless(value) if name in {"description", "customer"} else value
                for name, value in row.items()
            }
        )
    return out.getvalue().encode()


def _jsonl(rows: list[Row], of: Of, *, head: bool) -> bytes:
    del of, head
    return b"".join(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE) for row in rows)


def _harmless(value: str | None) -> str | None:
    return f"'{value}" if value and value.startswith(FORMULA) else value
