"""Money that came for an invoice, by a provider or by hand, and money that goes back."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Self
from uuid import UUID

from shared.events.payments import (
    DisputeEvent,
    DisputeLost,
    DisputeOpened,
    DisputeWon,
    RefundCreated,
    RefundEvent,
    RefundFailed,
    RefundSucceeded,
)


class Means(StrEnum):
    """How the money came."""

    PROVIDER = "provider"
    OFFLINE = "offline"


@dataclass(eq=False, kw_only=True)
class ReceivedPayment:
    """One receipt; its id is the payment's, so that the same money counts once.

    `applied` went to the invoice, the rest of `amount` to the account's credit.
    """

    id: UUID
    account_id: UUID
    invoice_id: UUID
    means: Means
    amount: int
    applied: int
    received_at: datetime
    reference: str | None = None


class ReturnKind(StrEnum):
    """How money goes back."""

    REFUND = "refund"  # sent by us
    DISPUTE = "dispute"  # taken by the payer's bank


class ReturnState(StrEnum):
    PENDING = "pending"  # a refund on its way, a dispute that is not decided
    RETURNED = "returned"  # the payer has it
    KEPT = "kept"  # a refund that failed, a dispute that was won


#: Why a refund is sent; money that no invoice wanted never counted as paid.
SURPLUS = "surplus"

_STATES: dict[str, ReturnState] = {
    RefundCreated.name: ReturnState.PENDING,
    RefundSucceeded.name: ReturnState.RETURNED,
    RefundFailed.name: ReturnState.KEPT,
    DisputeOpened.name: ReturnState.PENDING,
    DisputeLost.name: ReturnState.RETURNED,
    DisputeWon.name: ReturnState.KEPT,
}


@dataclass(eq=False, kw_only=True)
class ReturnedPayment:
    """Money of an invoice that goes back, gathered from the events of payments in any order.

    Its id is the refund's or the dispute's, so that the same money counts once.
    """

    id: UUID
    account_id: UUID
    invoice_id: UUID
    payment_id: UUID
    kind: ReturnKind
    amount: int
    created_at: datetime
    state: ReturnState = ReturnState.PENDING
    #: The last event that was taken in; an older one changes no state.
    sequence: int = 0
    #: Why a refund was made; not known before its first event has come.
    reason: str | None = None
    #: The credit note that ordered the refund.
    credit_note_id: UUID | None = None
    failure: str | None = None

    @classmethod
    def of(cls, event: RefundEvent | DisputeEvent) -> Self:
        refund = isinstance(event, RefundEvent)
        return cls(
            id=event.subject,
            account_id=event.account_id,
            invoice_id=event.invoice_id,
            payment_id=event.payment_id,
            kind=ReturnKind.REFUND if refund else ReturnKind.DISPUTE,
            amount=event.amount.amount,
            created_at=event.occurred_at,
        )

    def take_in(self, event: RefundEvent | DisputeEvent) -> None:
        """Follow the refund or the dispute; what came before in time changes no state."""
        if isinstance(event, RefundEvent):
            self.credit_note_id = self.credit_note_id or event.credit_note_id
        if isinstance(event, RefundCreated):
            self.reason = event.reason
        if isinstance(event, RefundFailed):
            self.failure = event.reason
        if event.sequence > self.sequence:
            self.sequence = event.sequence
            self.state = _STATES[event.name]

    @property
    def counts(self) -> bool:
        """Whether it is about money that the invoice was paid with."""
        if self.kind is ReturnKind.DISPUTE or self.credit_note_id:
            return True
        return self.reason not in (None, SURPLUS)


@dataclass(frozen=True, kw_only=True)
class Returns:
    """What all refunds and disputes of an invoice come to."""

    #: The payer has it back.
    returned: int = 0
    #: The payer's bank holds it until the dispute is decided.
    disputed: int = 0
    #: Of both, what no credit note ordered: refunds by hand, also on their way, and lost disputes.
    unnoted: int = 0

    @classmethod
    def of(cls, all_of_invoice: Iterable[ReturnedPayment]) -> Self:
        returned = disputed = unnoted = 0
        for one in all_of_invoice:
            if not one.counts or one.state is ReturnState.KEPT:
                continue
            back = one.state is ReturnState.RETURNED
            returned += one.amount if back else 0
            if one.kind is ReturnKind.DISPUTE and not back:
                disputed += one.amount
            elif one.credit_note_id is None:
                unnoted += one.amount
        return cls(returned=returned, disputed=disputed, unnoted=unnoted)
