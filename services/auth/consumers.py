"""The mails that follow from what other services report."""

from services.auth.repository import AuthUnitOfWork
from services.auth.use_cases.mail_billing_members import (
    mail_about_card,
    mail_about_invoice,
    mail_about_payment,
    mail_about_subscription,
)
from shared.events.invoicing import CreditNoteIssued, InvoicePaid
from shared.events.payments import (
    DunningExhausted,
    PaymentActionRequired,
    PaymentFailed,
    PaymentMethodExpiring,
)
from shared.events.subscriptions import SubscriptionCanceled, SubscriptionTrialWillEnd
from shared.messaging.consumers import Consumers

consumers = Consumers("auth")


@consumers.handler(on=[InvoicePaid, CreditNoteIssued])
async def mail_receipts(uow: AuthUnitOfWork, event: InvoicePaid | CreditNoteIssued) -> None:
    """A receipt once the money is there. Commutative: each event is a mail of its own."""
    await mail_about_invoice(uow, event)


@consumers.handler(on=[PaymentFailed, PaymentActionRequired, DunningExhausted])
async def mail_payment_troubles(
    uow: AuthUnitOfWork, event: PaymentFailed | PaymentActionRequired | DunningExhausted
) -> None:
    """What the account has to do about a payment.

    Commutative: an invoice that is paid already gets no such mail, however late the event comes.
    """
    await mail_about_payment(uow, event)


@consumers.handler(on=[PaymentMethodExpiring])
async def mail_expiring_card(uow: AuthUnitOfWork, event: PaymentMethodExpiring) -> None:
    """A month before renewals would fail. Commutative: each event is a mail of its own."""
    await mail_about_card(uow, event)


@consumers.handler(on=[SubscriptionTrialWillEnd, SubscriptionCanceled])
async def mail_subscription_changes(
    uow: AuthUnitOfWork, event: SubscriptionTrialWillEnd | SubscriptionCanceled
) -> None:
    """A trial that ends, a subscription that ended. Commutative: each is a mail of its own."""
    await mail_about_subscription(uow, event)
