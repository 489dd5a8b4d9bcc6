"""Put exchange rates of a day on file."""

from collections.abc import Sequence
from datetime import date
from decimal import Decimal

from sqlalchemy.dialects.postgresql import insert as upsert

from services.invoicing.domain.exchange import ExchangeRate, ExchangeRateExists
from services.invoicing.repository import InvoicingUnitOfWork
from services.invoicing.tables import (
    exchange_rates,
)
from shared.ids import new_id


async def set_exchange_rate(
    uow: InvoicingUnitOfWork, *, base: str, quote: str, rate: Decimal, on: date
) -> ExchangeRate:
    """One rate by hand. What is on file for that day stays: invoices may have used it."""
    found = ExchangeRate(id=new_id(), base=base, quote=quote, rate=rate, on=on)
    if not await store_exchange_rates(uow, [found]):
        raise ExchangeRateExists(f"There is a rate of {base} in {quote} for {on}.", field="on")
    return found


async def store_exchange_rates(uow: InvoicingUnitOfWork, rates: Sequence[ExchangeRate]) -> int:
    """Those that are new for their day; how many they were."""
    if not rates:
        return 0
    statement = (
        upsert(exchange_rates)
        .values(
            [
                {
                    "id": rate.id,
                    "base": rate.base,
                    "quote": rate.quote,
                    "rate": rate.rate,
                    "on": rate.on,
                    "source": rate.source,
                }
                for rate in rates
            ]
        )
        .on_conflict_do_nothing()
        .returning(exchange_rates.c.id)
    )
    return len((await uow.session.execute(statement)).all())
