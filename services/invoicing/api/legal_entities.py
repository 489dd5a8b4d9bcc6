"""Who issues invoices."""

from typing import Annotated, Any, Self
from uuid import UUID

from fastapi import Response
from pydantic import AfterValidator, BaseModel, EmailStr, Field, StringConstraints

from services.invoicing import queries
from services.invoicing.api.billing_details import Address, Country, Text
from services.invoicing.api.edge import Command, Paging, Query
from services.invoicing.domain.legal_entity import LegalEntity, LegalEntityNotFound
from services.invoicing.domain.numbering import BadNumberPattern
from services.invoicing.domain.vat import VatNumberInvalid
from services.invoicing.use_cases.set_legal_entity import (
    CREDIT_NOTE_PATTERN,
    EntityDetails,
    change_legal_entity,
    create_legal_entity,
)
from shared.errors import PreconditionFailed
from shared.money import Currency
from shared.web import Page, RequestModel, Router, for_staff, problems
from shared.zones import time_zones

router = Router(prefix="/v1/legal-entities", tags=["legal entities"])


def _known(name: str) -> str:
    if name not in time_zones():
        raise ValueError("not an IANA time zone")
    return name


TimeZone = Annotated[str, StringConstraints(max_length=64), AfterValidator(_known)]


class Branding(RequestModel):
    """The look of documents; `logo_id` is an attachment (PNG, JPEG or SVG)."""

    color: Annotated[str, StringConstraints(pattern=r"^#[0-9a-fA-F]{6}$")] | None = None
    logo_id: UUID | None = None
    footer: Annotated[str, StringConstraints(max_length=500)] | None = None


class LegalEntityRequest(RequestModel):
    """`number_pattern` needs {seq}, may use {year} and {month}: INV-{year}-{seq:06}."""

    name: Text
    country: Country
    vat_id: Text | None = None
    tax_number: Text | None = None
    address: Address = Field(default_factory=Address)
    email: EmailStr | None = None
    iban: Annotated[str, StringConstraints(pattern=r"^[A-Z]{2}[0-9A-Z]{13,32}$")] | None = None
    bic: Annotated[str, StringConstraints(pattern=r"^[A-Z0-9]{8}([A-Z0-9]{3})?$")] | None = None
    accounting_currency: Currency = "EUR"
    time_zone: TimeZone = Field("UTC", description="Whose days its documents are dated by.")
    small_business: bool = False
    payment_terms_days: int = Field(0, ge=0, le=365)
    draft_hours: int = Field(
        0, ge=0, le=240, description="How long subscription invoices stay drafts."
    )
    reminder_days: list[Annotated[int, Field(ge=-60, le=365)]] = Field(
        default_factory=lambda: [-3, 1, 7, 14],
        max_length=10,
        description="Days after the due date (before it when negative), for invoices that are "
        "not collected automatically.",
    )
    is_default: bool = False
    branding: Branding = Field(default_factory=Branding)
    number_pattern: str = Field("INV-{year}-{seq:06}", max_length=60)
    credit_note_pattern: str = Field(CREDIT_NOTE_PATTERN, max_length=60)

    def details(self) -> EntityDetails:
        values: dict[str, Any] = self.model_dump(exclude={"address", "branding"})
        return EntityDetails(
            **values,
            address={
                **self.address.model_dump(exclude_none=True),
                "country": self.address.country or self.country,
            },
            branding=self.branding.model_dump(mode="json", exclude_none=True),
        )


class LegalEntityView(BaseModel):
    id: UUID
    name: str
    country: str
    vat_id: str | None
    tax_number: str | None
    address: Address
    email: str | None
    iban: str | None
    bic: str | None
    accounting_currency: str
    time_zone: str
    small_business: bool
    payment_terms_days: int
    draft_hours: int
    reminder_days: list[int]
    is_default: bool
    branding: Branding
    number_pattern: str
    version: int

    @classmethod
    def of(cls, entity: LegalEntity, pattern: str) -> Self:
        return cls(
            id=entity.id,
            name=entity.name,
            country=entity.country,
            vat_id=entity.vat_id,
            tax_number=entity.tax_number,
            address=Address.model_validate(entity.address),
            email=entity.email,
            iban=entity.iban,
            bic=entity.bic,
            accounting_currency=entity.accounting_currency,
            time_zone=entity.time_zone,
            small_business=entity.small_business,
            payment_terms_days=entity.payment_terms_days,
            draft_hours=entity.draft_hours,
            reminder_days=entity.reminder_days,
            is_default=entity.is_default,
            branding=Branding.model_validate(entity.branding),
            number_pattern=pattern,
            version=entity.version,
        )


@router.get("", dependencies=[for_staff()])
async def list_legal_entities(query: Query, page: Paging) -> Page[LegalEntityView]:
    """Who issues invoices (staff)."""
    async with query.begin() as uow:
        found = await queries.list_legal_entities(uow, page)
        patterns = await queries.patterns_of(uow, found)
        return page.page(
            found,
            lambda entity: LegalEntityView.of(entity, patterns[entity.id]),
            lambda entity: entity.id,
        )


@router.get(
    "/{entity_id}",
    response_model=LegalEntityView,
    responses=problems(LegalEntityNotFound),
    dependencies=[for_staff()],
)
async def read_legal_entity(entity_id: UUID, query: Query) -> Response:
    """One of them (staff)."""
    async with query.begin() as uow:
        entity = await queries.read_legal_entity(uow, entity_id)
        patterns = await queries.patterns_of(uow, [entity])
        return query.reply(LegalEntityView.of(entity, patterns[entity.id]))


@router.post(
    "",
    status_code=201,
    response_model=LegalEntityView,
    responses=problems(BadNumberPattern, VatNumberInvalid),
    dependencies=[for_staff("finance")],
)
async def add_legal_entity(request: LegalEntityRequest, command: Command) -> Response:
    """Add one, with number series of its own (staff)."""
    async with command.begin() as uow:
        entity = await create_legal_entity(uow, request.details(), at=command.now)
        uow.audit("legal_entity.add", entity.id)
        view = LegalEntityView.of(entity, request.number_pattern)
        return await command.answer(uow, view, status=201)


@router.put(
    "/{entity_id}",
    response_model=LegalEntityView,
    responses=problems(LegalEntityNotFound, BadNumberPattern, VatNumberInvalid, PreconditionFailed),
    dependencies=[for_staff("finance")],
)
async def put_legal_entity(
    entity_id: UUID, request: LegalEntityRequest, command: Command
) -> Response:
    """Change it from the next document on (staff); issued documents keep what they have."""
    async with command.begin() as uow:
        entity = await queries.read_legal_entity(uow, entity_id)
        command.require_version(entity.version)
        entity = await change_legal_entity(uow, entity_id, request.details())
        uow.audit("legal_entity.change", entity.id)
        return await command.answer(uow, LegalEntityView.of(entity, request.number_pattern))
