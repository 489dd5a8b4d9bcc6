"""Invoices: reading them, and the moves that staff make by hand."""

from datetime import datetime
from typing import Annotated
from uuid import UUID

from fastapi import Query as Param
from fastapi import Response
from pydantic import Field

from services.invoicing import queries
from services.invoicing.api.edge import Command, Listing, Paging, Query
from services.invoicing.api.views import InvoiceView
from services.invoicing.domain.invoice import IllegalInvoiceTransition, InvoiceNotFound, Status
from services.invoicing.domain.payment import Means
from services.invoicing.use_cases.give_up_invoice import give_up_invoice
from services.invoicing.use_cases.receive_payment import receive_payment
from services.invoicing.use_cases.void_invoice import void_invoice
from shared.errors import Invalid, PreconditionFailed
from shared.ids import new_id
from shared.money import AmountTooLarge, Money, require_billable
from shared.web import Instant, Page, RequestModel, Router, for_staff, problems

router = Router(prefix="/v1/invoices", tags=["invoices"])


class MarkPaidRequest(RequestModel):
    """Money that came by another way. Without `amount`, all that is still owed."""

    amount: int | None = Field(None, gt=0, description="Minor units of the invoice's currency.")
    reference: str | None = Field(None, max_length=200)
    received_at: datetime | None = None


@router.get("")
async def list_invoices(
    *,
    query: Listing,
    page: Paging,
    status: Status | None = None,
    subscription_id: UUID | None = None,
    created_from: Annotated[Instant | None, Param(alias="from")] = None,
    created_to: Annotated[Instant | None, Param(alias="to")] = None,
    q: Annotated[str | None, Param(max_length=200)] = None,
) -> Page[InvoiceView]:
    """Invoices, newest first. `q` searches numbers, names and line texts."""
    async with query.begin() as uow:
        found = await queries.list_invoices(
            uow,
            page,
            status=status,
            subscription_id=subscription_id,
            created_from=created_from,
            created_to=created_to,
            q=q,
        )
        return page.page(found, InvoiceView.of, lambda invoice: invoice.id)


@router.get("/{invoice_id}", response_model=InvoiceView, responses=problems(InvoiceNotFound))
async def read_invoice(invoice_id: UUID, query: Query) -> Response:
    """One invoice with its lines and why each is there."""
    async with query.begin() as uow:
        return query.reply(InvoiceView.of(await queries.read_invoice(uow, invoice_id)))


@router.post(
    "/{invoice_id}/void",
    response_model=InvoiceView,
    responses=problems(InvoiceNotFound, IllegalInvoiceTransition, PreconditionFailed),
    dependencies=[for_staff("finance")],
)
async def void(invoice_id: UUID, command: Command) -> Response:
    """Take back an open invoice (staff). Its number stays used, its credit is returned."""
    async with command.begin() as uow:
        invoice, _ = await uow.invoices.with_those_it_takes_from(invoice_id)
        command.require_version(invoice.version)
        await void_invoice(uow, invoice_id, at=await uow.now(invoice.account_id))
        uow.audit("invoice.void", invoice_id, account_id=invoice.account_id)
        return await command.answer(uow, InvoiceView.of(invoice))


@router.post(
    "/{invoice_id}/mark-uncollectible",
    response_model=InvoiceView,
    responses=problems(InvoiceNotFound, IllegalInvoiceTransition, PreconditionFailed),
    dependencies=[for_staff("finance")],
)
async def mark_uncollectible(invoice_id: UUID, command: Command) -> Response:
    """Expect the money no more (staff). It still counts when it comes."""
    async with command.begin() as uow:
        invoice = await uow.invoices.get(invoice_id)
        command.require_version(invoice.version)
        await give_up_invoice(uow, invoice_id, at=await uow.now(invoice.account_id))
        uow.audit("invoice.mark_uncollectible", invoice_id, account_id=invoice.account_id)
        return await command.answer(uow, InvoiceView.of(invoice))


@router.post(
    "/{invoice_id}/mark-paid",
    response_model=InvoiceView,
    responses=problems(
        InvoiceNotFound, IllegalInvoiceTransition, AmountTooLarge, Invalid, PreconditionFailed
    ),
    dependencies=[for_staff("finance")],
)
async def mark_paid(invoice_id: UUID, request: MarkPaidRequest, command: Command) -> Response:
    """Count money that came another way (staff): all that is owed, or a part of it."""
    require_billable(request.amount or 0, field="amount")
    async with command.begin() as uow:
        invoice = await uow.invoices.get(invoice_id)
        command.require_version(invoice.version)
        now = await uow.now(invoice.account_id)
        if invoice.status not in (Status.OPEN, Status.UNCOLLECTIBLE):
            raise IllegalInvoiceTransition(f"An invoice that is {invoice.status} is not owed.")
        amount = request.amount or invoice.amount_remaining
        if amount > invoice.amount_remaining:
            raise Invalid("That is more than is owed on this invoice.", field="amount")
        await receive_payment(
            uow,
            invoice_id,
            payment_id=new_id(),
            amount=Money(amount, invoice.currency),
            means=Means.OFFLINE,
            at=request.received_at or now,
            reference=request.reference,
        )
        uow.audit(
            "invoice.mark_paid",
            invoice_id,
            account_id=invoice.account_id,
            after={"amount": amount, "status": invoice.status.value},
        )
        return await command.answer(uow, InvoiceView.of(invoice))
