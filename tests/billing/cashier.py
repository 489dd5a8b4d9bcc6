"""Stands in for payments: collects an account's invoices by a card that does as it is told.

It reports what payments would, with the same sequences, in the account's time, and keeps what a
person at the bank would see: what was taken, sent back and held. It talks to no provider.
"""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Literal
from uuid import UUID

from shared.events import Event
from shared.events.auth import AccountClosed
from shared.events.invoicing import (
    CreditNoteIssued,
    InvoiceEvent,
    InvoiceFinalized,
    InvoiceMarkedUncollectible,
    InvoicePaid,
    InvoicePartlyPaid,
    InvoiceReduced,
    InvoiceVoided,
)
from shared.events.payments import (
    DisputeLost,
    DisputeOpened,
    DisputeWon,
    DunningExhausted,
    DunningRecovered,
    DunningStarted,
    PaymentArrivedLate,
    PaymentCanceled,
    PaymentCreated,
    PaymentFailed,
    PaymentMethodAttached,
    PaymentSucceeded,
    RefundCreated,
    RefundSucceeded,
)
from shared.ids import new_id
from shared.money import Money


class Card(StrEnum):
    """What the account's card does when it is asked for money."""

    PAYS = "pays"
    DECLINES = "declines"  # for now: it is asked again as the plan's dunning says
    STOPS = "stops"  # for good
    WAITS = "waits"  # an answer comes when somebody says so


#: What begins once it is paid: nobody is asked again for it.
PAID_FIRST = {"subscription_start", "subscription_pending_change"}


class CannotGoBack(Exception):
    """A credit note orders more back than the payment has."""


@dataclass(eq=False, kw_only=True)
class Payment:
    """One invoice being collected."""

    id: UUID
    finalized: InvoiceFinalized
    amount: int
    #: What is still to be paid of the invoice; an attempt that is under way keeps its amount.
    owed: int
    status: Literal["failed", "processing", "succeeded", "canceled"] = "failed"
    due_at: datetime | None = None
    retries: int = 0
    attempts: int = 0
    #: The invoice was closed while an attempt was under way.
    cancel_requested: bool = False
    #: Sent back, or on its way.
    refunded: int = 0
    #: Of it, what no invoice wanted.
    surplus: int = 0
    disputed: int = 0
    lost: int = 0
    sequence: int = 0
    dunning_id: UUID | None = None
    dunning: Literal["running", "exhausted", "over"] = "running"
    dunning_sequence: int = 0

    @property
    def invoice_id(self) -> UUID:
        return self.finalized.invoice_id

    @property
    def left(self) -> int:
        """What may still go back."""
        return self.amount - self.refunded - self.disputed - self.lost


@dataclass(eq=False, kw_only=True)
class Dispute:
    id: UUID
    payment: Payment
    amount: int
    sequence: int = 0


