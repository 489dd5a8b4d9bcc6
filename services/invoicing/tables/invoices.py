"""Invoices with their lines, what waits for one, and the money that came."""

from typing import Any, cast

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Date,
    ForeignKey,
    Index,
    Integer,
    Numeric,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.orm import relationship, selectinload

from services.invoicing.domain.invoice import REASONS, Invoice, InvoiceLine, Status
from services.invoicing.domain.payment import (
    Means,
    ReceivedPayment,
    ReturnedPayment,
    ReturnKind,
    ReturnState,
)
from services.invoicing.domain.pending import PendingCharges
from services.invoicing.tables.base import CURRENCY, INSTANT, PERCENT, mapper, metadata, of_invoice
from shared.db import stored

#: More was given back than was paid, or counted as given back than was; nobody has seen to it.
OVERRETURNED = (
    "returns_attended_at IS NULL"
    " AND (amount_credited - amount_reduced + amount_moved - amount_covered + amount_unnoted"
    " > credit_applied + amount_paid + amount_brought"
    " OR amount_covered > amount_unnoted)"
)

invoices = Table(
    "invoices",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("account_id", Uuid, nullable=False),
    Column("legal_entity_id", Uuid, ForeignKey("legal_entities.id"), nullable=False),
    Column("subscription_id", Uuid),
    Column("subscription_ids", ARRAY(Uuid), nullable=False, server_default=text("'{}'")),
    Column("gathering_key", Text),
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
    Column("amount_brought", BigInteger, nullable=False, server_default=text("0")),
    Column("amount_credited", BigInteger, nullable=False),
    Column("amount_reduced", BigInteger, nullable=False, server_default=text("0")),
    Column("amount_moved", BigInteger, nullable=False, server_default=text("0")),
    Column("amount_withheld", BigInteger, nullable=False, server_default=text("0")),
    Column("withheld", JSONB, nullable=False, server_default=text("'[]'")),
    Column("amount_refunded", BigInteger, nullable=False),
    Column("amount_returned", BigInteger, nullable=False, server_default=text("0")),
    Column("amount_disputed", BigInteger, nullable=False, server_default=text("0")),
    Column("amount_unnoted", BigInteger, nullable=False, server_default=text("0")),
    Column("amount_covered", BigInteger, nullable=False, server_default=text("0")),
    Column("returns_attended_at", INSTANT),
    Column("bill_to", JSONB, nullable=False),
    Column("seller", JSONB, nullable=False),
    Column("memo", Text),
    Column("reissued_as", Uuid),
    Column("basis", JSONB, nullable=False),
    Column("payment_terms_days", Integer),
    Column("supplied_at", INSTANT, nullable=False),
    Column("finalizes_at", INSTANT),
    Column("parked_reason", Text),
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
    CheckConstraint("subscription_id IS NULL OR subscription_ids = '{}'", name="subscription_ids"),
    CheckConstraint("subtotal - discount = net AND net + tax = total", name="sums"),
    CheckConstraint("total >= 0", name="total"),
    CheckConstraint("reminds_at IS NULL OR status = 'open'", name="reminds_at"),
    CheckConstraint("parked_reason IS NULL OR status = 'draft'", name="parked_reason"),
    CheckConstraint("credit_applied BETWEEN 0 AND total", name="credit_applied"),
    CheckConstraint(
        "amount_paid BETWEEN 0 AND total - credit_applied - amount_reduced", name="amount_paid"
    ),
    # Never more is taken back than was owed or paid, and no more refunded than came as money.
    CheckConstraint(
        "amount_credited >= 0 AND amount_moved >= 0 AND amount_credited + amount_moved"
        " <= credit_applied + amount_paid + amount_reduced + amount_brought",
        name="amount_credited",
    ),
    CheckConstraint(
        "amount_reduced BETWEEN 0 AND amount_credited"
        " AND amount_brought >= 0 AND amount_withheld >= 0",
        name="taken_back",
    ),
    CheckConstraint(
        "amount_refunded BETWEEN 0 AND least(amount_credited, amount_paid)",
        name="amount_refunded",
    ),
    CheckConstraint(
        "amount_returned >= 0 AND amount_disputed >= 0 AND amount_unnoted >= 0"
        " AND amount_covered BETWEEN 0 AND amount_credited",
        name="returns",
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
        " AND (status <> 'paid' OR amount_paid = total - credit_applied - amount_reduced)",
        name="paid",
    ),
    # An account's list, newest first; staff's list is the primary key.
    Index("ix_invoices_account_id_id", "account_id", "id"),
    Index("ix_invoices_subscription_id_id", "subscription_id", "id"),
    # Drafts that could not be finalized: a person has to look.
    Index("ix_invoices_parked", "id", postgresql_where=text("parked_reason IS NOT NULL")),
    # Those of which more was given back than was paid: a person has to look.
    Index(
        "ix_invoices_returns_unattended",
        "id",
        postgresql_where=text(OVERRETURNED),
    ),
    # The consolidated invoices of a subscription.
    Index(
        "ix_invoices_subscription_ids",
        "subscription_ids",
        postgresql_using="gin",
        postgresql_where=text("subscription_ids <> '{}'"),
    ),
    # One draft gathers what belongs together.
    Index(
        "uq_invoices_gathering_key",
        "gathering_key",
        unique=True,
        postgresql_where=text("status = 'draft'"),
    ),
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
    Column("charge_id", Uuid),
    Column("takes_back", Uuid),
    Column("takes_back_tax", BigInteger),
    Column("unit", Text),
    Column("parts", JSONB(none_as_null=True)),
    # Also how an invoice's lines are read, in order.
    UniqueConstraint("invoice_id", "position"),
    CheckConstraint("position >= 1", name="position"),
    CheckConstraint("tax_behavior IN ('exclusive', 'inclusive')", name="tax_behavior"),
    CheckConstraint("tax_code IN ('S', 'Z', 'E', 'AE', 'G')", name="tax_code"),
    CheckConstraint("(tax_code = 'S') = (tax_rate > 0)", name="tax_rate"),
    CheckConstraint("period_end >= period_start", name="period"),
    CheckConstraint("takes_back IS NULL OR net <= 0", name="takes_back"),
    # What later invoices took back of a line.
    Index(
        "ix_invoice_lines_takes_back",
        "takes_back",
        postgresql_where=text("takes_back IS NOT NULL"),
    ),
)

