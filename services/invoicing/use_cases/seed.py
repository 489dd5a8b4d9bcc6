"""What invoicing cannot be without: somebody who issues invoices, and tax rates."""

from datetime import date, datetime
from decimal import Decimal

from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import insert as upsert

from services.invoicing.domain.tax import EU
from services.invoicing.repository import InvoicingUnitOfWork
from services.invoicing.tables import (
    legal_entities,
    tax_rates,
)
from services.invoicing.use_cases.set_legal_entity import EntityDetails, create_legal_entity
from shared.ids import new_id

#: Before any supply that is billed here: rates whose beginning the source does not tell.
EARLIEST = date(2020, 1, 1)

#: Standard rates that changed since (country → rate, from, to): the source has today's only.
HISTORY: dict[str, list[tuple[str, date, date | None]]] = {
    "DE": [
        ("19", EARLIEST, date(2020, 7, 1)),
        ("16", date(2020, 7, 1), date(2021, 1, 1)),
        ("19", date(2021, 1, 1), None),
    ],
    "IE": [
        ("23", EARLIEST, date(2020, 9, 1)),
        ("21", date(2020, 9, 1), date(2021, 3, 1)),
        ("23", date(2021, 3, 1), None),
    ],
    "EE": [
        ("20", EARLIEST, date(2024, 1, 1)),
        ("22", date(2024, 1, 1), date(2025, 7, 1)),
        ("24", date(2025, 7, 1), None),
    ],
    "FI": [("24", EARLIEST, date(2024, 9, 1)), ("25.5", date(2024, 9, 1), None)],
    "SK": [("20", EARLIEST, date(2025, 1, 1)), ("23", date(2025, 1, 1), None)],
    "RO": [("19", EARLIEST, date(2025, 8, 1)), ("21", date(2025, 8, 1), None)],
    "LU": [
        ("17", EARLIEST, date(2023, 1, 1)),
        ("16", date(2023, 1, 1), date(2024, 1, 1)),
        ("17", date(2024, 1, 1), None),
    ],
}

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
    """Standard rates of the EU, for those countries that have none on file."""
    # Loads its data at import; nobody else needs it.
    import eu_vat_rates_data  # noqa: PLC0415

    known = set(
        await uow.session.scalars(
            select(tax_rates.c.country).where(tax_rates.c.category == "standard").distinct()
        )
    )
    source = f"eu-vat-rates-data {eu_vat_rates_data.data_version}"
    rows = []
    for country in sorted(EU - known):
        today = Decimal(str(eu_vat_rates_data.get_standard_rate(country)))
        periods = HISTORY.get(country, [(str(today), EARLIEST, None)])
        if Decimal(periods[-1][0]) != today:
            # The source knows of a change that the history does not have yet.
            periods = [(str(today), EARLIEST, None)]
        rows += [
            {
                "id": new_id(),
                "country": country,
                "category": "standard",
                "rate": Decimal(rate),
                "valid_from": valid_from,
                "valid_to": valid_to,
                "source": source,
            }
            for rate, valid_from, valid_to in periods
        ]
    if rows:
        await uow.session.execute(upsert(tax_rates).values(rows).on_conflict_do_nothing())
