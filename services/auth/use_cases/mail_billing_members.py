"""Write to those in an account who deal with its bills."""

from datetime import date, datetime
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

from sqlalchemy.dialects.postgresql import insert as upsert

from services.auth import tables
from services.auth.domain.accounts import Account
from services.auth.domain.mail import Mail, SettledInvoice, Template
from services.auth.domain.roles import BILLED
from services.auth.repository import AuthUnitOfWork
from shared.clock import utc_now
from shared.events.base import Event
from shared.events.invoicing import CreditNoteIssued, InvoicePaid
from shared.events.payments import (
    DunningExhausted,
    PaymentActionRequired,
    PaymentFailed,
    PaymentMethodExpiring,
)
from shared.events.subscriptions import SubscriptionCanceled, SubscriptionTrialWillEnd

#: What the plan's policy means for the reader.
OUTCOMES = {
    "cancel": "Your subscription has ended.",
    "unpaid": "Your subscription is kept, without service until the invoice is paid.",
    "pause": "Your subscription is paused until the invoice is paid.",
}


async def mail_about_invoice(uow: AuthUnitOfWork, event: InvoicePaid | CreditNoteIssued) -> None:
    """A receipt, or a credit note. Nothing for an invoice over nothing."""
    if isinstance(event, InvoicePaid):
        if event.total.amount == 0:
            return
        await uow.session.execute(
            upsert(tables.settled_invoices)
            .values(
                invoice_id=event.invoice_id,
                account_id=event.account_id,
                settled_at=event.occurred_at,
            )
            .on_conflict_do_nothing()
        )
    template = Template.INVOICE_PAID
    if isinstance(event, CreditNoteIssued):
        template = Template.CREDIT_NOTE_ISSUED
    await _mail(
        uow,
        event,
        template,
        number=event.number,
        total=str(event.total),
        invoice_id=str(event.invoice_id),
    )


async def mail_about_payment(
    uow: AuthUnitOfWork, event: PaymentFailed | PaymentActionRequired | DunningExhausted
) -> None:
    """What to do about money that did not come, unless it has come meanwhile."""
    if await uow.session.get(SettledInvoice, event.invoice_id) is not None:
        return
    invoice_id = str(event.invoice_id)
    if isinstance(event, DunningExhausted):
        await _mail(
            uow,
            event,
            Template.DUNNING_EXHAUSTED,
            next_step=OUTCOMES[event.then],
            invoice_id=invoice_id,
        )
    elif isinstance(event, PaymentActionRequired):
        await _mail(
            uow,
            event,
            Template.PAYMENT_ACTION_REQUIRED,
            amount=str(event.amount),
            payment_id=str(event.payment_id),
        )
    elif event.decline_class == "new_card":
        await _mail(
            uow, event, Template.CARD_NEEDED, amount=str(event.amount), invoice_id=invoice_id
        )
    else:
        next_step = "Pay the invoice, or add another way to pay."
        if event.retries_at is not None:
            day = await _day(uow, event.account_id, event.retries_at)
            next_step = f"We try again on {day}. Adding another way to pay has it tried at once."
        await _mail(
            uow,
            event,
            Template.PAYMENT_FAILED,
            amount=str(event.amount),
            next_step=next_step,
            invoice_id=invoice_id,
        )


async def mail_about_card(uow: AuthUnitOfWork, event: PaymentMethodExpiring) -> None:
    """The card that renewals are charged to expires soon."""
    await _mail(
        uow,
        event,
        Template.CARD_EXPIRES,
        month=f"{date(event.exp_year, event.exp_month, 1):%B %Y}",
        payment_method_id=str(event.payment_method_id),
    )


async def mail_about_subscription(
    uow: AuthUnitOfWork, event: SubscriptionTrialWillEnd | SubscriptionCanceled
) -> None:
    subscription_id = str(event.subscription_id)
    if isinstance(event, SubscriptionCanceled):
        await _mail(
            uow,
            event,
            Template.SUBSCRIPTION_CANCELED,
            plan=event.plan_name,
            day=await _day(uow, event.account_id, event.effective_at),
            subscription_id=subscription_id,
        )
    else:
        await _mail(
            uow,
            event,
            Template.TRIAL_WILL_END,
            day=await _day(uow, event.account_id, event.trial_end),
            subscription_id=subscription_id,
        )


async def _mail(uow: AuthUnitOfWork, event: Event, template: Template, **facts: Any) -> None:
    """One mail to each owner and billing member; to the account's own address without any.

    A repeat of the event is not seen here.
    """
    dated = {"dated": event.occurred_at, "at": utc_now()}
    members = await uow.memberships.list_of_account(event.account_id, roles=BILLED)
    for member in members:
        uow.mail(Mail.to_user(member.user_id, template, **dated, **facts))
    account = await uow.session.get(Account, event.account_id)
    if not members and account is not None and account.email is not None:
        uow.mail(Mail.to_address(account.email, template, **dated, **facts))


async def _day(uow: AuthUnitOfWork, account_id: UUID, at: datetime) -> str:
    """The day in the account's time zone, in words."""
    account = await uow.session.get(Account, account_id)
    zone = ZoneInfo(account.time_zone) if account else ZoneInfo("UTC")
    return f"{at.astimezone(zone):%-d %B %Y}"
