"""Token purchases, grants and the ledger of what happened to them."""

from sqlalchemy import (
    BigInteger,
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

from services.subscriptions.domain.tokens import OrderStatus, TokenGrant, TokenOrder
from services.subscriptions.tables.catalog import bundles
from services.subscriptions.tables.columns import (
    choice,
    id_,
    mapping,
    metadata,
    moment,
    text_,
    version,
)

token_orders = Table(
    "token_orders",
    metadata,
    id_(),
    Column("account_id", Uuid, nullable=False),
    Column("bundle_id", ForeignKey(bundles.c.id), nullable=False),
    Column("tokens", BigInteger, nullable=False),
    Column("amount", BigInteger, nullable=False),
    text_("currency"),
    Column("expires_after_days", Integer),
    choice("status", OrderStatus),
    version(),
    moment("created_at"),
    Index("ix_token_orders_account_id", "account_id", "id"),
)

token_grants = Table(
    "token_grants",
    metadata,
    id_(),
    Column("account_id", Uuid, nullable=False),
    Column("order_id", ForeignKey(token_orders.c.id), unique=True),
    Column("granted", BigInteger, nullable=False),
    Column("remaining", BigInteger, nullable=False),
    moment("expires_at", nullable=True),
    moment("created_at"),
    # The last word, whatever the code does.
    CheckConstraint("remaining BETWEEN 0 AND granted", name="remaining"),
    # A debit: what is left, soonest to expire first.
    Index(
        "ix_token_grants_left",
        "account_id",
        "expires_at",
        postgresql_where=text("remaining > 0"),
    ),
)

token_entries = Table(
    "token_entries",
    metadata,
    id_(),
    Column("account_id", Uuid, nullable=False),
    Column("grant_id", ForeignKey(token_grants.c.id), nullable=False),
    Column("kind", Text, nullable=False),
    Column("amount", BigInteger, nullable=False),
    Column("reason", Text),
    # The debit that this is a part of.
    Column("debit_id", Uuid),
    moment("created_at"),
    CheckConstraint("kind IN ('grant', 'debit', 'expiry', 'refund')", name="kind"),
    CheckConstraint("(kind = 'grant') = (amount > 0) AND amount <> 0", name="amount"),
    Index("ix_token_entries_account_id", "account_id", "id"),
)


mapping.map_imperatively(TokenOrder, token_orders)
mapping.map_imperatively(TokenGrant, token_grants)
