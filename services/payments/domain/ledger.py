"""Double entry: what each movement of money posts, always summing to zero.

Amounts are signed: a debit is positive, a credit negative. The accounts:

- `receivable`: what customers owe. `billed`: its other side, what was invoiced.
- `provider:<name>`: what a provider holds for the operator. `bank`: what it has paid out.
- `clearing`: money that was taken and is not yet matched with a paid invoice; returns to zero.
- `fees`, `refunds`, `dispute_losses`, `write_offs`: what it cost.
- `disputed`: money that a bank took back for the time of a dispute; returns to zero.
- `offline`: what was paid past the providers.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from uuid import UUID

from shared.money import Money

RECEIVABLE = "receivable"
BILLED = "billed"
CLEARING = "clearing"
FEES = "fees"
REFUNDS = "refunds"
DISPUTED = "disputed"
DISPUTE_LOSSES = "dispute_losses"
WRITE_OFFS = "write_offs"
BANK = "bank"
OFFLINE = "offline"


def held_by(provider: str) -> str:
    return f"provider:{provider}"


class EntryKind(StrEnum):
    INVOICE_OWED = "invoice_owed"
    INVOICE_PAID = "invoice_paid"
    INVOICE_PAID_OFFLINE = "invoice_paid_offline"
    INVOICE_VOIDED = "invoice_voided"
    INVOICE_REDUCED = "invoice_reduced"
    CHARGE = "charge"
    REFUND = "refund"
    SURPLUS_REFUND = "surplus_refund"
    REFUND_RETURNED = "refund_returned"
    DISPUTE_OPENED = "dispute_opened"
    DISPUTE_WON = "dispute_won"
    DISPUTE_LOST = "dispute_lost"
    PAYOUT = "payout"
    PAYOUT_RETURNED = "payout_returned"


@dataclass(frozen=True, slots=True)
class Leg:
    account: str
    amount: int


@dataclass(eq=False, kw_only=True)
class LedgerTransaction:
    """A movement, posted once per (kind, reference)."""

    id: UUID
    account_id: UUID | None
    kind: EntryKind
    #: The id of what moved: an attempt, a refund, an invoice, a provider's payout.
    reference: str
    occurred_at: datetime
    recorded_at: datetime


@dataclass(eq=False, kw_only=True)
class LedgerEntry:
    """One leg of a transaction, as stored."""

    id: UUID
    transaction_id: UUID
    account_id: UUID | None
    ledger_account: str
    amount: int
    currency: str
    occurred_at: datetime


@dataclass(frozen=True, slots=True)
class Posting:
    """What is to be posted."""

    kind: EntryKind
    reference: str
    currency: str
    legs: tuple[Leg, ...]

    def __post_init__(self) -> None:
        if sum(leg.amount for leg in self.legs) != 0:
            raise ValueError(f"{self.kind} {self.reference} does not sum to zero")


def _posting(kind: EntryKind, reference: object, currency: str, legs: Iterable[Leg]) -> Posting:
    return Posting(kind, str(reference), currency, tuple(leg for leg in legs if leg.amount))


def invoice_owed(invoice_id: UUID, due: Money) -> Posting:
    legs = [Leg(RECEIVABLE, due.amount), Leg(BILLED, -due.amount)]
    return _posting(EntryKind.INVOICE_OWED, invoice_id, due.currency, legs)


def invoice_paid(invoice_id: UUID, paid: Money) -> Posting:
    """The invoice took the money that was cleared for it."""
    legs = [Leg(CLEARING, paid.amount), Leg(RECEIVABLE, -paid.amount)]
    return _posting(EntryKind.INVOICE_PAID, invoice_id, paid.currency, legs)


def invoice_paid_offline(reference: UUID, paid: Money) -> Posting:
    """`reference` is the invoice, or the event of a part that came."""
    legs = [Leg(OFFLINE, paid.amount), Leg(RECEIVABLE, -paid.amount)]
    return _posting(EntryKind.INVOICE_PAID_OFFLINE, reference, paid.currency, legs)


def invoice_voided(invoice_id: UUID, due: Money) -> Posting:
    legs = [Leg(BILLED, due.amount), Leg(RECEIVABLE, -due.amount)]
    return _posting(EntryKind.INVOICE_VOIDED, invoice_id, due.currency, legs)


def invoice_reduced(reference: UUID, reduced: Money) -> Posting:
    """A credit note took back what was not paid; `reference` is the event that said so."""
    legs = [Leg(BILLED, reduced.amount), Leg(RECEIVABLE, -reduced.amount)]
    return _posting(EntryKind.INVOICE_REDUCED, reference, reduced.currency, legs)


def charge(attempt_id: UUID, provider: str, taken: Money, fee: int) -> Posting:
    legs = [
        Leg(held_by(provider), taken.amount - fee),
        Leg(FEES, fee),
        Leg(CLEARING, -taken.amount),
    ]
    return _posting(EntryKind.CHARGE, attempt_id, taken.currency, legs)


def refund(refund_id: UUID, provider: str, back: Money) -> Posting:
    """Money goes back for something that was rightly paid."""
    legs = [Leg(REFUNDS, back.amount), Leg(held_by(provider), -back.amount)]
    return _posting(EntryKind.REFUND, refund_id, back.currency, legs)


def surplus_refund(refund_id: UUID, provider: str, back: Money) -> Posting:
    """Money goes back that no invoice wanted."""
    legs = [Leg(CLEARING, back.amount), Leg(held_by(provider), -back.amount)]
    return _posting(EntryKind.SURPLUS_REFUND, refund_id, back.currency, legs)


def refund_returned(refund_id: UUID, provider: str, back: Money, *, surplus: bool) -> Posting:
    """A refund could not be delivered: the provider holds the money again."""
    legs = [
        Leg(held_by(provider), back.amount),
        Leg(CLEARING if surplus else REFUNDS, -back.amount),
    ]
    return _posting(EntryKind.REFUND_RETURNED, refund_id, back.currency, legs)


def dispute_opened(dispute_id: UUID, provider: str, taken: Money, fee: int) -> Posting:
    legs = [
        Leg(DISPUTED, taken.amount),
        Leg(FEES, fee),
        Leg(held_by(provider), -taken.amount - fee),
    ]
    return _posting(EntryKind.DISPUTE_OPENED, dispute_id, taken.currency, legs)


def dispute_won(dispute_id: UUID, provider: str, back: Money) -> Posting:
    legs = [Leg(held_by(provider), back.amount), Leg(DISPUTED, -back.amount)]
    return _posting(EntryKind.DISPUTE_WON, dispute_id, back.currency, legs)


def dispute_lost(dispute_id: UUID, lost: Money) -> Posting:
    legs = [Leg(DISPUTE_LOSSES, lost.amount), Leg(DISPUTED, -lost.amount)]
    return _posting(EntryKind.DISPUTE_LOST, dispute_id, lost.currency, legs)


def payout(reference: str, provider: str, sent: Money) -> Posting:
    legs = [Leg(BANK, sent.amount), Leg(held_by(provider), -sent.amount)]
    return _posting(EntryKind.PAYOUT, reference, sent.currency, legs)


def payout_returned(reference: str, provider: str, back: Money) -> Posting:
    """The operator's bank sent a payout back."""
    legs = [Leg(held_by(provider), back.amount), Leg(BANK, -back.amount)]
    return _posting(EntryKind.PAYOUT_RETURNED, reference, back.currency, legs)
