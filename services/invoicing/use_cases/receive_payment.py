"""Count money toward an invoice, or keep it for the account when the invoice needs it not."""

from datetime import datetime
from uuid import UUID

from services.invoicing.domain.account import CreditKind
from services.invoicing.domain.invoice import Invoice, Status
from services.invoicing.domain.payment import Means, ReceivedPayment
from services.invoicing.repository import InvoicingUnitOfWork
from services.invoicing.use_cases.take_back import give_when_paid
from shared.errors import Invalid
from shared.money import Money


class PaymentCurrencyMismatch(Invalid):
    code = "payment-currency-mismatch"


async def receive_payment(
    uow: InvoicingUnitOfWork,
    invoice_id: UUID,
    *,
    payment_id: UUID,
    amount: Money,
    means: Means,
    at: datetime,
    reference: str | None = None,
) -> Invoice:
    """Money that comes twice counts once; what is too much becomes account credit.

    What a provider took and the invoice does not need (it was closed, or paid in part, while the
    charge was under way) is sent back by payments, which hears of that: it must not become credit
    as well.
    """
    invoice = await uow.invoices.get(invoice_id)
    if await uow.receipts.find(payment_id):
        return invoice
    if amount.currency != invoice.currency:
        raise PaymentCurrencyMismatch(
            f"The invoice is in {invoice.currency}, the money in {amount.currency}.",
            field="currency",
        )
    owed = invoice.status in (Status.OPEN, Status.UNCOLLECTIBLE)
    applied = min(amount.amount, invoice.amount_remaining) if owed else 0
    if applied:
        provider_payment = payment_id if means is Means.PROVIDER else None
        uow.emit(invoice.receive(applied, at=at, payment_id=provider_payment))
        await give_when_paid(uow, invoice, at=at)
    uow.receipts.add(
        ReceivedPayment(
            id=payment_id,
            account_id=invoice.account_id,
            invoice_id=invoice.id,
            means=means,
            amount=amount.amount,
            applied=applied,
            received_at=at,
            reference=reference,
        )
    )
    if applied < amount.amount and means is Means.OFFLINE:
        await uow.credits.add(
            invoice.account_id,
            invoice.currency,
            amount.amount - applied,
            CreditKind.OVERPAID,
            at=at,
            invoice_id=invoice.id,
        )
    return invoice
