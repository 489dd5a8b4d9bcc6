"""Money that goes back: refunds that we send, disputes that a bank decides."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from uuid import UUID

from services.payments.domain.payments import ASK_AFTER, Payment, ask_again_at
from shared.events.payments import (
    DisputeLost,
    DisputeOpened,
    DisputeWon,
    RefundCreated,
    RefundFailed,
    RefundSucceeded,
)
from shared.ids import new_id
from shared.money import Money


class RefundStatus(StrEnum):
    PENDING = "pending"  # to be sent, or its answer was lost
    SUCCEEDED = "succeeded"
    FAILED = "failed"  # it was refused, or the money came back


class RefundReason(StrEnum):
    REQUESTED = "requested"  # by staff
    CREDIT_NOTE = "credit_note"
    SURPLUS = "surplus"  # no invoice wanted the money


@dataclass(eq=False, kw_only=True)
class Refund:
    """One amount on its way back. Its id is the idempotency key."""

    id: UUID
    account_id: UUID
    payment_id: UUID
    invoice_id: UUID
    subscription_id: UUID | None
    provider: str
    #: The provider's name of the charge.
    charge: str
    amount: int
    currency: str
    reason: RefundReason
    at: datetime
    created_at: datetime
    #: When it is sent or asked about next, in real time; None: done, or a person has to look.
    ask_at: datetime | None
    #: The credit note that ordered it, once.
    credit_note_id: UUID | None = None
    status: RefundStatus = RefundStatus.PENDING
    asked: int = 0
    reference: str | None = None
    failure: str | None = None
    #: When a failed one was seen to: it was sent again, or its money went another way.
    attended_at: datetime | None = None
    version: int = 0

    @classmethod
    def of(
        cls,
        payment: Payment,
        *,
        charge: str,
        amount: int,
        reason: RefundReason,
        at: datetime,
        real_now: datetime,
        credit_note_id: UUID | None = None,
        disputed: int = 0,
    ) -> "Refund":
        """Reserve the amount of the payment and make the refund. Raises `RefundAboveCharge`."""
        payment.reserve_refund(amount, disputed=disputed)
        return cls(
            id=new_id(),
            account_id=payment.account_id,
            payment_id=payment.id,
            invoice_id=payment.invoice_id,
            subscription_id=payment.subscription_id,
            provider=str(payment.provider),
            charge=charge,
            amount=amount,
            currency=payment.currency,
            reason=reason,
            at=at,
            created_at=real_now,
            ask_at=real_now,
            credit_note_id=credit_note_id,
        )

    @property
    def money(self) -> Money:
        return Money(self.amount, self.currency)

    def create(self, *, at: datetime) -> RefundCreated:
        return RefundCreated.model_validate(self._facts(at) | {"reason": self.reason.value})

    def succeed(self, *, at: datetime, reference: str) -> RefundSucceeded:
        self.status = RefundStatus.SUCCEEDED
        self.reference = reference
        self.ask_at = None
        return RefundSucceeded.model_validate(self._facts(at) | {"reason": self.reason.value})

    def fail(self, *, at: datetime, reason: str) -> RefundFailed:
        self.status = RefundStatus.FAILED
        self.failure = reason
        self.ask_at = None
        return RefundFailed.model_validate({**self._facts(at), "reason": reason})

    def postpone(self, *, real_now: datetime) -> bool:
        """Nothing is known: ask again later. False once a person has to look."""
        if self.asked >= len(ASK_AFTER):
            self.ask_at = None
            return False
        self.ask_at = ask_again_at(self.id, self.asked, real_now)
        self.asked += 1
        return True

    @property
    def is_forgotten(self) -> bool:
        """Whether it failed and nobody has seen to it."""
        return self.status is RefundStatus.FAILED and self.attended_at is None

    def _facts(self, at: datetime) -> dict[str, object]:
        self.version += 1
        return {
            "occurred_at": at,
            "account_id": self.account_id,
            "sequence": self.version,
            "refund_id": self.id,
            "payment_id": self.payment_id,
            "invoice_id": self.invoice_id,
            "subscription_id": self.subscription_id,
            "amount": self.money,
            "credit_note_id": self.credit_note_id,
        }


class DisputeStatus(StrEnum):
    OPEN = "open"
    WON = "won"
    LOST = "lost"


@dataclass(eq=False, kw_only=True)
class Dispute:
    """A payer's bank took money back; it decides later whether for good."""

    id: UUID
    account_id: UUID
    payment_id: UUID
    invoice_id: UUID
    subscription_id: UUID | None
    provider: str
    reference: str
    amount: int
    currency: str
    fee: int
    reason: str
    opened_at: datetime
    status: DisputeStatus = DisputeStatus.OPEN
    closed_at: datetime | None = None
    version: int = 0

    @property
    def money(self) -> Money:
        return Money(self.amount, self.currency)

    def open(self, *, at: datetime) -> DisputeOpened:
        return DisputeOpened.model_validate(self._facts(at) | {"reason": self.reason})

    def close(self, *, won: bool, at: datetime) -> DisputeWon | DisputeLost:
        self.status = DisputeStatus.WON if won else DisputeStatus.LOST
        self.closed_at = at
        kind = DisputeWon if won else DisputeLost
        return kind.model_validate(self._facts(at) | {"reason": self.reason})

    def _facts(self, at: datetime) -> dict[str, object]:
        self.version += 1
        return {
            "occurred_at": at,
            "account_id": self.account_id,
            "sequence": self.version,
            "dispute_id": self.id,
            "payment_id": self.payment_id,
            "invoice_id": self.invoice_id,
            "subscription_id": self.subscription_id,
            "amount": self.money,
        }
