"""Invoicing's schema, and how its aggregates map to it. Alembic's target."""

from typing import Any, cast

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Date,
    DateTime,
    ForeignKey,
    Index,
    Integer,
    Numeric,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    func,
    literal_column,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB, ExcludeConstraint
from sqlalchemy.orm import registry, relationship, selectinload

from services.invoicing.domain.account import Account, AccountCredit, CreditEntry, CreditKind
from services.invoicing.domain.attachment import Attachment, AttachmentState
from services.invoicing.domain.credit_note import CreditNote, CreditNoteLine, Settle
from services.invoicing.domain.document import Document, DocumentState, Subject
from services.invoicing.domain.exchange import ExchangeRate
from services.invoicing.domain.invoice import REASONS, Invoice, InvoiceLine, Status
from services.invoicing.domain.legal_entity import LegalEntity
from services.invoicing.domain.numbering import NumberSeries
from services.invoicing.domain.payment import Means, ReceivedPayment
from services.invoicing.domain.pending import PendingCharges
from services.invoicing.domain.tax import TaxRate
from services.invoicing.domain.upcoming import Upcoming
from shared.db import service_metadata, stored

metadata = service_metadata("invoicing")
mapper = registry(metadata=metadata)

INSTANT = DateTime(timezone=True)
PERCENT = Numeric(7, 4)
CURRENCY = "~ '^[A-Z]{3}$'"


def of_invoice() -> ForeignKey:
    """Checked at the commit: an invoice is written last, when it has its number."""
    return ForeignKey("invoices.id", deferrable=True, initially="DEFERRED")


accounts = Table(
    "accounts",
    metadata,
    Column("account_id", Uuid, primary_key=True),
    Column("country", Text, nullable=False),
    Column("time_zone", Text, nullable=False),
    Column("sequence", Integer, nullable=False),
    Column("legal_entity_id", Uuid, ForeignKey("legal_entities.id")),
    Column("name", Text),
    Column("address", JSONB, nullable=False),
    Column("email", Text),
    Column("vat_id", Text),
    Column("language", Text, nullable=False),
    Column("purchase_order", Text),
    Column("exemption_reason", Text),
    Column("version", Integer, nullable=False),
)

legal_entities = Table(
    "legal_entities",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("name", Text, nullable=False),
    Column("country", Text, nullable=False),
    Column("vat_id", Text),
    Column("tax_number", Text),
    Column("address", JSONB, nullable=False),
    Column("email", Text),
    Column("iban", Text),
    Column("bic", Text),
    Column("accounting_currency", Text, nullable=False),
    Column("small_business", Boolean, nullable=False),
    Column("payment_terms_days", Integer, nullable=False),
    Column("draft_hours", Integer, nullable=False),
    Column("reminder_days", JSONB, nullable=False),
    Column("is_default", Boolean, nullable=False),
    Column("branding", JSONB, nullable=False),
    Column("created_at", INSTANT, nullable=False),
    Column("version", Integer, nullable=False),
    CheckConstraint("country ~ '^[A-Z]{2}$'", name="country"),
    CheckConstraint(f"accounting_currency {CURRENCY}", name="accounting_currency"),
    CheckConstraint("payment_terms_days BETWEEN 0 AND 365", name="payment_terms_days"),
    CheckConstraint("draft_hours BETWEEN 0 AND 240", name="draft_hours"),
    # One entity bills those accounts that name none.
    Index(
        "uq_legal_entities_default", "is_default", unique=True, postgresql_where=text("is_default")
    ),
)

number_series = Table(
    "number_series",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("legal_entity_id", Uuid, ForeignKey("legal_entities.id"), nullable=False),
    Column("series", Text, nullable=False),
    Column("pattern", Text, nullable=False),
    Column("last", BigInteger, nullable=False),
    UniqueConstraint("legal_entity_id", "series"),
    CheckConstraint("last >= 0", name="last"),
)

tax_rates = Table(
    "tax_rates",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("country", Text, nullable=False),
    Column("category", Text, nullable=False),
    Column("rate", PERCENT, nullable=False),
    Column("valid_from", Date, nullable=False),
    Column("valid_to", Date),
    Column("source", Text, nullable=False),
    CheckConstraint("country ~ '^[A-Z]{2}$'", name="country"),
    CheckConstraint("rate >= 0 AND rate < 100", name="rate"),
    CheckConstraint("valid_to > valid_from", name="validity"),
    # A country and category has one rate on any day.
    ExcludeConstraint(
        ("country", "="),
        ("category", "="),
        (func.daterange(literal_column("valid_from"), literal_column("valid_to")), "&&"),
        name="ex_tax_rates_validity",
    ),
)

