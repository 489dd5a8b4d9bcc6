"""What invoicing cannot be without: somebody who issues invoices, and tax rates."""

from collections.abc import Mapping
from datetime import date, datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import insert as upsert

from services.invoicing.domain.tax import EU
from services.invoicing.domain.vat_history import history
from services.invoicing.repository import InvoicingUnitOfWork
from services.invoicing.tables import (
    legal_entities,
    tax_rates,
)
from services.invoicing.use_cases.set_legal_entity import EntityDetails, create_legal_entity
from shared.ids import new_id

#: Held while seeding, so that two deployments at once do not both find nothing.
LOCK = 0x7A8_0002


async def seed(uow: InvoicingUnitOfWork, *, at: datetime) -> None:
    """Add what is missing; what somebody changed stays as it is. Runs at each deployment."""
    await uow.session.execute(select(func.pg_advisory_xact_lock(LOCK)))
    if await uow.session.scalar(select(legal_entities.c.id).limit(1)) is None:
        await create_legal_entity(
            uow,
            EntityDetails(
                name="Example Operator GmbH",
                country="DE",
                vat_id="DE136695976",
                address={
                    "line1": "Beispielstraße 1",
                    "postal_code": "10115",
                    "city": "Berlin",
                    "country": "DE",
                },
                branding={},
                is_default=True,
            ),
            at=at,
        )
    await _seed_tax_rates(uow)


async def _seed_tax_rates(uow: InvoicingUnitOfWork) -> None:
    """Rates of the EU with their history, for what has none on file.

    The standard rate of each country, and the reduced one where it has a single one.
    """
    # Loads its data at import; nobody else needs it.
    import eu_vat_rates_data  # noqa: PLC0415

    rows = await uow.session.execute(select(tax_rates.c.country, tax_rates.c.category).distinct())
    on_file = {(row.country, row.category) for row in rows}
    version = eu_vat_rates_data.data_version
    rates: Mapping[str, Any] = eu_vat_rates_data.get_all_rates()
    wanted = [
        {
            "id": new_id(),
            "country": country,
            "category": category,
            "rate": dated.rate,
            "valid_from": dated.valid_from,
            "valid_to": dated.valid_to,
            "source": dated.source,
        }
        for country in sorted(EU)
        for category, today in _rates_of(rates[country]).items()
        if (country, category) not in on_file
        for dated in history(
            country,
            category,
            today=today,
            known_on=date.fromisoformat(version),
            source=f"eu-vat-rates-data {version}",
        )
    ]
    if wanted:
        await uow.session.execute(upsert(tax_rates).values(wanted).on_conflict_do_nothing())


def _rates_of(found: Mapping[str, Any]) -> dict[str, Decimal]:
    """By category. The source has floats; their shortest text is what was meant."""
    rates = {"standard": Decimal(str(found["standard"]))}
    if len(found["reduced"]) == 1:
        rates["reduced"] = Decimal(str(found["reduced"][0]))
    return {category: rate.normalize() for category, rate in rates.items()}