gathered_periods = Table(
    "gathered_periods",
    metadata,
    # A period is billed once, also on an invoice with others.
    Column("billing_key", Text, primary_key=True),
    Column("invoice_id", Uuid, of_invoice(), nullable=False),
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
    Column("take_backs", JSONB, nullable=False, server_default=text("'[]'")),
    Column("give_back", Text, nullable=False, server_default=text("'credit'")),
    Column("created_at", INSTANT, nullable=False),
    Column("invoice_id", Uuid, of_invoice()),
    CheckConstraint("give_back IN ('credit', 'refund')", name="give_back"),
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

returned_payments = Table(
    "returned_payments",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("account_id", Uuid, nullable=False),
    Column("invoice_id", Uuid, of_invoice(), nullable=False),
    Column("payment_id", Uuid, nullable=False),
    Column("kind", stored(ReturnKind), nullable=False),
    Column("amount", BigInteger, nullable=False),
    Column("created_at", INSTANT, nullable=False),
    Column("state", stored(ReturnState), nullable=False),
    Column("sequence", Integer, nullable=False),
    Column("reason", Text),
    Column("credit_note_id", Uuid),
    Column("failure", Text),
    CheckConstraint("amount > 0", name="amount"),
    # What an invoice's refunds and disputes come to.
    Index("ix_returned_payments_invoice_id", "invoice_id"),
    # What became of a credit note's refund.
    Index(
        "ix_returned_payments_credit_note_id",
        "credit_note_id",
        postgresql_where=text("credit_note_id IS NOT NULL"),
    ),
)

#: Of releases before subscriptions said what comes next; a later release drops it.
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
    Column("terms", Text),
    Index("ix_upcoming_account_id", "account_id"),
)

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
mapper.map_imperatively(InvoiceLine, invoice_lines)
mapper.map_imperatively(PendingCharges, pending_charges)
mapper.map_imperatively(ReceivedPayment, received_payments)
mapper.map_imperatively(ReturnedPayment, returned_payments)

#: Lines are read where this is asked for, and never by themselves.
with_lines = selectinload(cast("Any", Invoice).lines)
