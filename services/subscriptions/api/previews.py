"""What a preview answers: the charges that would be made, and the invoices that they come to."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import takewhile
from typing import Any, Self
from uuid import UUID

from pydantic import BaseModel, ConfigDict

from services.subscriptions.invoicing_client import InvoicingClient, PricedBill, invoicing_of
from services.subscriptions.use_cases.preview_subscription import Preview, Told
from shared.events.subscriptions import (
    Billable,
    Charge,
    Discount,
    SubscriptionChangeLapsed,
    TakeBack,
)
from shared.money import Money
from shared.web import Reading

NOT_PRICED = PricedBill()


class AsInvoiced(BaseModel):
    """What invoicing answered, all of it; these are the fields that a preview is read for."""

    model_config = ConfigDict(extra="allow")


class PricedLine(AsInvoiced):
    """One line as the invoice will have it."""

    kind: str
    description: str
    quantity: str
    unit_amount: str
    amount: Money
    discount: Money
    net: Money
    period_start: datetime
    period_end: datetime
    subscription_id: UUID | None
    price_id: UUID | None
    tax_rate: str
    why: dict[str, Any]


class PricedTax(AsInvoiced):
    """Tax of one (category, rate)."""

    category: str
    rate: str
    taxable: Money
    tax: Money
    why: str


class PricedInvoice(AsInvoiced):
    """An invoice as it would be made, with every field of `GET /v1/invoices/{id}`."""

    subscription_id: UUID | None
    subscription_ids: list[UUID]
    billing_reason: str
    currency: str
    lines: list[PricedLine]
    subtotal: Money
    discount: Money
    net: Money
    tax: Money
    taxes: list[PricedTax]
    total: Money
    credit_applied: Money
    amount_due: Money
    finalizes_at: datetime | None


class PricedCreditNote(AsInvoiced):
    """A credit note as it would be issued, with every field of `GET /v1/credit-notes/{id}`."""

    invoice_id: UUID
    net: Money
    tax: Money
    total: Money
    credit: Money
    refund: Money


class NextInvoiceView(BaseModel):
    """The next invoice: what it would charge if nothing else happens.

    `invoice` is the whole of it, with what waits for it and what the account's other
    subscriptions have on it; null where nothing will be invoiced.
    """

    at: datetime
    period_start: datetime
    period_end: datetime
    charges: list[Charge]
    take_backs: list[TakeBack]
    discounts: list[Discount]
    subtotal: int
    invoice: PricedInvoice | None
    credit_notes: list[PricedCreditNote]


class PreviewView(BaseModel):
    """What a change would do now, and the invoice after it.

    `charges` and `subtotal` are before discount and tax, and without what is taken back;
    `invoice` and `credit_notes` are what would be made of them now.
    """

    event: str | None
    effective_at: datetime | None
    invoice_now: bool
    charges: list[Charge]
    take_backs: list[TakeBack]
    discounts: list[Discount]
    subtotal: int
    currency: str
    invoice: PricedInvoice | None
    credit_notes: list[PricedCreditNote]
    next_invoice: NextInvoiceView | None

    @classmethod
    def of(cls, preview: Preview, currency: str, priced: "Priced") -> Self:
        event = preview.now
        billable = event if isinstance(event, Billable) else None
        charges = list(billable.charges) if billable else []
        return cls(
            event=None if event is None else event.name,
            effective_at=None
            if event is None
            else getattr(event, "effective_at", event.occurred_at),
            invoice_now=bool(charges) and is_billed_at_once(preview),
            charges=charges,
            take_backs=list(billable.take_backs) if billable else [],
            discounts=list(billable.discounts) if billable else [],
            subtotal=_sum(charges),
            currency=currency,
            invoice=invoice_view(priced.now),
            credit_notes=_notes(priced.now),
            next_invoice=_next(preview, priced.next),
        )


@dataclass(frozen=True)
class Priced:
    """What invoicing would make of a preview now, and next."""

    now: PricedBill = NOT_PRICED
    next: PricedBill = NOT_PRICED


def is_billed_at_once(preview: Preview) -> bool:
    """Whether what is billed now is not left for the next invoice."""
    return bool(getattr(preview.now, "invoice_now", True))


async def price_preview(query: Reading[Any], preview: Preview, account_id: UUID) -> Priced:
    """Ask invoicing, where this installation has said where it is. In no transaction."""
    client = invoicing_of(query.runtime.own)
    if not client.is_known:
        return Priced()
    headers = headers_for(query, account_id)
    now, priced_now = preview.now, NOT_PRICED
    if isinstance(now, Billable) and bills(now) and is_billed_at_once(preview):
        so_far = takewhile(lambda event: event is not now, preview.before)
        lapsed = [event for event in so_far if isinstance(event, SubscriptionChangeLapsed)]
        priced_now = await client.preview([*lapsed, now], headers)
    return Priced(priced_now, await price_next(client, preview, headers))


async def price_next(
    client: InvoicingClient, preview: Preview, headers: dict[str, str]
) -> PricedBill:
    """What is billed next, after what is billed now: its credit is used, what waits is taken in."""
    if preview.next is None:
        return NOT_PRICED
    before = [event for event in preview.before if bills(event)]
    together = [event for event in preview.together if bills(event)]
    priced = await client.preview([*before, *together, preview.next], headers)
    if together and not _is_of_several(priced):
        # Not an account that wants one invoice for all: the others have invoices of their own.
        return await client.preview([*before, preview.next], headers)
    return priced


def headers_for(query: Reading[Any], account_id: UUID) -> dict[str, str]:
    """By what invoicing knows who asks, from where, and for which account."""
    client = query.request.client
    return {
        "Authorization": query.request.headers["Authorization"],
        "Perennial-Account": str(account_id),
        # As the gateway tells it: a key may be bound to addresses.
        **({"X-Forwarded-For": client.host} if client else {}),
    }


def bills(event: Told) -> bool:
    """Whether invoicing makes something of it."""
    return isinstance(event, SubscriptionChangeLapsed) or bool(event.charges or event.take_backs)


def invoice_view(priced: PricedBill) -> PricedInvoice | None:
    return PricedInvoice.model_validate(priced.invoice) if priced.invoice else None


def _is_of_several(priced: PricedBill) -> bool:
    return priced.invoice is not None and len(priced.invoice["subscription_ids"]) > 1


def _notes(priced: PricedBill) -> list[PricedCreditNote]:
    return [PricedCreditNote.model_validate(note) for note in priced.credit_notes]


def _next(preview: Preview, priced: PricedBill) -> NextInvoiceView | None:
    if preview.next is None or preview.next_at is None:
        return None
    on_it = [*preview.waiting, preview.next]
    charges = [charge for one in on_it for charge in one.charges]
    return NextInvoiceView(
        at=preview.next_at,
        period_start=preview.next.period_start,
        period_end=preview.next.period_end,
        charges=charges,
        take_backs=[taken for one in on_it for taken in one.take_backs],
        discounts=[discount for one in on_it for discount in _own(one, len(on_it))],
        subtotal=_sum(charges),
        invoice=invoice_view(priced),
        credit_notes=_notes(priced),
    )


def _own(bill: Billable, bills_beside: int) -> Sequence[Discount]:
    """Its discounts, which name its charges where others stand beside them."""
    if bills_beside == 1:
        return bill.discounts
    of_it = tuple(charge.id for charge in bill.charges)
    return [
        discount.model_copy(update={"charge_ids": discount.charge_ids or of_it})
        for discount in bill.discounts
    ]


def _sum(charges: Sequence[Charge]) -> int:
    return sum(charge.amount for charge in charges)
