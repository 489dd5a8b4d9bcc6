"""What a document says, as plain values: the one source of its PDF and its XML."""

from datetime import datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from services.invoicing.domain.credit_note import CreditNote
from services.invoicing.domain.invoice import Invoice, InvoiceLine, zone_of

#: Neither XML nor a page can hold them; and those by which a name could turn around what follows.
CONTROLS: dict[int, str | None] = dict.fromkeys(
    (
        *range(0x20),
        *range(0x7F, 0xA0),
        *range(0x202A, 0x202F),
        *range(0x2066, 0x206A),
        0xFFFE,
        0xFFFF,
    )
)
CONTROLS |= {0x09: " ", 0x0A: " ", 0x0D: " "}


def _printable(value: Any) -> Any:
    if isinstance(value, str):
        return value.translate(CONTROLS)
    if isinstance(value, list):
        return [_printable(inner) for inner in value]
    if isinstance(value, dict):
        return {name: _printable(inner) for name, inner in value.items()}
    return value


def _text(value: object) -> str:
    return format(value, "f")


def paper_of_invoice(invoice: Invoice) -> dict[str, Any]:
    """A finalized invoice as it was issued; what happened to it since is not on it."""
    ours, theirs = zone_of(invoice.seller), zone_of(invoice.bill_to)
    paper: dict[str, Any] = {
        "kind": "invoice",
        "number": invoice.number,
        "issued_at": _iso(invoice.issued_at, ours),
        "due_at": _iso(invoice.due_at, ours),
        "supplied_at": _iso(invoice.supplied_at, theirs),
        "currency": invoice.currency,
        "seller": invoice.seller,
        "bill_to": invoice.bill_to,
        "memo": invoice.memo,
        "collect_automatically": invoice.collect_automatically,
        "lines": [
            {
                "description": line.description,
                "quantity": _text(line.quantity),
                "unit": line.unit,
                "unit_amount": _text(line.unit_amount),
                "parts": line.parts or [],
                "amount": line.amount,
                "subtotal": line.subtotal,
                "net": line.net,
                "period_start": _iso(line.period_start, theirs),
                "period_end": _iso(_last_moment(line), theirs),
                "tax_behavior": line.tax_behavior,
                "tax_code": line.tax_code,
                "tax_rate": _text(line.tax_rate.normalize()),
                "why": line.why,
            }
            for line in invoice.lines
        ],
        "subtotal": invoice.subtotal,
        "discount": invoice.discount,
        "net": invoice.net,
        "tax": invoice.tax,
        "taxes": invoice.taxes,
        "total": invoice.total,
        "credit_applied": invoice.credit_applied,
        "amount_due": invoice.amount_due,
        "accounting": _accounting(invoice),
    }
    printable: dict[str, Any] = _printable(paper)
    return printable


def paper_of_credit_note(note: CreditNote, invoice: Invoice) -> dict[str, Any]:
    """A credit note, with the invoice that it takes from."""
    periods = {line.id: line for line in invoice.lines}
    ours, theirs = zone_of(note.seller), zone_of(note.bill_to)
    paper: dict[str, Any] = {
        "kind": "credit_note",
        "number": note.number,
        "issued_at": _iso(note.issued_at, ours),
        "due_at": None,
        "supplied_at": _iso(invoice.supplied_at, theirs),
        "currency": note.currency,
        "seller": note.seller,
        "bill_to": note.bill_to,
        "memo": note.reason,
        "collect_automatically": False,
        "invoice_number": note.invoice_number,
        "invoice_issued_at": _iso(invoice.issued_at, ours),
        "lines": [
            {
                "description": line.description,
                "quantity": "1",
                "unit": None,
                "unit_amount": str(line.net),
                "parts": [],
                "amount": line.net,
                "subtotal": line.net,
                "net": line.net,
                "period_start": _iso(
                    line.starts_at or periods[line.invoice_line_id].period_start, theirs
                ),
                "period_end": _iso(_last_moment(periods[line.invoice_line_id]), theirs),
                "tax_behavior": "exclusive",
                "tax_code": line.tax_code,
                "tax_rate": _text(line.tax_rate.normalize()),
                "why": line.why or {},
            }
            for line in note.lines
        ],
        "subtotal": note.net,
        "discount": 0,
        "net": note.net,
        "tax": note.tax,
        "taxes": note.taxes,
        "total": note.total,
        "credit_applied": 0,
        "amount_due": note.total,
        "accounting": None,
    }
    printable: dict[str, Any] = _printable(paper)
    return printable


def _accounting(invoice: Invoice) -> dict[str, Any] | None:
    if invoice.exchange_rate is None or invoice.exchange_rate_on is None:
        return None
    return {
        "currency": invoice.accounting_currency,
        "rate": _text(invoice.exchange_rate.normalize()),
        "on": invoice.exchange_rate_on.isoformat(),
        "total": invoice.accounting_total,
        "tax": invoice.accounting_tax,
    }


def _last_moment(line: InvoiceLine) -> datetime:
    """Periods end before their end: one that ends at midnight has no part of the next day."""
    return max(line.period_end - timedelta(seconds=1), line.period_start)


def _iso(moment: datetime | None, zone: ZoneInfo) -> str | None:
    """By the clock of that zone, so that the day it begins with is the one to be printed."""
    return moment.astimezone(zone).isoformat() if moment is not None else None
