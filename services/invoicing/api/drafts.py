"""Invoices by hand: drafting, changing, finalizing, making a voided one again."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Annotated, Literal, Self
from uuid import UUID

from fastapi import Response
from pydantic import Field, StringConstraints, model_validator

from services.invoicing.api.billing_details import Text
from services.invoicing.api.edge import Command, KeyedCommand
from services.invoicing.api.views import InvoiceView
from services.invoicing.domain.account import AccountNotFound
from services.invoicing.domain.invoice import (
    IllegalInvoiceTransition,
    InvoiceFrozen,
    InvoiceNotFound,
    InvoiceReissuedAlready,
    NothingToInvoice,
)
from services.invoicing.use_cases.draft_invoice import (
    NewInvoice,
    NewLine,
    change_draft,
    draft_invoice,
    finalize_draft,
    reissue_invoice,
)
from shared.errors import BadRequest, PreconditionFailed
from shared.events.subscriptions import Discount
from shared.ids import new_id
from shared.money import AmountTooLarge, Currency, require_billable
from shared.tax_category import TaxCategory
from shared.web import RequestModel, Router, for_staff, problems

router = Router(prefix="/v1/invoices", tags=["invoices"])

DecimalText = Annotated[str, StringConstraints(pattern=r"^-?\d{1,15}(\.\d{1,12})?$")]


class LineRequest(RequestModel):
    """`unit_amount` is minor units per quantity as a decimal string; below zero is a credit."""

    description: Text
    quantity: Annotated[str, StringConstraints(pattern=r"^\d{1,12}(\.\d{1,6})?$")] = "1"
    unit_amount: DecimalText
    tax_category: TaxCategory = "standard"
    tax_behavior: Literal["exclusive", "inclusive"] = "exclusive"
    period_start: datetime | None = None
    period_end: datetime | None = None

    @model_validator(mode="after")
    def _period(self) -> Self:
        if self.period_start and self.period_end and self.period_end < self.period_start:
            raise ValueError("a period ends after it begins")
        return self

    def line(self, now: datetime) -> NewLine:
        start = self.period_start or min(now, self.period_end or now)
        return NewLine(
            description=self.description,
            quantity=Decimal(self.quantity),
            unit_amount=Decimal(self.unit_amount),
            tax_category=self.tax_category,
            tax_behavior=self.tax_behavior,
            period_start=start,
            period_end=self.period_end or start,
        )


def billable_lines(lines: Sequence[LineRequest], now: datetime) -> list[NewLine]:
    """The lines as they are to be charged. Raises `AmountTooLarge` where they come to too much."""
    found = [line.line(now) for line in lines]
    require_billable(sum(abs(line.exact) for line in found), field="lines")
    return found


class DiscountRequest(RequestModel):
    """A percentage (decimal string) or a fixed amount (minor units) over all lines."""

    description: Text
    percent: Annotated[str, StringConstraints(pattern=r"^\d{1,2}(\.\d{1,4})?$|^100$")] | None = None
    amount: int | None = Field(None, gt=0)

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if (self.percent is None) == (self.amount is None):
            raise ValueError("give a percent or an amount")
        return self

    def discount(self, currency: str) -> Discount:
        return Discount(
            coupon_id=new_id(),
            code=self.description,
            description=self.description,
            percent=self.percent,
            amount=self.amount,
            currency=currency if self.amount is not None else None,
        )


class InvoiceRequest(RequestModel):
    """An invoice by hand; with `draft` it waits to be looked at, else it is finalized at once.

    A draft with `finalize_after_hours` is finalized by itself.
    """

    account_id: UUID | None = Field(None, description="Or the header Perennial-Account.")
    currency: Currency
    lines: list[LineRequest] = Field(min_length=1, max_length=1000)
    discount: DiscountRequest | None = None
    memo: Annotated[str, StringConstraints(max_length=2000)] | None = None
    subscription_id: UUID | None = None
    payment_terms_days: int | None = Field(None, ge=0, le=365)
    collect_automatically: bool = True
    draft: bool = False
    finalize_after_hours: int | None = Field(None, ge=0, le=24 * 90)


class DraftChanges(RequestModel):
    """What is left out stays."""

    lines: list[LineRequest] | None = Field(None, min_length=1, max_length=1000)
    memo: Annotated[str, StringConstraints(max_length=2000)] | None = None


@router.post(
    "",
    status_code=201,
    response_model=InvoiceView,
    responses=problems(AccountNotFound, NothingToInvoice, AmountTooLarge, BadRequest),
    dependencies=[for_staff("finance")],
)
async def add_invoice(request: InvoiceRequest, command: KeyedCommand) -> Response:
    """Invoice an account by hand (staff)."""
    if request.discount and request.discount.amount:
        require_billable(request.discount.amount, field="discount.amount")
    async with command.begin() as uow:
        account_id = request.account_id or command.scope.account_id
        if account_id is None:
            raise BadRequest("Say which account: account_id, or the header Perennial-Account.")
        now = await uow.now(account_id)
        finalizes_at = None
        if request.draft and request.finalize_after_hours is not None:
            finalizes_at = now + timedelta(hours=request.finalize_after_hours)
        new = NewInvoice(
            account_id=account_id,
            currency=request.currency,
            lines=billable_lines(request.lines, now),
            discounts=[request.discount.discount(request.currency)] if request.discount else [],
            memo=request.memo,
            subscription_id=request.subscription_id,
            payment_terms_days=request.payment_terms_days,
            collect_automatically=request.collect_automatically,
            finalizes_at=finalizes_at,
        )
        invoice = await draft_invoice(uow, new, at=now)
        if not request.draft:
            await finalize_draft(uow, invoice, at=now)
            await uow.number_invoices()
        uow.audit("invoice.add", invoice.id, account_id=account_id, after={"total": invoice.total})
        return await command.answer(uow, InvoiceView.of(invoice), status=201)


@router.patch(
    "/{invoice_id}",
    response_model=InvoiceView,
    responses=problems(
        InvoiceNotFound, InvoiceFrozen, NothingToInvoice, AmountTooLarge, PreconditionFailed
    ),
    dependencies=[for_staff("finance")],
)
async def change_invoice(invoice_id: UUID, request: DraftChanges, command: Command) -> Response:
    """Change a draft (staff). A finalized invoice never changes."""
    async with command.begin() as uow:
        invoice = await uow.invoices.get(invoice_id)
        command.require_version(invoice.version)
        now = await uow.now(invoice.account_id)
        lines = billable_lines(request.lines, now) if request.lines else None
        await change_draft(uow, invoice, lines=lines, memo=request.memo)
        uow.audit("invoice.change", invoice_id, account_id=invoice.account_id)
        return await command.answer(uow, InvoiceView.of(invoice))


@router.post(
    "/{invoice_id}/finalize",
    response_model=InvoiceView,
    responses=problems(InvoiceNotFound, InvoiceFrozen, PreconditionFailed),
    dependencies=[for_staff("finance")],
)
async def finalize(invoice_id: UUID, command: Command) -> Response:
    """Number a draft and freeze it: from here on it is owed (staff)."""
    async with command.begin() as uow:
        invoice = await uow.invoices.get(invoice_id)
        command.require_version(invoice.version)
        await finalize_draft(uow, invoice, at=await uow.now(invoice.account_id))
        await uow.number_invoices()
        uow.audit(
            "invoice.finalize",
            invoice_id,
            account_id=invoice.account_id,
            after={"number": invoice.number, "total": invoice.total},
        )
        return await command.answer(uow, InvoiceView.of(invoice))


@router.post(
    "/{invoice_id}/reissue",
    status_code=201,
    response_model=InvoiceView,
    responses=problems(InvoiceNotFound, IllegalInvoiceTransition, InvoiceReissuedAlready),
    dependencies=[for_staff("finance")],
)
async def reissue(invoice_id: UUID, command: KeyedCommand) -> Response:
    """A draft with the lines of a voided invoice, to correct and finalize (staff); once."""
    async with command.begin() as uow:
        voided = await uow.invoices.get(invoice_id)
        invoice = await reissue_invoice(uow, invoice_id, at=await uow.now(voided.account_id))
        uow.audit("invoice.reissue", invoice.id, account_id=invoice.account_id)
        return await command.answer(uow, InvoiceView.of(invoice), status=201)
