"""Dated tax rates."""

from datetime import date
from decimal import Decimal
from typing import Annotated, Self
from uuid import UUID

from fastapi import Response
from pydantic import BaseModel, StringConstraints

from services.invoicing import queries
from services.invoicing.api.edge import Command, Paging, Query
from services.invoicing.api.views import plain
from services.invoicing.domain.tax import TaxRate, TaxRateOverlaps
from services.invoicing.use_cases.set_tax_rate import NewTaxRate, set_tax_rate
from shared.errors import Invalid
from shared.tax_category import TaxCategory
from shared.web import Page, RequestModel, Router, for_staff, problems

router = Router(prefix="/v1/tax-rates", tags=["tax rates"])


class TaxRateRequest(RequestModel):
    """`rate` is percent as a decimal string; `valid_to` is the first day without it."""

    country: Annotated[str, StringConstraints(pattern=r"^[A-Z]{2}$")]
    category: TaxCategory = "standard"
    rate: Annotated[str, StringConstraints(pattern=r"^\d{1,2}(\.\d{1,4})?$")]
    valid_from: date
    valid_to: date | None = None


class TaxRateView(BaseModel):
    id: UUID
    country: str
    category: str
    rate: str
    valid_from: date
    valid_to: date | None
    source: str

    @classmethod
    def of(cls, rate: TaxRate) -> Self:
        return cls(
            id=rate.id,
            country=rate.country,
            category=rate.category,
            rate=plain(rate.rate),
            valid_from=rate.valid_from,
            valid_to=rate.valid_to,
            source=rate.source,
        )


@router.get("")
async def list_tax_rates(
    query: Query, page: Paging, country: str | None = None, category: str | None = None
) -> Page[TaxRateView]:
    """Rates on file, the last added first."""
    async with query.begin() as uow:
        found = await queries.list_tax_rates(uow, page, country=country, category=category)
        return page.page(found, TaxRateView.of, lambda rate: rate.id)


@router.post(
    "",
    status_code=201,
    response_model=TaxRateView,
    responses=problems(TaxRateOverlaps, Invalid),
    dependencies=[for_staff("finance")],
)
async def add_tax_rate(request: TaxRateRequest, command: Command) -> Response:
    """Put a rate on file (staff). A rate without an end gives way to one that begins later."""
    async with command.begin() as uow:
        new = NewTaxRate(
            country=request.country,
            category=request.category,
            rate=Decimal(request.rate),
            valid_from=request.valid_from,
            valid_to=request.valid_to,
        )
        view = TaxRateView.of(await set_tax_rate(uow, new))
        uow.audit("tax_rate.add", view.id, after=view.model_dump(mode="json"))
        return await command.answer(uow, view, status=201)
