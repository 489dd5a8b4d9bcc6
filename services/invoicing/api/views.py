"""What the API answers with."""

from datetime import date, datetime
from decimal import Decimal
from typing import Any, Self
from uuid import UUID

from pydantic import BaseModel

from services.invoicing.domain.invoice import Invoice, InvoiceLine, Status
from shared.events.invoicing import BillingReason
from shared.money import Money


def plain(value: Decimal) -> str:
    """A decimal number as people write it: 20, not 20.0000 and not 2E+1."""
    return f"{value.normalize():f}" if value else "0"


class SubLineView(BaseModel):
    """One term of a line's sum, such as a tier: `quantity` x `unit_amount` + `flat_amount`.

    All are minor units, unrounded.
    """

    description: str
    quantity: str
    unit_amount: str
    flat_amount: str
    amount: str


class LineView(BaseModel):
    """One amount and why. `unit_amount` is minor units per quantity, unrounded.

    `unit` is what one of `quantity` is called, and `sub_lines` are the terms of the sum where
    there are several. A negative line with `takes_back` takes back that line, of this invoice or
    of an earlier one.
    """

    id: UUID
    kind: str
    description: str
    quantity: str
    unit: str | None
    unit_amount: str
    sub_lines: list[SubLineView]
    amount: Money
    discount: Money
    net: Money
    period_start: datetime
    period_end: datetime
    subscription_id: UUID | None
    price_id: UUID | None
    tax_behavior: str
    tax_category: str
    tax_rate: str
    charge_id: UUID | None
    takes_back: UUID | None
    why: dict[str, Any]

    @classmethod
    def of(cls, line: InvoiceLine, currency: str) -> Self:
        return cls(
            id=line.id,
            kind=line.kind,
            description=line.description,
            quantity=plain(line.quantity),
            unit=line.unit,
            sub_lines=[SubLineView.model_validate(part) for part in line.parts or ()],
            unit_amount=plain(line.unit_amount),
            amount=Money(line.amount, currency),
            discount=Money(line.discount, currency),
            net=Money(line.net, currency),
            period_start=line.period_start,
            period_end=line.period_end,
            subscription_id=line.subscription_id,
            price_id=line.price_id,
            tax_behavior=line.tax_behavior,
            tax_category=line.tax_category,
            tax_rate=plain(line.tax_rate),
            charge_id=line.charge_id,
            takes_back=line.takes_back,
            why=line.why,
        )


class TaxView(BaseModel):
    """Tax of one (category, rate): `category` as in EN 16931 (S, Z, E, AE, G)."""

    category: str
    rate: str
    country: str
    taxable: Money
    tax: Money
    why: str
    exemption_code: str | None
    exemption_reason: str | None

    @classmethod
    def of(cls, group: dict[str, Any], currency: str) -> Self:
        amounts = {name: Money(group[name], currency) for name in ("taxable", "tax")}
        return cls(**{**group, **amounts})


class AccountingView(BaseModel):
    """The invoice in the legal entity's own currency."""

    currency: str
    rate: str
    on: date
    total: Money
    tax: Money


class InvoiceView(BaseModel):
    """`amount_due` is the total less account credit; `amount_remaining` what is still to pay.

    `amount_credited` was taken back by credit notes, and `amount_reduced` of it before it was
    paid; `amount_moved` was taken back by negative lines of later invoices. `amount_returned` the
    payer has back, `amount_disputed` the payer's bank holds until a dispute is decided, and
    `amount_withheld` is taken back then. A voided invoice that was made again names the new one
    in `reissued_as`.

    `subscription_ids` are all subscriptions that it bills. `subscription_id` is null when they
    are several.
    """

    id: UUID
    number: str | None
    status: Status
    account_id: UUID
    subscription_id: UUID | None
    subscription_ids: list[UUID]
    legal_entity_id: UUID
    billing_reason: BillingReason
    currency: str
    lines: list[LineView]
    subtotal: Money
    discount: Money
    net: Money
    tax: Money
    taxes: list[TaxView]
    total: Money
    credit_applied: Money
    amount_due: Money
    amount_paid: Money
    amount_remaining: Money
    amount_credited: Money
    amount_reduced: Money
    amount_moved: Money
    amount_returned: Money
    amount_disputed: Money
    amount_withheld: Money
    reissued_as: UUID | None
    accounting: AccountingView | None
    memo: str | None
    created_at: datetime
    finalizes_at: datetime | None
    issued_at: datetime | None
    due_at: datetime | None
    paid_at: datetime | None
    bill_to: dict[str, Any]
    seller: dict[str, Any]
    collect_automatically: bool
    version: int

    @classmethod
    def of(cls, invoice: Invoice) -> Self:
        def money(amount: int) -> Money:
            return Money(amount, invoice.currency)

        return cls(
            id=invoice.id,
            number=invoice.number,
            status=invoice.status,
            account_id=invoice.account_id,
            subscription_id=invoice.subscription_id,
            subscription_ids=(
                [invoice.subscription_id] if invoice.subscription_id else invoice.subscription_ids
            ),
            legal_entity_id=invoice.legal_entity_id,
            billing_reason=invoice.billing_reason,
            currency=invoice.currency,
            lines=[LineView.of(line, invoice.currency) for line in invoice.lines],
            subtotal=money(invoice.subtotal),
            discount=money(invoice.discount),
            net=money(invoice.net),
            tax=money(invoice.tax),
            taxes=[TaxView.of(group, invoice.currency) for group in invoice.taxes],
            total=money(invoice.total),
            credit_applied=money(invoice.credit_applied),
            amount_due=money(invoice.amount_due),
            amount_paid=money(invoice.amount_paid),
            amount_remaining=money(invoice.amount_remaining),
            amount_credited=money(invoice.amount_credited),
            amount_reduced=money(invoice.amount_reduced),
            amount_moved=money(invoice.amount_moved),
            amount_returned=money(invoice.amount_returned),
            amount_disputed=money(invoice.amount_disputed),
            amount_withheld=money(invoice.amount_withheld),
            reissued_as=invoice.reissued_as,
            accounting=_accounting(invoice),
            memo=invoice.memo,
            created_at=invoice.created_at,
            finalizes_at=invoice.finalizes_at,
            issued_at=invoice.issued_at,
            due_at=invoice.due_at,
            paid_at=invoice.paid_at,
            bill_to=invoice.bill_to,
            seller=invoice.seller,
            collect_automatically=invoice.collect_automatically,
            version=invoice.version,
        )


def _accounting(invoice: Invoice) -> AccountingView | None:
    if invoice.accounting_currency is None or invoice.exchange_rate is None:
        return None
    return AccountingView(
        currency=invoice.accounting_currency,
        rate=plain(invoice.exchange_rate),
        on=invoice.exchange_rate_on or invoice.supplied_on,
        total=Money(invoice.accounting_total or 0, invoice.accounting_currency),
        tax=Money(invoice.accounting_tax or 0, invoice.accounting_currency),
    )