exchange_rates = Table(
    "exchange_rates",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("base", Text, nullable=False),
    Column("quote", Text, nullable=False),
    Column("rate", Numeric(24, 12), nullable=False),
    Column("on", Date, nullable=False),
    Column("source", Text, nullable=False),
    # Also how the latest rate on or before a day is found.
    UniqueConstraint("base", "quote", "on"),
    CheckConstraint("rate > 0", name="rate"),
    CheckConstraint("base <> quote", name="currencies"),
)

invoices = Table(
    "invoices",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("account_id", Uuid, nullable=False),
    Column("legal_entity_id", Uuid, ForeignKey("legal_entities.id"), nullable=False),
    Column("subscription_id", Uuid),
    Column("billing_reason", Text, nullable=False),
    Column("billing_key", Text),
    Column("currency", Text, nullable=False),
    Column("series", Text, nullable=False),
    Column("status", stored(Status), nullable=False),
    Column("number", Text),
    Column("subtotal", BigInteger, nullable=False),
    Column("discount", BigInteger, nullable=False),
    Column("net", BigInteger, nullable=False),
    Column("tax", BigInteger, nullable=False),
    Column("taxes", JSONB, nullable=False),
    Column("total", BigInteger, nullable=False),
    Column("credit_applied", BigInteger, nullable=False),
    Column("amount_paid", BigInteger, nullable=False),
    Column("amount_credited", BigInteger, nullable=False),
    Column("amount_refunded", BigInteger, nullable=False),
    Column("bill_to", JSONB, nullable=False),
    Column("seller", JSONB, nullable=False),
    Column("memo", Text),
    Column("basis", JSONB, nullable=False),
    Column("payment_terms_days", Integer),
    Column("supplied_at", INSTANT, nullable=False),
    Column("finalizes_at", INSTANT),
    Column("reminds_at", INSTANT),
    Column("issued_at", INSTANT),
    Column("due_at", INSTANT),
    Column("paid_at", INSTANT),
    Column("closed_at", INSTANT),
    Column("collect_automatically", Boolean, nullable=False),
    Column("payment_method_id", Uuid),
    Column("dunning", JSONB, nullable=False),
    Column("accounting_currency", Text),
    Column("exchange_rate", Numeric(24, 12)),
    Column("exchange_rate_on", Date),
    Column("accounting_total", BigInteger),
    Column("accounting_tax", BigInteger),
    Column("search_text", Text, nullable=False),
    Column("created_at", INSTANT, nullable=False),
    Column("version", Integer, nullable=False),
    UniqueConstraint("legal_entity_id", "number"),
    # A period is billed once.
    UniqueConstraint("billing_key"),
    CheckConstraint(f"currency {CURRENCY}", name="currency"),
    CheckConstraint(
        "billing_reason IN ({})".format(", ".join(f"'{reason}'" for reason in REASONS)),
        name="billing_reason",
    ),
    CheckConstraint("subtotal - discount = net AND net + tax = total", name="sums"),
    CheckConstraint("total >= 0", name="total"),
    CheckConstraint("reminds_at IS NULL OR status = 'open'", name="reminds_at"),
    CheckConstraint("credit_applied BETWEEN 0 AND total", name="credit_applied"),
    CheckConstraint("amount_paid BETWEEN 0 AND total - credit_applied", name="amount_paid"),
    # Never more is taken back than was paid, and no more refunded than came as money.
    CheckConstraint(
        "amount_credited BETWEEN 0 AND credit_applied + amount_paid", name="amount_credited"
    ),
    CheckConstraint(
        "amount_refunded BETWEEN 0 AND least(amount_credited, amount_paid)",
        name="amount_refunded",
    ),
    CheckConstraint("payment_terms_days BETWEEN 0 AND 365", name="payment_terms_days"),
    CheckConstraint(
        "(status = 'draft') = (number IS NULL)"
        " AND (status = 'draft') = (issued_at IS NULL)"
        " AND (status = 'draft') = (due_at IS NULL)",
        name="finalized",
    ),
    CheckConstraint(
        "(status = 'paid') = (paid_at IS NOT NULL)"
        " AND (status <> 'paid' OR amount_paid = total - credit_applied)",
        name="paid",
    ),
    # An account's list, newest first; staff's list is the primary key.
    Index("ix_invoices_account_id_id", "account_id", "id"),
    Index("ix_invoices_subscription_id_id", "subscription_id", "id"),
    # Drafts whose grace is over.
    Index(
        "ix_invoices_finalizes_at",
        "finalizes_at",
        postgresql_where=text("finalizes_at IS NOT NULL"),
    ),
    # Exports: what was issued in a period, in order.
    Index(
        "ix_invoices_issued_at_id",
        "issued_at",
        "id",
        postgresql_where=text("issued_at IS NOT NULL"),
    ),
    # The search, typos included.
    Index(
        "ix_invoices_search_text",
        "search_text",
        postgresql_using="gin",
        postgresql_ops={"search_text": "gin_trgm_ops"},
    ),
    # Reminders that are due.
    Index(
        "ix_invoices_reminds_at",
        "reminds_at",
        postgresql_where=text("reminds_at IS NOT NULL"),
    ),
)

