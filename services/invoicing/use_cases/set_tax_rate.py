"""Put a dated tax rate on file."""

from dataclasses import dataclass
from datetime import date
from decimal import Decimal

from sqlalchemy import func, or_, select

from services.invoicing.domain.tax import TaxRate, TaxRateOverlaps
from services.invoicing.repository import InvoicingUnitOfWork
from services.invoicing.tables import (
    tax_rates,
)
from shared.ids import new_id

#: Held while rates are compared, so that two writers cannot both find the same room.
LOCK = 0x7A8_0001


@dataclass(frozen=True, kw_only=True)
class NewTaxRate:
    country: str
    category: str
    rate: Decimal
    valid_from: date
    valid_to: date | None = None
    source: str = "staff"


async def set_tax_rate(uow: InvoicingUnitOfWork, new: NewTaxRate) -> TaxRate:
    """A rate without an end gives way to one that begins later; any other overlap is refused."""
    await uow.session.execute(select(func.pg_advisory_xact_lock(LOCK)))
    rate = TaxRate(
        id=new_id(),
        country=new.country,
        category=new.category,
        rate=new.rate,
        valid_from=new.valid_from,
        valid_to=new.valid_to,
        source=new.source,
    )
    overlapping = (
        await uow.session.scalars(
            select(TaxRate).where(
                tax_rates.c.country == new.country,
                tax_rates.c.category == new.category,
                or_(tax_rates.c.valid_to.is_(None), tax_rates.c.valid_to > new.valid_from),
                *([tax_rates.c.valid_from < new.valid_to] if new.valid_to else []),
            )
        )
    ).all()
    for other in overlapping:
        gives_way = other.valid_to is None and other.valid_from < new.valid_from
        if not gives_way:
            raise TaxRateOverlaps(
                f"{other.country} has a {other.category} rate of {other.rate.normalize():f} % "
                f"from {other.valid_from}"
                + (f" to {other.valid_to}." if other.valid_to else " on."),
                field="valid_from",
            )
        other.valid_to = new.valid_from
    # The end of the old one must be there before the new one claims to be without an end.
    await uow.session.flush()
    uow.session.add(rate)
    await uow.session.flush()
    return rate
