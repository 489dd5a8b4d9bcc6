"""Who issues invoices: legal entities, their numbers, and the rates they compute with."""

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
    func,
    literal_column,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB, ExcludeConstraint

from services.invoicing.domain.exchange import ExchangeRate
from services.invoicing.domain.legal_entity import LegalEntity
from services.invoicing.domain.numbering import NumberSeries
from services.invoicing.domain.tax import TaxRate
from services.invoicing.tables.base import CURRENCY, INSTANT, PERCENT, mapper, metadata

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
    Column("time_zone", Text, nullable=False, server_default=text("'UTC'")),
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

mapper.map_imperatively(LegalEntity, legal_entities)
mapper.map_imperatively(NumberSeries, number_series)
mapper.map_imperatively(TaxRate, tax_rates)
mapper.map_imperatively(ExchangeRate, exchange_rates)
