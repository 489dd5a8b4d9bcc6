"""What payments reports."""

from datetime import datetime
from typing import ClassVar, Literal
from uuid import UUID

from shared.events.base import Event
from shared.money import Money

DeclineClass = Literal["retry_later", "new_card", "stop"]
RefundReason = Literal["requested", "credit_note", "surplus"]


class PaymentMethodEvent(Event):
    subject_field: ClassVar[str] = "payment_method_id"

    payment_method_id: UUID


class PaymentMethodAttached(PaymentMethodEvent):
    """The account can pay with it."""

    name: ClassVar[str] = "payment_method.attached"

    provider: str
    is_default: bool


class PaymentMethodDetached(PaymentMethodEvent):
    """The account cannot pay with it any more."""

    name: ClassVar[str] = "payment_method.detached"


class PaymentMethodUpdated(PaymentMethodEvent):
    """The card network sent a new expiry date."""

    name: ClassVar[str] = "payment_method.updated"

    exp_month: int
    exp_year: int


class PaymentMethodExpiring(PaymentMethodEvent):
    """The card that renewals are charged to expires within a month."""

    name: ClassVar[str] = "payment_method.expiring"

    exp_month: int
    exp_year: int


class PaymentEvent(Event):
    subject_field: ClassVar[str] = "payment_id"

    payment_id: UUID
    invoice_id: UUID
    subscription_id: UUID | None = None
    amount: Money


class PaymentCreated(PaymentEvent):
    """An invoice is to be collected."""

    name: ClassVar[str] = "payment.created"


class PaymentSucceeded(PaymentEvent):
    """The provider has taken the money."""

    name: ClassVar[str] = "payment.succeeded"

    provider: str
    attempts: int


class PaymentFailed(PaymentEvent):
    """An attempt was declined. Without `retries_at` nothing more is tried by itself."""

    name: ClassVar[str] = "payment.failed"

    decline_class: DeclineClass
    decline_code: str
    attempts: int
    retries_at: datetime | None = None


class PaymentActionRequired(PaymentEvent):
    """The payer has to confirm it with their bank."""

    name: ClassVar[str] = "payment.action_required"

    attempts: int
    action_url: str | None = None


class PaymentArrivedLate(PaymentEvent):
    """The money came after the invoice was voided or paid otherwise; it goes back by itself."""

    name: ClassVar[str] = "payment.arrived_late"

    provider: str


class PaymentCanceled(PaymentEvent):
    """Nothing is to be collected any more, and nothing was taken."""

    name: ClassVar[str] = "payment.canceled"


class DunningEvent(Event):
    subject_field: ClassVar[str] = "dunning_id"

    dunning_id: UUID
    payment_id: UUID
    invoice_id: UUID
    subscription_id: UUID | None = None


class DunningStarted(DunningEvent):
    """A renewal was not paid; it will be asked for again."""

    name: ClassVar[str] = "dunning.started"

    decline_class: DeclineClass
    retries_at: datetime | None = None


class DunningRecovered(DunningEvent):
    """The money came after all."""

    name: ClassVar[str] = "dunning.recovered"


class DunningExhausted(DunningEvent):
    """Asking again came to nothing; the plan's policy says what follows."""

    name: ClassVar[str] = "dunning.exhausted"

    then: Literal["cancel", "unpaid", "pause"]


class RefundEvent(Event):
    subject_field: ClassVar[str] = "refund_id"

    refund_id: UUID
    payment_id: UUID
    invoice_id: UUID
    subscription_id: UUID | None = None
    amount: Money
    #: The credit note that ordered it; without one, no document tells of it yet.
    credit_note_id: UUID | None = None


class RefundCreated(RefundEvent):
    """Money is to go back."""

    name: ClassVar[str] = "refund.created"

    reason: RefundReason


class RefundSucceeded(RefundEvent):
    """The money is on its way back. `surplus` is money that no invoice took."""

    name: ClassVar[str] = "refund.succeeded"

    reason: RefundReason | None = None


class RefundFailed(RefundEvent):
    """The provider did not send it back; a person has to look."""

    name: ClassVar[str] = "refund.failed"

    reason: str


class DisputeEvent(Event):
    subject_field: ClassVar[str] = "dispute_id"

    dispute_id: UUID
    payment_id: UUID
    invoice_id: UUID
    subscription_id: UUID | None = None
    amount: Money


class DisputeOpened(DisputeEvent):
    """The payer's bank took the money back for now."""

    name: ClassVar[str] = "dispute.opened"

    reason: str


class DisputeWon(DisputeEvent):
    """The money is the operator's after all."""

    name: ClassVar[str] = "dispute.won"

    reason: str | None = None


class DisputeLost(DisputeEvent):
    """The money is gone for good."""

    name: ClassVar[str] = "dispute.lost"

    reason: str | None = None
