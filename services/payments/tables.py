"""The service's tables and how its objects lie in them; Alembic's target."""

from sqlalchemy import (
    ARRAY,
    DDL,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    ForeignKey,
    Index,
    Integer,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    event,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import registry

from services.payments.domain.dunning import Dunning, DunningStatus
from services.payments.domain.ledger import EntryKind, LedgerEntry, LedgerTransaction
from services.payments.domain.methods import OwedInvoice, OwedStatus, PaymentMethod
from services.payments.domain.payments import Attempt, AttemptStatus, Payment, PaymentStatus
from services.payments.domain.refunds import (
    Dispute,
    DisputeStatus,
    Refund,
    RefundReason,
    RefundStatus,
)
from services.payments.domain.webhooks import WebhookEvent
from shared.db import service_metadata, stored

metadata = service_metadata("payments")
mapper = registry(metadata=metadata)


def instant() -> DateTime:
    return DateTime(timezone=True)


payment_methods = Table(
    "payment_methods",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("account_id", Uuid, nullable=False),
    Column("provider", Text, nullable=False),
    Column("reference", Text, nullable=False),
    Column("customer", Text),
    Column("brand", Text),
    Column("last4", Text),
    Column("exp_month", Integer),
    Column("exp_year", Integer),
    Column("created_at", instant(), nullable=False),
    Column("is_default", Boolean, nullable=False),
    Column("detached_at", instant()),
    Column("warned_at", instant()),
    Column("warn_at", instant()),
    Column("action_url", Text),
    Column("client_secret", Text),
    Column("version", BigInteger, nullable=False),
    CheckConstraint("exp_month BETWEEN 1 AND 12", name="exp_month"),
    CheckConstraint("NOT is_default OR detached_at IS NULL", name="default_is_attached"),
    # A webhook of the provider names a method by its reference.
    UniqueConstraint("provider", "reference"),
    # An account's methods, and the one that is charged when none is named.
    Index("ix_payment_methods_account_id", "account_id", "id"),
    Index(
        "uq_payment_methods_default",
        "account_id",
        unique=True,
        postgresql_where=text("is_default"),
    ),
    # The job that tells owners of expiring cards.
    Index("ix_payment_methods_warn_at", "warn_at", postgresql_where=text("warn_at IS NOT NULL")),
)

owed_invoices = Table(
    "owed_invoices",
    metadata,
    Column("invoice_id", Uuid, primary_key=True),
    Column("account_id", Uuid, nullable=False),
    Column("subscription_id", Uuid),
    Column("number", Text, nullable=False),
    Column("amount_due", BigInteger, nullable=False),
    Column("currency", Text, nullable=False),
    Column("status", stored(OwedStatus), nullable=False),
    Column("finalized_at", instant(), nullable=False),
    Column("paid_by", Uuid),
    Column("amount_reduced", BigInteger, nullable=False, server_default=text("0")),
    CheckConstraint("amount_due >= 0", name="amount_due"),
    # Money that came and that no invoice has taken.
    Index(
        "ix_owed_invoices_not_paid_by_us",
        "invoice_id",
        postgresql_where=text("paid_by IS NULL"),
    ),
)

payments = Table(
    "payments",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("account_id", Uuid, nullable=False),
    Column("invoice_id", Uuid, nullable=False),
    Column("subscription_id", Uuid),
    Column("amount", BigInteger, nullable=False),
    Column("currency", Text, nullable=False),
    Column("billing_reason", Text, nullable=False),
    Column("payment_method_id", Uuid, ForeignKey("payment_methods.id")),
    Column("dunning_days", ARRAY(Integer), nullable=False),
    Column("dunning_then", Text, nullable=False),
    Column("created_at", instant(), nullable=False),
    Column("cause", JSONB, nullable=False),
    Column("status", stored(PaymentStatus), nullable=False),
    Column("due_at", instant()),
    Column("is_urgent", Boolean, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("retries", Integer, nullable=False),
    Column("decline_class", Text),
    Column("decline_code", Text),
    Column("cancel_requested", Boolean, nullable=False),
    Column("refunded", BigInteger, nullable=False),
    Column("provider", Text),
    Column("succeeded_at", instant()),
    Column("version", BigInteger, nullable=False),
    CheckConstraint("amount > 0", name="amount"),
    CheckConstraint("refunded BETWEEN 0 AND amount", name="refunded"),
    CheckConstraint(
        "(status = 'succeeded') = (succeeded_at IS NOT NULL AND provider IS NOT NULL)",
        name="succeeded",
    ),
    # An invoice is collected by one payment, however often invoicing reports it.
    UniqueConstraint("invoice_id"),
    # An account's payments, newest first.
    Index("ix_payments_account_id", "account_id", "id"),
    # The collecting job: whom a customer waits for comes first.
    Index(
        "ix_payments_due",
        text("is_urgent DESC"),
        "due_at",
        postgresql_where=text(
            "due_at IS NOT NULL AND status IN ('created', 'failed', 'requires_action')"
        ),
    ),
)

attempts = Table(
    "attempts",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("account_id", Uuid, nullable=False),
    Column("payment_id", Uuid, ForeignKey("payments.id"), nullable=False),
    Column("invoice_id", Uuid, nullable=False),
    Column("number", Integer, nullable=False),
    Column("provider", Text, nullable=False),
    Column("payment_method_id", Uuid, ForeignKey("payment_methods.id"), nullable=False),
    Column("amount", BigInteger, nullable=False),
    Column("currency", Text, nullable=False),
    Column("at", instant(), nullable=False),
    Column("started_at", instant(), nullable=False),
    Column("deadline", instant(), nullable=False),
    Column("owner", Text),
    Column("ask_at", instant()),
    Column("status", stored(AttemptStatus), nullable=False),
    Column("asked", Integer, nullable=False),
    Column("resumes_at", instant()),
    Column("cancel_requested", Boolean, nullable=False),
    Column("reference", Text),
    Column("decline_class", Text),
    Column("decline_code", Text),
    Column("message", Text),
    Column("action_url", Text),
    Column("client_secret", Text),
    Column("fee", BigInteger, nullable=False),
    Column("settled_at", instant()),
    CheckConstraint("amount > 0", name="amount"),
    CheckConstraint("fee BETWEEN 0 AND amount", name="fee"),
    UniqueConstraint("payment_id", "number"),
    # At most one attempt of an invoice is under way or has taken money: no second charge.
    Index(
        "uq_attempts_one_active",
        "invoice_id",
        unique=True,
        postgresql_where=text("status IN ('unknown', 'requires_action', 'succeeded')"),
    ),
    # The reconciler's work.
    Index("ix_attempts_ask_at", "ask_at", postgresql_where=text("ask_at IS NOT NULL")),
    # Whether something of an account is under way, for test clocks.
    Index(
        "ix_attempts_unknown",
        "account_id",
        postgresql_where=text("status = 'unknown'"),
    ),
)

dunnings = Table(
    "dunnings",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("account_id", Uuid, nullable=False),
    Column("payment_id", Uuid, ForeignKey("payments.id"), nullable=False),
    Column("invoice_id", Uuid, nullable=False),
    Column("subscription_id", Uuid),
    Column("then", Text, nullable=False),
    Column("started_at", instant(), nullable=False),
    Column("ends_at", instant(), nullable=False),
    Column("status", stored(DunningStatus), nullable=False),
    Column("version", BigInteger, nullable=False),
    # A payment is dunned once.
    UniqueConstraint("payment_id"),
    # The job that ends what nobody paid.
    Index("ix_dunnings_running", "ends_at", postgresql_where=text("status = 'running'")),
)

refunds = Table(
    "refunds",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("account_id", Uuid, nullable=False),
    Column("payment_id", Uuid, ForeignKey("payments.id"), nullable=False),
    Column("invoice_id", Uuid, nullable=False),
    Column("subscription_id", Uuid),
    Column("provider", Text, nullable=False),
    Column("charge", Text, nullable=False),
    Column("amount", BigInteger, nullable=False),
    Column("currency", Text, nullable=False),
    Column("reason", stored(RefundReason), nullable=False),
    Column("at", instant(), nullable=False),
    Column("created_at", instant(), nullable=False),
    Column("ask_at", instant()),
    Column("credit_note_id", Uuid),
    Column("status", stored(RefundStatus), nullable=False),
    Column("asked", Integer, nullable=False),
    Column("reference", Text),
    Column("failure", Text),
    Column("attended_at", instant()),
    Column("version", BigInteger, nullable=False),
    CheckConstraint("amount > 0", name="amount"),
    # A credit note sends money back once; again only when that failed and was seen to.
    Index(
        "uq_refunds_open_credit_note_id",
        "credit_note_id",
        unique=True,
        postgresql_where=text("attended_at IS NULL"),
    ),
    # Failed ones that wait for a person.
    Index(
        "ix_refunds_forgotten",
        "id",
        postgresql_where=text("status = 'failed' AND attended_at IS NULL"),
    ),
    # A payment's refunds.
    Index("ix_refunds_payment_id", "payment_id"),
    # The job that sends them.
    Index("ix_refunds_ask_at", "ask_at", postgresql_where=text("ask_at IS NOT NULL")),
)

disputes = Table(
    "disputes",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("account_id", Uuid, nullable=False),
    Column("payment_id", Uuid, ForeignKey("payments.id"), nullable=False),
    Column("invoice_id", Uuid, nullable=False),
    Column("subscription_id", Uuid),
    Column("provider", Text, nullable=False),
    Column("reference", Text, nullable=False),
    Column("amount", BigInteger, nullable=False),
    Column("currency", Text, nullable=False),
    Column("fee", BigInteger, nullable=False),
    Column("reason", Text, nullable=False),
    Column("opened_at", instant(), nullable=False),
    Column("status", stored(DisputeStatus), nullable=False),
    Column("closed_at", instant()),
    Column("version", BigInteger, nullable=False),
    CheckConstraint("amount >= 0", name="amount"),
    UniqueConstraint("provider", "reference"),
    # A payment's disputes.
    Index("ix_disputes_payment_id", "payment_id"),
)

webhook_events = Table(
    "webhook_events",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("provider", Text, nullable=False),
    Column("provider_event_id", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("about", Text, nullable=False),
    Column("reference", Text, nullable=False),
    Column("key", Text),
    Column("body", JSONB, nullable=False),
    Column("received_at", instant(), nullable=False),
    Column("process_at", instant()),
    Column("processed_at", instant()),
    Column("tries", Integer, nullable=False),
    Column("trouble", Text),
    # A provider repeats itself; the first copy counts.
    UniqueConstraint("provider", "provider_event_id"),
    # The job that works them off.
    Index(
        "ix_webhook_events_process_at",
        "process_at",
        postgresql_where=text("process_at IS NOT NULL"),
    ),
    # The job that drops what was worked off long ago.
    Index("ix_webhook_events_processed_at", "processed_at"),
)

ledger_transactions = Table(
    "ledger_transactions",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("account_id", Uuid),
    Column("kind", stored(EntryKind), nullable=False),
    Column("reference", Text, nullable=False),
    Column("occurred_at", instant(), nullable=False),
    Column("recorded_at", instant(), nullable=False),
    # A movement is posted once.
    UniqueConstraint("kind", "reference"),
)

ledger_entries = Table(
    "ledger_entries",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("transaction_id", Uuid, ForeignKey("ledger_transactions.id"), nullable=False),
    Column("account_id", Uuid),
    Column("ledger_account", Text, nullable=False),
    Column("amount", BigInteger, nullable=False),
    Column("currency", Text, nullable=False),
    Column("occurred_at", instant(), nullable=False),
    CheckConstraint("amount <> 0", name="amount"),
    # The constraint trigger adds up a transaction, and a reader shows it.
    Index("ix_ledger_entries_transaction_id", "transaction_id"),
    # Balances at an instant.
    Index("ix_ledger_entries_balance", "ledger_account", "currency", "occurred_at"),
)

#: What the tables cannot say for themselves; the first migration holds the same text.
LEDGER_RULES = (
    """
    CREATE FUNCTION payments.ledger_is_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        RAISE EXCEPTION 'the ledger is append-only: % on % is refused', TG_OP, TG_TABLE_NAME
            USING ERRCODE = 'integrity_constraint_violation';
    END $$
    """,
    """
    CREATE FUNCTION payments.ledger_sums_to_zero() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF EXISTS (
            SELECT 1 FROM payments.ledger_entries WHERE transaction_id = NEW.transaction_id
            GROUP BY currency HAVING sum(amount) <> 0
        ) THEN
            RAISE EXCEPTION 'ledger transaction % does not sum to zero', NEW.transaction_id
                USING ERRCODE = 'integrity_constraint_violation';
        END IF;
        RETURN NULL;
    END $$
    """,
    """
    CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON payments.ledger_transactions
    FOR EACH STATEMENT EXECUTE FUNCTION payments.ledger_is_append_only()
    """,
    """
    CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON payments.ledger_entries
    FOR EACH STATEMENT EXECUTE FUNCTION payments.ledger_is_append_only()
    """,
    """
    CREATE CONSTRAINT TRIGGER zero_sum AFTER INSERT ON payments.ledger_entries
    DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION payments.ledger_sums_to_zero()
    """,
)

for _rule in LEDGER_RULES:
    _ddl = DDL(_rule.replace("%", "%%"))  # type: ignore[no-untyped-call]  # SQLAlchemy's own gap
    event.listen(metadata, "after_create", _ddl)

mapper.map_imperatively(PaymentMethod, payment_methods)
mapper.map_imperatively(OwedInvoice, owed_invoices)
mapper.map_imperatively(Payment, payments)
mapper.map_imperatively(Attempt, attempts)
mapper.map_imperatively(Dunning, dunnings)
mapper.map_imperatively(Refund, refunds)
mapper.map_imperatively(Dispute, disputes)
mapper.map_imperatively(WebhookEvent, webhook_events)
mapper.map_imperatively(LedgerTransaction, ledger_transactions)
mapper.map_imperatively(LedgerEntry, ledger_entries)
