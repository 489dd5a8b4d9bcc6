"""Who issues invoices, and the rates they are computed with."""

from datetime import date
from decimal import Decimal
from uuid import UUID

from sqlalchemy import or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from services.invoicing.domain.account import (
    Account,
)
from services.invoicing.domain.exchange import EURO, ExchangeRate, across
from services.invoicing.domain.legal_entity import LegalEntity, LegalEntityNotFound, NoLegalEntity
from services.invoicing.domain.tax import RateOf
from services.invoicing.tables import (
    exchange_rates,
    legal_entities,
    tax_rates,
)


class LegalEntities:
    def __init__(self, session: AsyncSession) -> None:
        self._session = session
        self._default: LegalEntity | None = None

    async def get(self, entity_id: UUID) -> LegalEntity:
        entity = await self._session.get(LegalEntity, entity_id)
        if entity is None:
            raise LegalEntityNotFound("There is no such legal entity.")
        return entity

    async def of(self, account: Account) -> LegalEntity:
        """Who bills this account."""
        if account.legal_entity_id is not None:
            return await self.get(account.legal_entity_id)
        if self._default is None:
            self._default = await self._session.scalar(
                select(LegalEntity).where(legal_entities.c.is_default)
            )
        if self._default is None:
            raise NoLegalEntity("No legal entity is the default: say who issues invoices.")
        return self._default


class Rates:
    """Tax and exchange rates by date, read once per transaction."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session
        self._tax: dict[tuple[str, date], dict[str, Decimal]] = {}

    async def tax_on(self, country: str, day: date) -> RateOf:
        """What the tax engine asks: the country's rates as they were on the supply date."""
        if (country, day) not in self._tax:
            rows = await self._session.execute(
                select(tax_rates.c.category, tax_rates.c.rate).where(
                    tax_rates.c.country == country,
                    tax_rates.c.valid_from <= day,
                    or_(tax_rates.c.valid_to.is_(None), tax_rates.c.valid_to > day),
                )
            )
            self._tax[country, day] = {row.category: row.rate for row in rows}
        rates = self._tax[country, day]

        def rate_of(wanted: str, category: str) -> Decimal | None:
            return rates.get(category) if wanted == country else None

        return rate_of

    async def exchange_on(self, base: str, quote: str, day: date) -> ExchangeRate | None:
        """The rate of that day, or of the last day before it that has one.

        Between two currencies of which only their rates in euros are on file, by way of the euro.
        """
        return await self._direct(base, quote, day) or await self._by_euro(base, quote, day)

    async def _by_euro(self, base: str, quote: str, day: date) -> ExchangeRate | None:
        if EURO in (base, quote):
            return None
        of_base = await self._direct(EURO, base, day)
        of_quote = await self._direct(EURO, quote, day)
        return across(of_base, of_quote) if of_base and of_quote else None

    async def _direct(self, base: str, quote: str, day: date) -> ExchangeRate | None:
        found: ExchangeRate | None = await self._session.scalar(
            select(ExchangeRate)
            .where(
                exchange_rates.c.base == base,
                exchange_rates.c.quote == quote,
                exchange_rates.c.on <= day,
            )
            .order_by(exchange_rates.c.on.desc())
            .limit(1)
        )
        return found
