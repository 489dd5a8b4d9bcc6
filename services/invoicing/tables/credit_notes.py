"""What was taken back."""

from typing import Any, cast

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    ForeignKey,
    Index,
    Integer,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import relationship, selectinload

from services.invoicing.domain.credit_note import CreditNote, CreditNoteLine, Settle
from services.invoicing.tables.base import INSTANT, PERCENT, mapper, metadata
from shared.db import stored

credit_notes = Table(
    "credit_notes",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("account_id", Uuid, nullable=False),
    Column("invoice_id", Uuid, ForeignKey("invoices.id"), nullable=False),
    Column("subscription_id", Uuid),
    Column("legal_entity_id", Uuid, ForeignKey("legal_entities.id"), nullable=False),
    Column("number", Text, nullable=False),
    Column("invoice_number", Text, nullable=False),
    Column("currency", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("settle", stored(Settle), nullable=False),
    Column("net", BigInteger, nullable=False),
    Column("tax", BigInteger, nullable=False),
    Column("taxes", JSONB, nullable=False),
    Column("total", BigInteger, nullable=False),
    Column("refund", BigInteger, nullable=False),
    Column("credit", BigInteger, nullable=False),
    Column("returned_before", BigInteger, nullable=False, server_default=text("0")),
    Column("reduction", BigInteger, nullable=False, server_default=text("0")),
    Column("bill_to", JSONB, nullable=False),
    Column("seller", JSONB, nullable=False),
    Column("issued_at", INSTANT, nullable=False),
    Column("version", Integer, nullable=False),
    UniqueConstraint("legal_entity_id", "number"),
    CheckConstraint("net + tax = total AND total > 0", name="total"),
    CheckConstraint(
        "refund >= 0 AND credit >= 0 AND returned_before >= 0 AND reduction >= 0"
        " AND refund + credit + returned_before + reduction = total",
        name="settled",
    ),
    # An account's list, and what earlier notes took back of an invoice.
    Index("ix_credit_notes_account_id_id", "account_id", "id"),
    Index("ix_credit_notes_invoice_id", "invoice_id"),
)

credit_note_lines = Table(
    "credit_note_lines",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("credit_note_id", Uuid, ForeignKey("credit_notes.id"), nullable=False),
    Column("invoice_line_id", Uuid, ForeignKey("invoice_lines.id"), nullable=False),
    Column("position", Integer, nullable=False),
    Column("description", Text, nullable=False),
    Column("net", BigInteger, nullable=False),
    Column("tax_code", Text, nullable=False),
    Column("tax_rate", PERCENT, nullable=False),
    Column("starts_at", INSTANT),
    Column("why", JSONB(none_as_null=True)),
    UniqueConstraint("credit_note_id", "position"),
)

mapper.map_imperatively(
    CreditNote,
    credit_notes,
    properties={
        "lines": relationship(CreditNoteLine, order_by=credit_note_lines.c.position, lazy="raise")
    },
)
mapper.map_imperatively(CreditNoteLine, credit_note_lines)

with_credit_note_lines = selectinload(cast("Any", CreditNote).lines)
