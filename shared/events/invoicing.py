"""What invoicing reports."""

from datetime import datetime
from typing import ClassVar, Literal
from uuid import UUID

from shared.events.base import Event
from shared.events.subscriptions import DunningPolicy
from shared.money import Money

BillingReason = Literal[
    "subscription_start",
    "subscription_cycle",
    "subscription_change",
    "subscription_pending_change",
    "subscription_usage",
    "subscription_cancel",
    "manual",
]


class InvoiceEvent(Event):
    subject_field: ClassVar[str] = "invoice_id"

    invoice_id: UUID
    subscription_id: UUID | None = None
    #: All that a consolidated invoice bills; `subscription_id` is None then.
    subscription_ids: tuple[UUID, ...] = ()
    #: The purchase of tokens that this is the invoice of.
    order_id: UUID | None = None
    #: The change of a subscription that waits for this invoice to be paid.
    change_id: UUID | None = None

    @property
    def subscriptions(self) -> tuple[UUID, ...]:
        """Those that it bills, one or several."""
        return (self.subscription_id,) if self.subscription_id else self.subscription_ids


class InvoiceDrafted(InvoiceEvent):
    """An invoice waits to be finalized, or has grown while it waits; nothing is owed yet."""

    name: ClassVar[str] = "invoice.drafted"


class InvoiceFinalized(InvoiceEvent):
    """Numbered, frozen and owed. `amount_due` is what payments collects."""

    name: ClassVar[str] = "invoice.finalized"

    number: str
    total: Money
    amount_due: Money
    due_at: datetime
    billing_reason: BillingReason
    collect_automatically: bool = True
    payment_method_id: UUID | None = None
    dunning: DunningPolicy = DunningPolicy()
    net: Money | None = None
    tax: Money | None = None
    credit_applied: Money | None = None


class InvoicePaid(InvoiceEvent):
    """Nothing is owed on it any more."""

    name: ClassVar[str] = "invoice.paid"

    number: str
    total: Money
    amount_paid: Money
    billing_reason: BillingReason
    payment_id: UUID | None = None
    #: What credit notes took back before it was paid.
    amount_reduced: Money | None = None


class InvoicePartlyPaid(InvoiceEvent):
    """Money came by another way than a provider, and less than is owed."""

    name: ClassVar[str] = "invoice.partly_paid"

    number: str
    amount_received: Money
    amount_remaining: Money


class InvoiceReduced(InvoiceEvent):
    """A credit note took back a part that was not paid: so much less is owed.

    `amount_remaining` is above zero; what owes nothing any more is reported as paid.
    """

    name: ClassVar[str] = "invoice.reduced"

    number: str
    amount_reduced: Money
    amount_remaining: Money


class InvoiceVoided(InvoiceEvent):
    """Taken back before it was paid; the number stays used."""

    name: ClassVar[str] = "invoice.voided"


class InvoiceMarkedUncollectible(InvoiceEvent):
    """Nobody expects the money any more; it may still come."""

    name: ClassVar[str] = "invoice.marked_uncollectible"


class InvoiceReminderDue(InvoiceEvent):
    """The payer is to be reminded: `days` after the due date, before it when negative."""

    name: ClassVar[str] = "invoice.reminder_due"

    number: str
    amount_remaining: Money
    due_at: datetime
    days: int


class CreditNoteIssued(Event):
    """Part of a finalized invoice was taken back. `refund` is what payments sends back."""

    name: ClassVar[str] = "credit_note.issued"
    subject_field: ClassVar[str] = "credit_note_id"

    credit_note_id: UUID
    invoice_id: UUID
    subscription_id: UUID | None = None
    number: str
    total: Money
    refund: Money
    credit: Money
    #: What had gone back before, without a credit note.
    returned_before: Money | None = None
    #: What of it was not paid yet, and is not owed any more.
    reduction: Money | None = None
