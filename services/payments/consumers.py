"""What payments does when another service reports something."""

from services.payments.repository import PaymentsUnitOfWork
from services.payments.use_cases.refund_payments import refund_for_credit_note
from services.payments.use_cases.take_up_invoice import (
    leave_invoice,
    owe_less,
    take_up_invoice,
)
from shared.clock import utc_now
from shared.events.invoicing import (
    CreditNoteIssued,
    InvoiceFinalized,
    InvoiceMarkedUncollectible,
    InvoicePaid,
    InvoicePartlyPaid,
    InvoiceReduced,
    InvoiceVoided,
)
from shared.messaging.consumers import Consumers

consumers = Consumers("payments")

Followed = (
    InvoiceFinalized
    | InvoicePartlyPaid
    | InvoiceReduced
    | InvoicePaid
    | InvoiceVoided
    | InvoiceMarkedUncollectible
)


@consumers.handler(
    on=[
        InvoiceFinalized,
        InvoicePartlyPaid,
        InvoiceReduced,
        InvoicePaid,
        InvoiceVoided,
        InvoiceMarkedUncollectible,
    ],
    ordered="invoice",
)
async def collect_invoice(uow: PaymentsUnitOfWork, event: Followed) -> None:
    """What is owed on a finalized invoice is collected; paid, voided or given up, it is not."""
    if isinstance(event, InvoiceFinalized):
        await take_up_invoice(uow, event)
    elif isinstance(event, InvoicePartlyPaid | InvoiceReduced):
        await owe_less(uow, event)
    else:
        await leave_invoice(uow, event, real_now=utc_now())


@consumers.handler(on=[CreditNoteIssued])
async def refund_credit_note(uow: PaymentsUnitOfWork, event: CreditNoteIssued) -> None:
    """What a credit note gives back goes back. Commutative: each note is sent back once."""
    await refund_for_credit_note(uow, event, real_now=utc_now())
