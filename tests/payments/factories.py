"""Things to test with; only what a test is about is named."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from services.payments.domain.payments import Attempt, Payment
from shared.context import Cause, new_traceparent
from shared.events.invoicing import (
    CreditNoteIssued,
    InvoiceFinalized,
    InvoicePaid,
    InvoicePartlyPaid,
    InvoiceVoided,
)
from shared.events.subscriptions import DunningPolicy
from shared.ids import new_id
from shared.money import Money

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
EUR = "EUR"


def a_payment(**given: Any) -> Payment:
    usual: dict[str, Any] = {
        "id": new_id(),
        "account_id": new_id(),
        "invoice_id": new_id(),
        "subscription_id": new_id(),
        "amount": 1999,
        "currency": EUR,
        "billing_reason": "subscription_cycle",
        "payment_method_id": None,
        "dunning_days": [1, 3, 5, 7],
        "dunning_then": "cancel",
        "cause": Cause("a-request", new_traceparent()).kept(),
        "created_at": NOW,
    }
    return Payment(**{**usual, **given})


def an_attempt(payment: Payment, **given: Any) -> Attempt:
    usual: dict[str, Any] = {
        "provider": "sandbox",
        "method_id": new_id(),
        "owner": "me",
        "at": NOW,
        "real_now": NOW,
        "longest_call": timedelta(seconds=5),
    }
    return Attempt.begin(payment, **{**usual, **given})


def an_invoice_finalized(**given: Any) -> InvoiceFinalized:
    amount = Money(given.pop("amount", 1999), given.pop("currency", EUR))
    usual: dict[str, Any] = {
        "occurred_at": NOW,
        "account_id": new_id(),
        "sequence": 1,
        "invoice_id": new_id(),
        "subscription_id": new_id(),
        "number": "INV-2026-000001",
        "total": amount,
        "amount_due": amount,
        "due_at": NOW,
        "billing_reason": "subscription_cycle",
        "dunning": DunningPolicy(),
    }
    return InvoiceFinalized.model_validate({**usual, **given})


def an_invoice_paid(
    finalized: InvoiceFinalized, *, payment_id: UUID | None = None, at: datetime | None = None
) -> InvoicePaid:
    return InvoicePaid(
        occurred_at=at or finalized.occurred_at,
        account_id=finalized.account_id,
        sequence=finalized.sequence + 1,
        invoice_id=finalized.invoice_id,
        subscription_id=finalized.subscription_id,
        number=finalized.number,
        total=finalized.total,
        amount_paid=finalized.amount_due,
        billing_reason=finalized.billing_reason,
        payment_id=payment_id,
    )


def an_invoice_partly_paid(finalized: InvoiceFinalized, amount: int) -> InvoicePartlyPaid:
    return InvoicePartlyPaid(
        occurred_at=finalized.occurred_at,
        account_id=finalized.account_id,
        sequence=finalized.sequence + 1,
        invoice_id=finalized.invoice_id,
        subscription_id=finalized.subscription_id,
        number=finalized.number,
        amount_received=Money(amount, finalized.amount_due.currency),
        amount_remaining=finalized.amount_due - Money(amount, finalized.amount_due.currency),
    )


def an_invoice_voided(finalized: InvoiceFinalized) -> InvoiceVoided:
    return InvoiceVoided(
        occurred_at=finalized.occurred_at,
        account_id=finalized.account_id,
        sequence=finalized.sequence + 1,
        invoice_id=finalized.invoice_id,
        subscription_id=finalized.subscription_id,
    )


def a_credit_note_issued(finalized: InvoiceFinalized, *, refund: Money) -> CreditNoteIssued:
    return CreditNoteIssued(
        occurred_at=finalized.occurred_at,
        account_id=finalized.account_id,
        sequence=1,
        credit_note_id=new_id(),
        invoice_id=finalized.invoice_id,
        subscription_id=finalized.subscription_id,
        number="CN-2026-000001",
        total=refund,
        refund=refund,
        credit=Money.zero(refund.currency),
    )
