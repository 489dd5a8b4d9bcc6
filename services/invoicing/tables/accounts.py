"""Accounts and what they have in credit."""

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    ForeignKey,
    Index,
    Integer,
    Table,
    Text,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

from services.invoicing.domain.account import Account, AccountCredit, CreditEntry, CreditKind
from services.invoicing.tables.base import INSTANT, mapper, metadata, of_invoice
from shared.db import stored

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
    Column("consolidated_billing", Boolean, nullable=False, server_default=text("false")),
    Column("version", Integer, nullable=False),
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

mapper.map_imperatively(Account, accounts)
mapper.map_imperatively(AccountCredit, account_credits)
mapper.map_imperatively(CreditEntry, account_credit_entries)
