"""Say who issues invoices."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import select, update

from services.invoicing.domain.legal_entity import LegalEntity, LegalEntityNotFound
from services.invoicing.domain.numbering import CREDIT_NOTES, INVOICES, NumberSeries, check_pattern
from services.invoicing.domain.vat import check_vat_id
from services.invoicing.repository import InvoicingUnitOfWork
from services.invoicing.tables import (
    legal_entities,
    number_series,
)
from shared.ids import new_id

CREDIT_NOTE_PATTERN = "CN-{year}-{seq:06}"


@dataclass(frozen=True, kw_only=True)
class EntityDetails:
    """What a legal entity is made of; `number_pattern` is for its invoices."""

    name: str
    country: str
    vat_id: str | None = None
    tax_number: str | None = None
    address: dict[str, Any]
    email: str | None = None
    iban: str | None = None
    bic: str | None = None
    accounting_currency: str = "EUR"
    time_zone: str = "UTC"
    small_business: bool = False
    payment_terms_days: int = 0
    draft_hours: int = 0
    reminder_days: list[int] = field(default_factory=lambda: [-3, 1, 7, 14])
    is_default: bool = False
    branding: dict[str, Any]
    number_pattern: str = "INV-{year}-{seq:06}"
    credit_note_pattern: str = CREDIT_NOTE_PATTERN

    def values(self) -> dict[str, Any]:
        values = {
            name: value for name, value in vars(self).items() if not name.endswith("_pattern")
        }
        values["vat_id"] = check_vat_id(self.vat_id) if self.vat_id else None
        return values


async def create_legal_entity(
    uow: InvoicingUnitOfWork, details: EntityDetails, *, at: datetime
) -> LegalEntity:
    """With the first number of each of its series still to give out. The first is the default."""
    for pattern in (details.number_pattern, details.credit_note_pattern):
        check_pattern(pattern)
    values = details.values()
    first = await uow.session.scalar(select(legal_entities.c.id).limit(1)) is None
    await _make_room_for_default(uow, is_default=details.is_default)
    entity = LegalEntity(
        id=new_id(), created_at=at, **{**values, "is_default": first or details.is_default}
    )
    uow.session.add(entity)
    await uow.session.flush()
    for series, pattern in (
        (INVOICES, details.number_pattern),
        (CREDIT_NOTES, details.credit_note_pattern),
    ):
        uow.session.add(
            NumberSeries(id=new_id(), legal_entity_id=entity.id, series=series, pattern=pattern)
        )
    await uow.session.flush()
    return entity


async def change_legal_entity(
    uow: InvoicingUnitOfWork, entity_id: UUID, details: EntityDetails
) -> LegalEntity:
    """From the next document on; the count goes on whatever the pattern becomes."""
    entity = await uow.session.get(LegalEntity, entity_id, with_for_update=True)
    if entity is None:
        raise LegalEntityNotFound("There is no such legal entity.")
    if entity.is_default and not details.is_default:
        details = EntityDetails(**{**vars(details), "is_default": True})
    elif not entity.is_default:
        await _make_room_for_default(uow, is_default=details.is_default)
    for name, value in details.values().items():
        setattr(entity, name, value)
    entity.version += 1
    for series, pattern in (
        (INVOICES, details.number_pattern),
        (CREDIT_NOTES, details.credit_note_pattern),
    ):
        check_pattern(pattern)
        await uow.session.execute(
            update(number_series)
            .where(number_series.c.legal_entity_id == entity_id, number_series.c.series == series)
            .values(pattern=pattern)
        )
    return entity


async def _make_room_for_default(uow: InvoicingUnitOfWork, *, is_default: bool) -> None:
    if is_default:
        await uow.session.execute(
            update(legal_entities)
            .where(legal_entities.c.is_default)
            .values(is_default=False)
            .execution_options(synchronize_session=False)
        )
