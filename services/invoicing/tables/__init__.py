"""Invoicing's schema, and how its aggregates map to it. Alembic's target."""

from services.invoicing.tables.accounts import account_credit_entries, account_credits, accounts
from services.invoicing.tables.base import metadata
from services.invoicing.tables.credit_notes import (
    credit_note_lines,
    credit_notes,
    with_credit_note_lines,
)
from services.invoicing.tables.documents import attachments, documents
from services.invoicing.tables.invoices import (
    OVERRETURNED,
    gathered_periods,
    invoice_lines,
    invoices,
    pending_charges,
    received_payments,
    returned_payments,
    upcoming,
    with_lines,
)
from services.invoicing.tables.issuers import (
    exchange_rates,
    legal_entities,
    number_series,
    tax_rates,
)

__all__ = [
    "OVERRETURNED",
    "account_credit_entries",
    "account_credits",
    "accounts",
    "attachments",
    "credit_note_lines",
    "credit_notes",
    "documents",
    "exchange_rates",
    "gathered_periods",
    "invoice_lines",
    "invoices",
    "legal_entities",
    "metadata",
    "number_series",
    "pending_charges",
    "received_payments",
    "returned_payments",
    "tax_rates",
    "upcoming",
    "with_credit_note_lines",
    "with_lines",
]