invoice_lines = Table(
    "invoice_lines",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("invoice_id", Uuid, ForeignKey("invoices.id"), nullable=False),
    Column("position", Integer, nullable=False),
    Column("subscription_id", Uuid),
    Column("price_id", Uuid),
    Column("kind", Text, nullable=False),
    Column("description", Text, nullable=False),
    Column("quantity", Numeric, nullable=False),
    Column("unit_amount", Numeric, nullable=False),
    Column("amount", BigInteger, nullable=False),
    Column("discount", BigInteger, nullable=False),
    Column("subtotal", BigInteger, nullable=False),
    Column("net", BigInteger, nullable=False),
    Column("period_start", INSTANT, nullable=False),
    Column("period_end", INSTANT, nullable=False),
    Column("tax_behavior", Text, nullable=False),
    Column("tax_category", Text, nullable=False),
    Column("tax_code", Text, nullable=False),
    Column("tax_rate", PERCENT, nullable=False),
    Column("why", JSONB, nullable=False),
    # Also how an invoice's lines are read, in order.
    UniqueConstraint("invoice_id", "position"),
    CheckConstraint("position >= 1", name="position"),
    CheckConstraint("tax_behavior IN ('exclusive', 'inclusive')", name="tax_behavior"),
    CheckConstraint("tax_code IN ('S', 'Z', 'E', 'AE', 'G')", name="tax_code"),
    CheckConstraint("(tax_code = 'S') = (tax_rate > 0)", name="tax_rate"),
    CheckConstraint("period_end >= period_start", name="period"),
)

pending_charges = Table(
    "pending_charges",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("account_id", Uuid, nullable=False),
    Column("subscription_id", Uuid, nullable=False),
    Column("currency", Text, nullable=False),
    Column("charges", JSONB, nullable=False),
    Column("discounts", JSONB, nullable=False),
    Column("created_at", INSTANT, nullable=False),
    Column("invoice_id", Uuid, of_invoice()),
    # What a subscription's next invoice takes in.
    Index(
        "ix_pending_charges_waiting",
        "subscription_id",
        postgresql_where=text("invoice_id IS NULL"),
    ),
)

received_payments = Table(
    "received_payments",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("account_id", Uuid, nullable=False),
    Column("invoice_id", Uuid, of_invoice(), nullable=False),
    Column("means", stored(Means), nullable=False),
    Column("amount", BigInteger, nullable=False),
    Column("applied", BigInteger, nullable=False),
    Column("received_at", INSTANT, nullable=False),
    Column("reference", Text),
    CheckConstraint("amount > 0 AND applied BETWEEN 0 AND amount", name="amount"),
    Index("ix_received_payments_invoice_id", "invoice_id"),
)

account_credits = Table(
    "account_credits",
    metadata,
    Column("account_id", Uuid, primary_key=True),
    Column("currency", Text, primary_key=True),
    Column("balance", BigInteger, nullable=False),
    CheckConstraint("balance >= 0", name="balance"),
)

