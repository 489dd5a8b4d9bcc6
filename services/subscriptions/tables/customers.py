"""What other services report: accounts, how they pay, and how far invoices have come."""

from sqlalchemy import (
    Boolean,
    CheckConstraint,
    Column,
    Index,
    Table,
    Text,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY

from services.subscriptions.domain.account import Account, PaymentMethod, Project
from services.subscriptions.domain.standing import InvoiceState
from services.subscriptions.tables.columns import id_, mapping, metadata, moment, text_, version

accounts = Table(
    "accounts",
    metadata,
    id_(),
    text_("country"),
    text_("time_zone"),
    Column("closed", Boolean, nullable=False),
    version(),
)

payment_methods = Table(
    "payment_methods",
    metadata,
    id_(),
    Column("account_id", Uuid, nullable=False),
    Column("is_default", Boolean, nullable=False),
    Column("attached", Boolean, nullable=False),
    version(),
    # Can this account pay?
    Index("ix_payment_methods_account_id", "account_id"),
)

projects = Table(
    "projects",
    metadata,
    id_(),
    Column("account_id", Uuid, nullable=False),
    Column("active", Boolean, nullable=False),
    version(),
)

invoice_states = Table(
    "invoice_states",
    metadata,
    Column("invoice_id", Uuid, primary_key=True),
    Column("subscription_id", Uuid),
    Column("subscription_ids", ARRAY(Uuid), nullable=False, server_default=text("'{}'")),
    Column("account_id", Uuid, nullable=False),
    Column("is_first", Boolean, nullable=False),
    Column("paid", Boolean, nullable=False),
    Column("dropped", Boolean, nullable=False),
    Column("voided", Boolean, nullable=False, server_default=text("false")),
    moment("settled_at", nullable=True),
    Column("dunning", Boolean, nullable=False),
    Column("exhausted", Text),
    moment("exhausted_at", nullable=True),
    CheckConstraint("exhausted IN ('cancel', 'unpaid', 'pause')", name="exhausted"),
    # What a subscription still owes, and whether its first invoice is paid.
    Index("ix_invoice_states_subscription_id", "subscription_id"),
    # The same, of consolidated invoices.
    Index("ix_invoice_states_subscription_ids", "subscription_ids", postgresql_using="gin"),
)


mapping.map_imperatively(Account, accounts)
mapping.map_imperatively(PaymentMethod, payment_methods)
mapping.map_imperatively(Project, projects)
mapping.map_imperatively(InvoiceState, invoice_states)
