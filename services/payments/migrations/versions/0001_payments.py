"""Payments: methods, payments and attempts, dunning, refunds, disputes, webhooks, the ledger.

The first migration: nothing runs beside it yet.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

from shared.messaging.migrations import create_messaging_tables, drop_messaging_tables
from shared.platform_migration import create_platform_tables, drop_platform_tables

revision = "0001"
down_revision = None


def upgrade() -> None:
    create_messaging_tables()
    create_platform_tables()
    _create_payments()
    _guard_the_ledger()


def _create_payments() -> None:
    op.create_table(
        "payment_methods",
        sa.Column("id", sa.Uuid, nullable=False),
        sa.Column("account_id", sa.Uuid, nullable=False),
        sa.Column("provider", sa.Text, nullable=False),
        sa.Column("reference", sa.Text, nullable=False),
        sa.Column("customer", sa.Text),
        sa.Column("brand", sa.Text),
        sa.Column("last4", sa.Text),
        sa.Column("exp_month", sa.Integer),
        sa.Column("exp_year", sa.Integer),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("is_default", sa.Boolean, nullable=False),
        sa.Column("detached_at", sa.DateTime(timezone=True)),
        sa.Column("warned_at", sa.DateTime(timezone=True)),
        sa.Column("warn_at", sa.DateTime(timezone=True)),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.CheckConstraint(
            "NOT is_default OR detached_at IS NULL",
            name=op.f("ck_payment_methods_default_is_attached"),
        ),
        sa.CheckConstraint("exp_month BETWEEN 1 AND 12", name=op.f("ck_payment_methods_exp_month")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_payment_methods")),
        sa.UniqueConstraint(
            "provider", "reference", name=op.f("uq_payment_methods_provider_reference")
        ),
    )
    op.create_index("ix_payment_methods_account_id", "payment_methods", ["account_id", "id"])
    op.create_index(
        "ix_payment_methods_warn_at",
        "payment_methods",
        ["warn_at"],
        postgresql_where=sa.text("warn_at IS NOT NULL"),
    )
    op.create_index(
        "uq_payment_methods_default",
        "payment_methods",
        ["account_id"],
        unique=True,
        postgresql_where=sa.text("is_default"),
    )
    op.create_table(
        "owed_invoices",
        sa.Column("invoice_id", sa.Uuid, nullable=False),
        sa.Column("account_id", sa.Uuid, nullable=False),
        sa.Column("subscription_id", sa.Uuid),
        sa.Column("number", sa.Text, nullable=False),
        sa.Column("amount_due", sa.BigInteger, nullable=False),
        sa.Column("currency", sa.Text, nullable=False),
        sa.Column("status", sa.String(40), nullable=False),
        sa.Column("finalized_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("paid_by", sa.Uuid),
        sa.CheckConstraint("amount_due >= 0", name=op.f("ck_owed_invoices_amount_due")),
        sa.PrimaryKeyConstraint("invoice_id", name=op.f("pk_owed_invoices")),
        sa.CheckConstraint(
            "status IN ('open', 'paid', 'voided', 'uncollectible')",
            name=op.f("ck_owed_invoices_owedstatus"),
        ),
    )
    op.create_table(
        "payments",
        sa.Column("id", sa.Uuid, nullable=False),
        sa.Column("account_id", sa.Uuid, nullable=False),
        sa.Column("invoice_id", sa.Uuid, nullable=False),
        sa.Column("subscription_id", sa.Uuid),
        sa.Column("amount", sa.BigInteger, nullable=False),
        sa.Column("currency", sa.Text, nullable=False),
        sa.Column("billing_reason", sa.Text, nullable=False),
        sa.Column("payment_method_id", sa.Uuid),
        sa.Column("dunning_days", sa.ARRAY(sa.Integer), nullable=False),
        sa.Column("dunning_then", sa.Text, nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("cause", JSONB, nullable=False),
        sa.Column("status", sa.String(40), nullable=False),
        sa.Column("due_at", sa.DateTime(timezone=True)),
        sa.Column("is_urgent", sa.Boolean, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("retries", sa.Integer, nullable=False),
        sa.Column("decline_class", sa.Text),
        sa.Column("decline_code", sa.Text),
        sa.Column("cancel_requested", sa.Boolean, nullable=False),
        sa.Column("refunded", sa.BigInteger, nullable=False),
        sa.Column("provider", sa.Text),
        sa.Column("succeeded_at", sa.DateTime(timezone=True)),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.CheckConstraint(
            "(status = 'succeeded') = (succeeded_at IS NOT NULL AND provider IS NOT NULL)",
            name=op.f("ck_payments_succeeded"),
        ),
        sa.CheckConstraint("amount > 0", name=op.f("ck_payments_amount")),
        sa.CheckConstraint("refunded BETWEEN 0 AND amount", name=op.f("ck_payments_refunded")),
        sa.ForeignKeyConstraint(
            ["payment_method_id"],
            ["payment_methods.id"],
            name=op.f("fk_payments_payment_method_id"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_payments")),
        sa.UniqueConstraint("invoice_id", name=op.f("uq_payments_invoice_id")),
        sa.CheckConstraint(
            "status IN ('created', 'processing', 'requires_action', 'unknown', 'succeeded',"
            " 'failed', 'canceled')",
            name=op.f("ck_payments_paymentstatus"),
        ),
    )
    op.create_index("ix_payments_account_id", "payments", ["account_id", "id"])
    op.create_index(
        "ix_payments_due",
        "payments",
        [sa.literal_column("is_urgent DESC"), "due_at"],
        postgresql_where=sa.text(
            "due_at IS NOT NULL AND status IN ('created', 'failed', 'requires_action')"
        ),
    )
    op.create_table(
        "attempts",
        sa.Column("id", sa.Uuid, nullable=False),
        sa.Column("account_id", sa.Uuid, nullable=False),
        sa.Column("payment_id", sa.Uuid, nullable=False),
        sa.Column("invoice_id", sa.Uuid, nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("provider", sa.Text, nullable=False),
        sa.Column("payment_method_id", sa.Uuid, nullable=False),
        sa.Column("amount", sa.BigInteger, nullable=False),
        sa.Column("currency", sa.Text, nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("deadline", sa.DateTime(timezone=True), nullable=False),
        sa.Column("owner", sa.Text),
        sa.Column("ask_at", sa.DateTime(timezone=True)),
        sa.Column("status", sa.String(40), nullable=False),
        sa.Column("asked", sa.Integer, nullable=False),
        sa.Column("resumes_at", sa.DateTime(timezone=True)),
        sa.Column("cancel_requested", sa.Boolean, nullable=False),
        sa.Column("reference", sa.Text),
        sa.Column("decline_class", sa.Text),
        sa.Column("decline_code", sa.Text),
        sa.Column("message", sa.Text),
        sa.Column("action_url", sa.Text),
        sa.Column("fee", sa.BigInteger, nullable=False),
        sa.Column("settled_at", sa.DateTime(timezone=True)),
        sa.CheckConstraint("amount > 0", name=op.f("ck_attempts_amount")),
        sa.CheckConstraint("fee BETWEEN 0 AND amount", name=op.f("ck_attempts_fee")),
        sa.ForeignKeyConstraint(
            ["payment_id"], ["payments.id"], name=op.f("fk_attempts_payment_id")
        ),
        sa.ForeignKeyConstraint(
            ["payment_method_id"],
            ["payment_methods.id"],
            name=op.f("fk_attempts_payment_method_id"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_attempts")),
        sa.UniqueConstraint("payment_id", "number", name=op.f("uq_attempts_payment_id_number")),
        sa.CheckConstraint(
            "status IN ('unknown', 'requires_action', 'succeeded', 'failed', 'canceled')",
            name=op.f("ck_attempts_attemptstatus"),
        ),
    )
    op.create_index(
        "ix_attempts_ask_at", "attempts", ["ask_at"], postgresql_where=sa.text("ask_at IS NOT NULL")
    )
    op.create_index(
        "ix_attempts_unknown",
        "attempts",
        ["account_id"],
        postgresql_where=sa.text("status = 'unknown'"),
    )
    op.create_index(
        "uq_attempts_one_active",
        "attempts",
        ["invoice_id"],
        unique=True,
        postgresql_where=sa.text("status IN ('unknown', 'requires_action', 'succeeded')"),
    )
    op.create_table(
        "dunnings",
        sa.Column("id", sa.Uuid, nullable=False),
        sa.Column("account_id", sa.Uuid, nullable=False),
        sa.Column("payment_id", sa.Uuid, nullable=False),
        sa.Column("invoice_id", sa.Uuid, nullable=False),
        sa.Column("subscription_id", sa.Uuid),
        sa.Column("then", sa.Text, nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ends_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("status", sa.String(40), nullable=False),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.ForeignKeyConstraint(
            ["payment_id"], ["payments.id"], name=op.f("fk_dunnings_payment_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_dunnings")),
        sa.UniqueConstraint("payment_id", name=op.f("uq_dunnings_payment_id")),
        sa.CheckConstraint(
            "status IN ('running', 'recovered', 'exhausted', 'canceled')",
            name=op.f("ck_dunnings_dunningstatus"),
        ),
    )
    op.create_index(
        "ix_dunnings_running",
        "dunnings",
        ["ends_at"],
        postgresql_where=sa.text("status = 'running'"),
    )
    op.create_table(
        "refunds",
        sa.Column("id", sa.Uuid, nullable=False),
        sa.Column("account_id", sa.Uuid, nullable=False),
        sa.Column("payment_id", sa.Uuid, nullable=False),
        sa.Column("invoice_id", sa.Uuid, nullable=False),
        sa.Column("subscription_id", sa.Uuid),
        sa.Column("provider", sa.Text, nullable=False),
        sa.Column("charge", sa.Text, nullable=False),
        sa.Column("amount", sa.BigInteger, nullable=False),
        sa.Column("currency", sa.Text, nullable=False),
        sa.Column("reason", sa.String(40), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ask_at", sa.DateTime(timezone=True)),
        sa.Column("credit_note_id", sa.Uuid),
        sa.Column("status", sa.String(40), nullable=False),
        sa.Column("asked", sa.Integer, nullable=False),
        sa.Column("reference", sa.Text),
        sa.Column("failure", sa.Text),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.CheckConstraint("amount > 0", name=op.f("ck_refunds_amount")),
        sa.ForeignKeyConstraint(
            ["payment_id"], ["payments.id"], name=op.f("fk_refunds_payment_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_refunds")),
        sa.UniqueConstraint("credit_note_id", name=op.f("uq_refunds_credit_note_id")),
        sa.CheckConstraint(
            "reason IN ('requested', 'credit_note', 'surplus')",
            name=op.f("ck_refunds_refundreason"),
        ),
        sa.CheckConstraint(
            "status IN ('pending', 'succeeded', 'failed')", name=op.f("ck_refunds_refundstatus")
        ),
    )
    op.create_index(
        "ix_refunds_ask_at", "refunds", ["ask_at"], postgresql_where=sa.text("ask_at IS NOT NULL")
    )
    op.create_index("ix_refunds_payment_id", "refunds", ["payment_id"])
    op.create_table(
        "disputes",
        sa.Column("id", sa.Uuid, nullable=False),
        sa.Column("account_id", sa.Uuid, nullable=False),
        sa.Column("payment_id", sa.Uuid, nullable=False),
        sa.Column("invoice_id", sa.Uuid, nullable=False),
        sa.Column("subscription_id", sa.Uuid),
        sa.Column("provider", sa.Text, nullable=False),
        sa.Column("reference", sa.Text, nullable=False),
        sa.Column("amount", sa.BigInteger, nullable=False),
        sa.Column("currency", sa.Text, nullable=False),
        sa.Column("fee", sa.BigInteger, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("opened_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("status", sa.String(40), nullable=False),
        sa.Column("closed_at", sa.DateTime(timezone=True)),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.CheckConstraint("amount >= 0", name=op.f("ck_disputes_amount")),
        sa.ForeignKeyConstraint(
            ["payment_id"], ["payments.id"], name=op.f("fk_disputes_payment_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_disputes")),
        sa.UniqueConstraint("provider", "reference", name=op.f("uq_disputes_provider_reference")),
        sa.CheckConstraint(
            "status IN ('open', 'won', 'lost')", name=op.f("ck_disputes_disputestatus")
        ),
    )
    op.create_index("ix_disputes_payment_id", "disputes", ["payment_id"])
    op.create_table(
        "webhook_events",
        sa.Column("id", sa.Uuid, nullable=False),
        sa.Column("provider", sa.Text, nullable=False),
        sa.Column("provider_event_id", sa.Text, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("about", sa.Text, nullable=False),
        sa.Column("reference", sa.Text, nullable=False),
        sa.Column("key", sa.Text),
        sa.Column("body", JSONB, nullable=False),
        sa.Column("received_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("process_at", sa.DateTime(timezone=True)),
        sa.Column("processed_at", sa.DateTime(timezone=True)),
        sa.Column("tries", sa.Integer, nullable=False),
        sa.Column("trouble", sa.Text),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_webhook_events")),
        sa.UniqueConstraint(
            "provider",
            "provider_event_id",
            name=op.f("uq_webhook_events_provider_provider_event_id"),
        ),
    )
    op.create_index(
        "ix_webhook_events_process_at",
        "webhook_events",
        ["process_at"],
        postgresql_where=sa.text("process_at IS NOT NULL"),
    )
    op.create_table(
        "ledger_transactions",
        sa.Column("id", sa.Uuid, nullable=False),
        sa.Column("account_id", sa.Uuid),
        sa.Column("kind", sa.String(40), nullable=False),
        sa.Column("reference", sa.Text, nullable=False),
        sa.Column("occurred_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("recorded_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_ledger_transactions")),
        sa.UniqueConstraint(
            "kind", "reference", name=op.f("uq_ledger_transactions_kind_reference")
        ),
        sa.CheckConstraint(
            "kind IN ('invoice_owed', 'invoice_paid', 'invoice_paid_offline', 'invoice_voided',"
            " 'charge', 'refund', 'surplus_refund', 'dispute_opened', 'dispute_won',"
            " 'dispute_lost', 'payout')",
            name=op.f("ck_ledger_transactions_entrykind"),
        ),
    )
    op.create_table(
        "ledger_entries",
        sa.Column("id", sa.Uuid, nullable=False),
        sa.Column("transaction_id", sa.Uuid, nullable=False),
        sa.Column("account_id", sa.Uuid),
        sa.Column("ledger_account", sa.Text, nullable=False),
        sa.Column("amount", sa.BigInteger, nullable=False),
        sa.Column("currency", sa.Text, nullable=False),
        sa.Column("occurred_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("amount <> 0", name=op.f("ck_ledger_entries_amount")),
        sa.ForeignKeyConstraint(
            ["transaction_id"],
            ["ledger_transactions.id"],
            name=op.f("fk_ledger_entries_transaction_id"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_ledger_entries")),
    )
    op.create_index(
        "ix_ledger_entries_balance", "ledger_entries", ["ledger_account", "currency", "occurred_at"]
    )
    op.create_index("ix_ledger_entries_transaction_id", "ledger_entries", ["transaction_id"])


def _guard_the_ledger() -> None:
    """Append-only, and every transaction sums to zero per currency: the database says no."""
    op.execute("""
    CREATE FUNCTION payments.ledger_is_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        RAISE EXCEPTION 'the ledger is append-only: % on % is refused', TG_OP, TG_TABLE_NAME
            USING ERRCODE = 'integrity_constraint_violation';
    END $$
    """)
    op.execute("""
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
    """)
    op.execute("""
    CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON payments.ledger_transactions
    FOR EACH STATEMENT EXECUTE FUNCTION payments.ledger_is_append_only()
    """)
    op.execute("""
    CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON payments.ledger_entries
    FOR EACH STATEMENT EXECUTE FUNCTION payments.ledger_is_append_only()
    """)
    op.execute("""
    CREATE CONSTRAINT TRIGGER zero_sum AFTER INSERT ON payments.ledger_entries
    DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION payments.ledger_sums_to_zero()
    """)


def downgrade() -> None:
    for table in (
        "ledger_entries",
        "ledger_transactions",
        "webhook_events",
        "disputes",
        "refunds",
        "dunnings",
        "attempts",
        "payments",
        "owed_invoices",
        "payment_methods",
    ):
        op.drop_table(table)
    op.execute("DROP FUNCTION payments.ledger_is_append_only()")
    op.execute("DROP FUNCTION payments.ledger_sums_to_zero()")
    drop_platform_tables()
    drop_messaging_tables()
