"""Credit notes: taking back part of a finalized invoice."""

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Literal, Self
from uuid import UUID

from fastapi import Response
from pydantic import BaseModel, Field, StringConstraints, model_validator

from services.invoicing import queries
from services.invoicing.api.edge import KeyedCommand, Listing, Paging, Query
from services.invoicing.api.views import TaxView, plain
from services.invoicing.domain.credit_note import (
    CreditExceedsPaid,
    CreditLineInvalid,
    CreditNote,
    CreditNoteNotFound,
    Settle,
)
from services.invoicing.domain.invoice import InvoiceNotFound
from services.invoicing.domain.payment import ReturnState
from services.invoicing.use_cases.issue_credit_note import NewCreditNote, issue_credit_note
from shared.money import AmountTooLarge, Money, require_billable
from shared.web import Page, RequestModel, Router, for_staff, problems

router = Router(prefix="/v1/credit-notes", tags=["credit notes"])


RefundStatus = Literal["none", "pending", "succeeded", "failed"]
REFUND_STATUS: dict[ReturnState, RefundStatus] = {
    ReturnState.PENDING: "pending",
    ReturnState.RETURNED: "succeeded",
    ReturnState.KEPT: "failed",
}


class CreditLineRequest(RequestModel):
    """`amount` is minor units as the line was charged: with tax for inclusive prices."""

    line_id: UUID
    amount: int = Field(gt=0)


class CreditNoteRequest(RequestModel):
    """By `lines`, by `amount` (minor units, with tax), or with neither all that is left."""

    invoice_id: UUID
    lines: list[CreditLineRequest] | None = Field(None, min_length=1, max_length=1000)
    amount: int | None = Field(None, gt=0)
    reason: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200)]
    settle: Settle = Settle.REFUND

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if self.lines is not None and self.amount is not None:
            raise ValueError("give lines or an amount, not both")
        ids = [line.line_id for line in self.lines or []]
        if len(ids) != len(set(ids)):
            raise ValueError("name each line once")
        return self


class CreditNoteLineView(BaseModel):
    id: UUID
    invoice_line_id: UUID
    description: str
    net: Money
    tax_rate: str
    #: From when it is taken back, and why, where a subscription does it.
    starts_at: datetime | None
    why: dict[str, Any] | None


class CreditNoteView(BaseModel):
    """`refund` goes back by the way the money came, `credit` to the account's credit.

    `reduction` was not paid yet, and is not owed any more. `returned_before` had gone back
    without a credit note; `refund_status` is what became of `refund`.
    """

    id: UUID
    number: str
    account_id: UUID
    invoice_id: UUID
    invoice_number: str
    subscription_id: UUID | None
    legal_entity_id: UUID
    currency: str
    reason: str
    settle: Settle
    lines: list[CreditNoteLineView]
    net: Money
    tax: Money
    taxes: list[TaxView]
    total: Money
    refund: Money
    refund_status: RefundStatus
    credit: Money
    returned_before: Money
    reduction: Money
    issued_at: datetime
    bill_to: dict[str, Any]
    seller: dict[str, Any]
    version: int

    @classmethod
    def of(cls, note: CreditNote, refunds: Mapping[UUID, ReturnState]) -> Self:
        def money(amount: int) -> Money:
            return Money(amount, note.currency)

        return cls(
            id=note.id,
            number=note.number,
            account_id=note.account_id,
            invoice_id=note.invoice_id,
            invoice_number=note.invoice_number,
            subscription_id=note.subscription_id,
            legal_entity_id=note.legal_entity_id,
            currency=note.currency,
            reason=note.reason,
            settle=note.settle,
            lines=[
                CreditNoteLineView(
                    id=line.id,
                    invoice_line_id=line.invoice_line_id,
                    description=line.description,
                    net=money(line.net),
                    tax_rate=plain(line.tax_rate),
                    starts_at=line.starts_at,
                    why=line.why,
                )
                for line in note.lines
            ],
            net=money(note.net),
            tax=money(note.tax),
            taxes=[TaxView.of(group, note.currency) for group in note.taxes],
            total=money(note.total),
            refund=money(note.refund),
            refund_status=_refund_status(note, refunds),
            credit=money(note.credit),
            returned_before=money(note.returned_before),
            reduction=money(note.reduction),
            issued_at=note.issued_at,
            bill_to=note.bill_to,
            seller=note.seller,
            version=note.version,
        )


def _refund_status(note: CreditNote, refunds: Mapping[UUID, ReturnState]) -> RefundStatus:
    if not note.refund:
        return "none"
    return REFUND_STATUS[refunds.get(note.id, ReturnState.PENDING)]


@router.get("")
async def list_credit_notes(
    query: Listing, page: Paging, invoice_id: UUID | None = None
) -> Page[CreditNoteView]:
    """Credit notes, newest first."""
    async with query.begin() as uow:
        found = await queries.list_credit_notes(uow, page, invoice_id=invoice_id)
        refunds = await queries.refunds_of(uow, [note.id for note in found])
        return page.page(found, lambda note: CreditNoteView.of(note, refunds), lambda note: note.id)


@router.get("/{note_id}", response_model=CreditNoteView, responses=problems(CreditNoteNotFound))
async def read_credit_note(note_id: UUID, query: Query) -> Response:
    """One credit note."""
    async with query.begin() as uow:
        note = await queries.read_credit_note(uow, note_id)
        refunds = await queries.refunds_of(uow, [note.id])
        return query.reply(CreditNoteView.of(note, refunds))


@router.post(
    "",
    status_code=201,
    response_model=CreditNoteView,
    responses=problems(InvoiceNotFound, CreditExceedsPaid, CreditLineInvalid, AmountTooLarge),
    dependencies=[for_staff("finance")],
)
async def add_credit_note(request: CreditNoteRequest, command: KeyedCommand) -> Response:
    """Take back part of an invoice (staff): tax as on the original, never more than there is.

    What is not paid is taken back first, and not owed any more; then what was paid.
    """
    for line in request.lines or ():
        require_billable(line.amount, field="lines")
    require_billable(request.amount or 0, field="amount")
    async with command.begin() as uow:
        invoice = await uow.invoices.get(request.invoice_id)
        new = NewCreditNote(
            invoice_id=invoice.id,
            reason=request.reason,
            settle=request.settle,
            lines={line.line_id: line.amount for line in request.lines} if request.lines else None,
            amount=request.amount,
        )
        note = await issue_credit_note(uow, new, at=await uow.now(invoice.account_id))
        uow.audit(
            "credit_note.issue",
            note.id,
            account_id=note.account_id,
            after={"invoice_id": str(invoice.id), "total": note.total, "settle": note.settle},
        )
        return await command.answer(uow, CreditNoteView.of(note, {}), status=201)
