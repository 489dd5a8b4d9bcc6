"""How an account stands with the invoices of a subscription, whatever order the news came in.

Everything that is noted of an invoice only grows, and instants are those of the publisher. So what
follows from it depends on what happened and not on what was heard first:

- An invoice that was paid (or taken back, or given up by staff) before dunning came to nothing, or
  at the same instant, is settled: the dunning was moot.
- What is settled after that comes too late for the plan's policy. `cancel` stands; `unpaid` and
  `pause` end with the money.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID


@dataclass(eq=False, kw_only=True)
class InvoiceState:
    """How far an invoice of a subscription has come, gathered from events in any order."""

    invoice_id: UUID
    account_id: UUID
    #: The one that it bills; None on a consolidated invoice, and while that is not known yet.
    subscription_id: UUID | None = None
    #: All that a consolidated invoice bills.
    subscription_ids: list[UUID] = field(default_factory=list)
    #: It is the first invoice of a subscription that waits for it.
    is_first: bool = False
    paid: bool = False
    #: Voided, or nobody expects the money any more.
    dropped: bool = False
    voided: bool = False
    #: When it was first paid or dropped.
    settled_at: datetime | None = None
    dunning: bool = False
    #: What the plan's policy wants after dunning came to nothing, and when that was.
    exhausted: str | None = None
    exhausted_at: datetime | None = None

    def note_settled(self, at: datetime, *, paid: bool = False, voided: bool = False) -> None:
        """It was paid, voided, or (neither) given up."""
        self.paid, self.voided = self.paid or paid, self.voided or voided
        self.dropped = self.dropped or not paid
        self.settled_at = min(self.settled_at or at, at)

    def note_exhausted(self, then: str, at: datetime) -> None:
        """Asking again came to nothing."""
        if self.exhausted_at is None or at < self.exhausted_at:
            self.exhausted, self.exhausted_at = then, at

    @property
    def has_lapsed(self) -> bool:
        """Whether dunning came to nothing before the invoice was settled."""
        if self.exhausted is None:
            return False
        if self.exhausted_at is None or self.settled_at is None:
            return not (self.paid or self.dropped)
        return self.exhausted_at < self.settled_at

    @property
    def is_owed(self) -> bool:
        """Whether its money is still being asked for, or was asked for in vain."""
        if self.has_lapsed:
            return not (self.paid or self.voided)
        return self.dunning and self.settled_at is None


@dataclass(frozen=True, slots=True)
class Standing:
    """What all invoices of a subscription come to."""

    first_is_paid: bool
    owes: bool
    has_lapsed: bool
    #: What the plan's policy asks for now, and since when.
    verdict: str | None
    since: datetime | None

    @classmethod
    def of(cls, invoices: Sequence[InvoiceState]) -> "Standing":
        lapsed = sorted(
            (invoice for invoice in invoices if invoice.has_lapsed), key=lambda one: one.invoice_id
        )
        ended = [invoice for invoice in lapsed if invoice.exhausted == "cancel"]
        resting = [invoice for invoice in lapsed if invoice.is_owed]
        decisive = next(iter([*ended, *resting]), None)
        return cls(
            first_is_paid=any(invoice.is_first and invoice.paid for invoice in invoices),
            owes=any(invoice.is_owed for invoice in invoices),
            has_lapsed=bool(lapsed),
            verdict=decisive.exhausted if decisive else None,
            since=decisive.exhausted_at if decisive else None,
        )