@dataclass(eq=False, kw_only=True)
class Cashier:
    """`post` sends an event to the services; `now` is the account's time."""

    account_id: UUID
    post: Callable[[Event], None]
    now: datetime
    card: Card = Card.PAYS
    payments: dict[UUID, Payment] = field(default_factory=dict)
    disputes: list[Dispute] = field(default_factory=list)
    _heard: dict[UUID, int] = field(default_factory=dict)
    _early: dict[UUID, dict[int, InvoiceEvent]] = field(default_factory=lambda: defaultdict(dict))
    _notes: list[CreditNoteIssued] = field(default_factory=list)
    _refunded_notes: set[UUID] = field(default_factory=set)
    _closed: bool = False

    def attach_card(self, card: Card = Card.PAYS) -> None:
        """The account has a way to pay."""
        self.card = card
        self.post(
            PaymentMethodAttached(
                **self._facts(1), payment_method_id=new_id(), provider="sandbox", is_default=True
            )
        )

    # ---- what invoicing reports -------------------------------------------------------------

    def hear(self, event: Event) -> None:
        """Follow an invoice, strictly in its sequence; and send back what credit notes order."""
        if isinstance(event, CreditNoteIssued):
            self._notes.append(event)
        elif isinstance(event, InvoiceEvent):
            waiting = self._early[event.invoice_id]
            waiting[event.sequence] = event
            last = self._heard.get(event.invoice_id, 0)
            while (following := waiting.pop(last + 1, None)) is not None:
                last += 1
                self._heard[event.invoice_id] = last
                self._follow(following)
        elif isinstance(event, AccountClosed):
            self._closed = True
        for note in list(self._notes):
            if self._send_back(note):
                self._notes.remove(note)

    def _follow(self, event: InvoiceEvent) -> None:
        payment = self.payments.get(event.invoice_id)
        match event:
            case InvoiceFinalized():
                self._take_up(event)
            case InvoicePartlyPaid() | InvoiceReduced() if payment is not None:
                payment.owed = event.amount_remaining.amount
                if payment.status == "failed":
                    payment.amount = payment.owed
            case InvoiceMarkedUncollectible() if payment is not None:
                payment.due_at = None
            case InvoicePaid() | InvoiceVoided() if payment is not None:
                self._leave(payment, event)
            case _:
                pass

    def _take_up(self, event: InvoiceFinalized) -> None:
        if event.amount_due.amount <= 0:
            return
        due = event.amount_due.amount
        payment = Payment(id=new_id(), finalized=event, amount=due, owed=due)
        self.payments[event.invoice_id] = payment
        self._report(PaymentCreated, payment)
        if event.collect_automatically:
            payment.due_at = event.occurred_at

    def _leave(self, payment: Payment, event: InvoicePaid | InvoiceVoided) -> None:
        payment.due_at = None
        if payment.status == "succeeded":
            by_us = isinstance(event, InvoicePaid) and event.payment_id == payment.id
            self._return_surplus(payment, payment.amount - (payment.owed if by_us else 0))
        elif payment.status == "processing":
            payment.cancel_requested = True
            payment.dunning = "over"
        elif payment.status == "failed":
            payment.status = "canceled"
            payment.dunning = "over"
            self._report(PaymentCanceled, payment)

    def _send_back(self, note: CreditNoteIssued) -> bool:
        """The refund that a note orders; False while the news of its invoice is on its way."""
        amount = note.refund.amount
        if amount <= 0 or note.credit_note_id in self._refunded_notes:
            return True
        payment = self.payments.get(note.invoice_id)
        if payment is None and note.invoice_id not in self._heard:
            return False
        if payment is None or payment.status != "succeeded" or payment.left < amount:
            left = payment.left if payment else 0
            raise CannotGoBack(f"{note.number} orders {amount} back, and {left} is left.")
        self._refunded_notes.add(note.credit_note_id)
        self._refund(payment, amount, "credit_note", credit_note_id=note.credit_note_id)
        return True

    # ---- what time and people do ------------------------------------------------------------

    @property
    def next_due(self) -> datetime | None:
        dues = [payment.due_at for payment in self.payments.values()]
        return min((due for due in dues if due is not None), default=None)

    def collect_due(self) -> bool:
        """Ask the card for what is due; whether there was anything."""
        due = [
            payment
            for payment in self.payments.values()
            if payment.due_at is not None and payment.due_at <= self.now
        ]
        for payment in due:
            self._attempt(payment)
        return bool(due)

    def pay(self, payment: Payment) -> bool:
        """Somebody pays by hand, with the card as it is."""
        if payment.status != "failed":
            return False
        planned, payment.due_at = payment.due_at, None
        self._attempt(payment, planned=planned)
        return True

    def answer(self, payment: Payment, *, paid: bool) -> bool:
        """The answer to an attempt that was under way."""
        if payment.status != "processing":
            return False
        self._succeed(payment) if paid else self._decline(payment)
        return True

    def refund_by_hand(self, payment: Payment, amount: int) -> bool:
        """Staff send money back, without a credit note."""
        if payment.status != "succeeded" or not 0 < amount <= payment.left:
            return False
        self._refund(payment, amount, "requested")
        return True

    def dispute(self, payment: Payment, amount: int) -> bool:
        """The payer's bank takes money back for now."""
        if payment.status != "succeeded" or not 0 < amount <= payment.left:
            return False
        dispute = Dispute(id=new_id(), payment=payment, amount=amount)
        self.disputes.append(dispute)
        payment.disputed += amount
        self._report_dispute(DisputeOpened, dispute)
        return True

    def decide(self, dispute: Dispute, *, won: bool) -> None:
        self.disputes.remove(dispute)
        dispute.payment.disputed -= dispute.amount
        if not won:
            dispute.payment.lost += dispute.amount
        self._report_dispute(DisputeWon if won else DisputeLost, dispute)

    # ---- attempts ---------------------------------------------------------------------------

    def _attempt(self, payment: Payment, *, planned: datetime | None = None) -> None:
        payment.due_at = None
        payment.attempts += 1
        payment.status = "processing"
        match self.card:
            case Card.PAYS:
                self._succeed(payment)
            case Card.WAITS:
                pass
            case Card.DECLINES | Card.STOPS:
                self._decline(payment, planned=planned)

    def _succeed(self, payment: Payment) -> None:
        payment.status = "succeeded"
        if payment.cancel_requested:
            self._report(PaymentArrivedLate, payment, provider="sandbox")
            self._return_surplus(payment, payment.amount)
            return
        self._report(PaymentSucceeded, payment, provider="sandbox", attempts=payment.attempts)
        if payment.dunning_id is not None and payment.dunning != "over":
            payment.dunning = "over"
            self._report_dunning(DunningRecovered, payment)

    def _decline(self, payment: Payment, *, planned: datetime | None = None) -> None:
        if payment.cancel_requested:
            payment.status = "canceled"
            self._report(PaymentCanceled, payment)
            return
        payment.status = "failed"
        payment.amount = payment.owed
        stops = self.card is Card.STOPS
        dunned = payment.finalized.billing_reason not in PAID_FIRST
        days = payment.finalized.dunning.days
        retries_at = None
        if dunned and not stops and planned is not None:
            retries_at = max(planned, self.now)
        elif dunned and not stops and payment.retries < len(days):
            retries_at = self.now + timedelta(days=days[payment.retries])
            payment.retries += 1
        payment.due_at = retries_at
        decline_class = "stop" if stops else "retry_later"
        self._report(
            PaymentFailed,
            payment,
            decline_class=decline_class,
            decline_code="declined",
            attempts=payment.attempts,
            retries_at=retries_at,
        )
        if not dunned:
            return
        if payment.dunning_id is None:
            payment.dunning_id = new_id()
            self._report_dunning(
                DunningStarted, payment, decline_class=decline_class, retries_at=retries_at
            )
        if retries_at is None and payment.dunning == "running":
            payment.dunning = "exhausted"
            self._report_dunning(DunningExhausted, payment, then=payment.finalized.dunning.then)

    # ---- reports ----------------------------------------------------------------------------

    def _return_surplus(self, payment: Payment, amount: int) -> None:
        amount = min(amount, payment.left)
        if amount > 0:
            payment.surplus += amount
            self._refund(payment, amount, "surplus")

    def _refund(
        self, payment: Payment, amount: int, reason: str, *, credit_note_id: UUID | None = None
    ) -> None:
        payment.refunded += amount
        facts: dict[str, Any] = {
            "refund_id": new_id(),
            "payment_id": payment.id,
            "invoice_id": payment.invoice_id,
            "subscription_id": payment.finalized.subscription_id,
            "amount": Money(amount, payment.finalized.amount_due.currency),
            "credit_note_id": credit_note_id,
            "reason": reason,
        }
        self.post(RefundCreated.model_validate({**self._facts(1), **facts}))
        self.post(RefundSucceeded.model_validate({**self._facts(2), **facts}))

    def _report(self, kind: type[Event], payment: Payment, **more: Any) -> None:
        payment.sequence += 1
        facts = {
            "payment_id": payment.id,
            "invoice_id": payment.invoice_id,
            "subscription_id": payment.finalized.subscription_id,
            "amount": Money(payment.amount, payment.finalized.amount_due.currency),
        }
        self.post(kind.model_validate({**self._facts(payment.sequence), **facts, **more}))

    def _report_dunning(self, kind: type[Event], payment: Payment, **more: Any) -> None:
        payment.dunning_sequence += 1
        facts = {
            "dunning_id": payment.dunning_id,
            "payment_id": payment.id,
            "invoice_id": payment.invoice_id,
            "subscription_id": payment.finalized.subscription_id,
        }
        self.post(kind.model_validate({**self._facts(payment.dunning_sequence), **facts, **more}))

    def _report_dispute(self, kind: type[Event], dispute: Dispute) -> None:
        dispute.sequence += 1
        facts = {
            "dispute_id": dispute.id,
            "payment_id": dispute.payment.id,
            "invoice_id": dispute.payment.invoice_id,
            "subscription_id": dispute.payment.finalized.subscription_id,
            "amount": Money(dispute.amount, dispute.payment.finalized.amount_due.currency),
            "reason": "fraudulent",
        }
        self.post(kind.model_validate({**self._facts(dispute.sequence), **facts}))

    def _facts(self, sequence: int) -> dict[str, Any]:
        return {"occurred_at": self.now, "account_id": self.account_id, "sequence": sequence}