account_credit_entries = Table(
    "account_credit_entries",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("account_id", Uuid, nullable=False),
    Column("currency", Text, nullable=False),
    Column("kind", stored(CreditKind), nullable=False),
    Column("amount", BigInteger, nullable=False),
    Column("balance_after", BigInteger, nullable=False),
    Column("invoice_id", Uuid, of_invoice()),
    Column("at", INSTANT, nullable=False),
    Column("note", Text),
    CheckConstraint("balance_after >= 0 AND amount <> 0", name="balance_after"),
    # An account's history, newest first.
    Index("ix_account_credit_entries_account_id_id", "account_id", "id"),
)

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
    Column("bill_to", JSONB, nullable=False),
    Column("seller", JSONB, nullable=False),
    Column("issued_at", INSTANT, nullable=False),
    Column("version", Integer, nullable=False),
    UniqueConstraint("legal_entity_id", "number"),
    CheckConstraint("net + tax = total AND total > 0", name="total"),
    CheckConstraint("refund >= 0 AND credit >= 0 AND refund + credit = total", name="settled"),
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
    UniqueConstraint("credit_note_id", "position"),
)

documents = Table(
    "documents",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("account_id", Uuid, nullable=False),
    Column("subject", stored(Subject), nullable=False),
    Column("state", stored(DocumentState), nullable=False),
    Column("created_at", INSTANT, nullable=False),
    Column("due_at", INSTANT, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("error", Text),
    Column("pdf_size", BigInteger),
    Column("pdf_sha256", Text),
    Column("xml_size", BigInteger),
    Column("xml_sha256", Text),
    CheckConstraint(
        "(state = 'ready') = (pdf_sha256 IS NOT NULL AND xml_sha256 IS NOT NULL)", name="ready"
    ),
    # What is still to be rendered.
    Index("ix_documents_pending", "due_at", postgresql_where=text("state = 'pending'")),
)

attachments = Table(
    "attachments",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("account_id", Uuid, nullable=False),
    Column("invoice_id", Uuid, of_invoice()),
    Column("filename", Text, nullable=False),
    Column("content_type", Text, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("sha256", Text, nullable=False),
    Column("state", stored(AttachmentState), nullable=False),
    Column("created_at", INSTANT, nullable=False),
    Column("completed_at", INSTANT),
    CheckConstraint("size > 0", name="size"),
    CheckConstraint("sha256 ~ '^[0-9a-f]{64}$'", name="sha256"),
    CheckConstraint("(state = 'complete') = (completed_at IS NOT NULL)", name="complete"),
    Index("ix_attachments_account_id_id", "account_id", "id"),
    # Declared and never uploaded: cleared away after a day.
    Index("ix_attachments_declared", "created_at", postgresql_where=text("state = 'declared'")),
)

upcoming = Table(
    "upcoming",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("account_id", Uuid, nullable=False),
    Column("currency", Text, nullable=False),
    Column("period_start", INSTANT, nullable=False),
    Column("period_end", INSTANT, nullable=False),
    Column("charges", JSONB, nullable=False),
    Column("discounts", JSONB, nullable=False),
    Column("ended", Boolean, nullable=False),
)

mapper.map_imperatively(Upcoming, upcoming)
mapper.map_imperatively(Document, documents)
mapper.map_imperatively(Attachment, attachments)
mapper.map_imperatively(Account, accounts)
mapper.map_imperatively(LegalEntity, legal_entities)
mapper.map_imperatively(NumberSeries, number_series)
mapper.map_imperatively(TaxRate, tax_rates)
mapper.map_imperatively(ExchangeRate, exchange_rates)
mapper.map_imperatively(InvoiceLine, invoice_lines)
mapper.map_imperatively(
    Invoice,
    invoices,
    properties={
        "lines": relationship(
            InvoiceLine,
            order_by=invoice_lines.c.position,
            cascade="all, delete-orphan",
            # Read when asked for by name; a lazy load would be a hidden query.
            lazy="raise",
        )
    },
)
mapper.map_imperatively(CreditNoteLine, credit_note_lines)
mapper.map_imperatively(
    CreditNote,
    credit_notes,
    properties={
        "lines": relationship(CreditNoteLine, order_by=credit_note_lines.c.position, lazy="raise")
    },
)
mapper.map_imperatively(PendingCharges, pending_charges)
mapper.map_imperatively(ReceivedPayment, received_payments)
mapper.map_imperatively(AccountCredit, account_credits)
mapper.map_imperatively(CreditEntry, account_credit_entries)

#: Lines are read where this is asked for, and never by themselves.
with_lines = selectinload(cast("Any", Invoice).lines)
with_credit_note_lines = selectinload(cast("Any", CreditNote).lines)
