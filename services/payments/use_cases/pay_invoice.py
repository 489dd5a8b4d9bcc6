"""Pay an invoice because somebody asks for it now."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from services.payments.domain.methods import OwedStatus, PaymentMethodNotFound
from services.payments.domain.payments import (
    COLLECTIBLE,
    PaymentNotCollectible,
    PaymentNotFound,
    PaymentStatus,
)
from services.payments.repository import PaymentsUnitOfWork
from services.payments.traffic import Traffic
from services.payments.use_cases.collect_payments import (
    Claim,
    choose_method,
    claim_payment,
    may_go,
    methods_of,
)


@dataclass(frozen=True, slots=True)
class Paying:
    """The payment, and the charge that the caller is to send; None: one is under way."""

    payment_id: UUID
    claim: Claim | None


async def pay_invoice(
    uow: PaymentsUnitOfWork,
    invoice_id: UUID,
    *,
    method_id: UUID | None,
    owner: str,
    traffic: Traffic,
    real_now: datetime,
) -> Paying:
    """Claim the invoice's payment for the caller to send, unless it is under way already.

    While the provider is left alone or can take no more, the payment is due at once instead, and
    a worker sends it first of all.

    Raises `PaymentNotFound` for an invoice that was never to be collected, and
    `PaymentNotCollectible` once nothing is owed.
    """
    payment = await uow.payments.find_for_invoice(invoice_id)
    if payment is None:
        raise PaymentNotFound("There is nothing to pay on such an invoice.")
    now = await uow.now(payment.account_id)
    invoice = await uow.read_invoice(invoice_id)
    if payment.status is PaymentStatus.SUCCEEDED:
        raise PaymentNotCollectible("This invoice is paid.")
    if payment.cancel_requested or payment.status is PaymentStatus.CANCELED:
        raise PaymentNotCollectible("Nothing is owed on this invoice any more.")
    if invoice is not None and invoice.status not in (OwedStatus.OPEN, OwedStatus.UNCOLLECTIBLE):
        raise PaymentNotCollectible(f"This invoice is {invoice.status}.")
    attached = (await methods_of(uow, [payment])).get(payment.account_id, [])
    if method_id is not None:
        if method_id not in {method.id for method in attached}:
            raise PaymentMethodNotFound("There is no such payment method.")
        payment.payment_method_id = method_id
    if payment.status is PaymentStatus.REQUIRES_ACTION and method_id is not None:
        # Another method: the one that waits for the payer is given up first.
        payment.ask_now(at=now)
        uow.wake("collect_due")
        return Paying(payment.id, None)
    if payment.status not in COLLECTIBLE:
        return Paying(payment.id, None)
    method = choose_method(payment, attached)
    payment.is_urgent = True
    if method is not None and not may_go(method, payment, traffic):
        payment.ask_now(at=now)
        uow.wake("collect_due")
        return Paying(payment.id, None)
    claim = await claim_payment(uow, payment, method, owner=owner, at=now, real_now=real_now)
    return Paying(payment.id, claim)
