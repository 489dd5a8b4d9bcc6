"""Dated exchange rates."""

from datetime import date
from decimal import Decimal
from typing import Annotated, Self
from uuid import UUID

from fastapi import Response
from pydantic import BaseModel, StringConstraints

from services.invoicing import queries
from services.invoicing.api.edge import Command, Paging, Query
from services.invoicing.api.views import plain
from services.invoicing.domain.exchange import ExchangeRate, ExchangeRateExists
from services.invoicing.use_cases.set_exchange_rate import set_exchange_rate
from shared.errors import Invalid
from shared.money import Currency
from shared.web import Page, RequestModel, Router, for_staff, problems

router = Router(prefix="/v1/exchange-rates", tags=["exchange rates"])


class ExchangeRateRequest(RequestModel):
    """One unit of `base` is `rate` units of `quote` on that day."""

    base: Currency
    quote: Currency
    rate: Annotated[str, StringConstraints(pattern=r"^\d{1,12}(\.\d{1,12})?$")]
    on: date


class ExchangeRateView(BaseModel):
    id: UUID
    base: str
    quote: str
    rate: str
    on: date
    source: str

    @classmethod
    def of(cls, rate: ExchangeRate) -> Self:
        return cls(
            id=rate.id,
            base=rate.base,
            quote=rate.quote,
            rate=plain(rate.rate),
            on=rate.on,
            source=rate.source,
        )


@router.get("")
async def list_exchange_rates(
    query: Query, page: Paging, base: str | None = None, quote: str | None = None
) -> Page[ExchangeRateView]:
    """Rates on file, the last added first."""
    async with query.begin() as uow:
        found = await queries.list_exchange_rates(uow, page, base=base, quote=quote)
        return page.page(found, ExchangeRateView.of, lambda rate: rate.id)


@router.post(
    "",
    status_code=201,
    response_model=ExchangeRateView,
    responses=problems(ExchangeRateExists, Invalid),
    dependencies=[for_staff("finance")],
)
async def add_exchange_rate(request: ExchangeRateRequest, command: Command) -> Response:
    """Put a rate on file (staff). A day's rate is never replaced: invoices may have used it."""
    async with command.begin() as uow:
        rate = await set_exchange_rate(
            uow,
            base=request.base,
            quote=request.quote,
            rate=Decimal(request.rate),
            on=request.on,
        )
        view = ExchangeRateView.of(rate)
        uow.audit("exchange_rate.add", view.id, after=view.model_dump(mode="json"))
        return await command.answer(uow, view, status=201)
