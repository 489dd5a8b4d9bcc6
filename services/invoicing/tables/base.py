"""What the tables of invoicing have in common."""

from sqlalchemy import (
    DateTime,
    ForeignKey,
    Numeric,
)
from sqlalchemy.orm import registry

from shared.db import service_metadata

metadata = service_metadata("invoicing")
mapper = registry(metadata=metadata)

INSTANT = DateTime(timezone=True)
PERCENT = Numeric(7, 4)
CURRENCY = "~ '^[A-Z]{3}$'"


def of_invoice() -> ForeignKey:
    """Checked at the commit: an invoice is written last, when it has its number."""
    return ForeignKey("invoices.id", deferrable=True, initially="DEFERRED")
