"""The life of an invoice: drafted, finalized with a number, then paid, void or given up."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import Any, get_args
from uuid import UUID
from zoneinfo import ZoneInfo

from services.invoicing.domain.payment import Returns
from services.invoicing.domain.totals import Bundle, Totals
from shared.errors import Conflict, Invalid, NotFound
from shared.events.invoicing import (
    BillingReason,
    InvoiceDrafted,
    InvoiceFinalized,
    InvoiceMarkedUncollectible,
    InvoicePaid,
    InvoicePartlyPaid,
    InvoiceReminderDue,
    InvoiceVoided,
)
from shared.events.subscriptions import DunningPolicy
from shared.ids import new_id
from shared.money import Money

REASONS: tuple[str, ...] = get_args(BillingReason)


class Status(StrEnum):
    DRAFT = "draft"  # may still change, and has no number
    OPEN = "open"  # owed
    PAID = "paid"
    VOID = "void"  # taken back before it was paid; keeps its number
    UNCOLLECTIBLE = "uncollectible"  # nobody expects the money any more


#: The whole state machine. A move that is not here cannot happen.
MOVES: dict[Status, set[Status]] = {
    Status.DRAFT: {Status.OPEN},
    Status.OPEN: {Status.PAID, Status.VOID, Status.UNCOLLECTIBLE},
    Status.UNCOLLECTIBLE: {Status.PAID},
    Status.PAID: set(),
    Status.VOID: set(),
}


class InvoiceNotFound(NotFound):
    code = "invoice-not-found"


class IllegalInvoiceTransition(Conflict):
    code = "illegal-invoice-transition"


class InvoiceFrozen(Conflict):
    code = "invoice-frozen"


class NothingToInvoice(Invalid):
    code = "nothing-to-invoice"


def zone_of(party: Mapping[str, Any]) -> ZoneInfo:
    """By whose clock the days of a frozen seller or payer are told."""
    return ZoneInfo(party.get("time_zone") or "UTC")


@dataclass(eq=False, kw_only=True)
class InvoiceLine:
    """One amount on an invoice and why.

    `amount` and `discount` are as charged (with the tax in them for inclusive prices);
    `subtotal` and `net` are without tax, before and after the discount.
    """

    id: UUID
    invoice_id: UUID
    position: int
    subscription_id: UUID | None
    price_id: UUID | None
    kind: str
    description: str
    quantity: Decimal
    unit_amount: Decimal
    amount: int
    discount: int
    subtotal: int
    net: int
    period_start: datetime
    period_end: datetime
    tax_behavior: str
    tax_category: str
    tax_code: str
    tax_rate: Decimal
    why: dict[str, Any]


@dataclass(eq=False, kw_only=True)
class Invoice:
    """Changes only through its methods, and each returns the event it caused."""

    id: UUID
    account_id: UUID
    legal_entity_id: UUID
    subscription_id: UUID | None
    billing_reason: BillingReason
    #: (subscription, reason, period start …): what makes a period billed once.
    billing_key: str | None
    currency: str
    created_at: datetime
    #: All subscriptions that a consolidated invoice bills; `subscription_id` is None then.
    subscription_ids: list[UUID] = field(default_factory=list)
    #: What a consolidated draft gathers: charges with the same key, until it is finalized.
    gathering_key: str | None = None
    series: str = "invoice"
    status: Status = Status.DRAFT
    number: str | None = None
    lines: list[InvoiceLine] = field(default_factory=list)
    subtotal: int = 0
    discount: int = 0
    net: int = 0
    tax: int = 0
    taxes: list[dict[str, Any]] = field(default_factory=list)
    total: int = 0
    credit_applied: int = 0
    amount_paid: int = 0
    #: Taken back by credit notes; never more than was paid.
    amount_credited: int = 0
    #: What of it goes back by the way the money came.
    amount_refunded: int = 0
    #: What the payer has back: refunds that arrived, disputes that were lost.
    amount_returned: int = 0
    #: What the payer's bank holds until a dispute is decided.
    amount_disputed: int = 0
    #: What went back, or is on its way, without a credit note that ordered it …
    amount_unnoted: int = 0
    #: … and how much of that credit notes have counted since.
    amount_covered: int = 0
    #: When somebody saw to it that what was given back is not what was paid.
    returns_attended_at: datetime | None = None
    bill_to: dict[str, Any] = field(default_factory=dict)
    seller: dict[str, Any] = field(default_factory=dict)
    memo: str | None = None
    #: What a draft is computed from, again at each change and when it is finalized.
    basis: list[dict[str, Any]] = field(default_factory=list)
    #: Days from issue to due date; the legal entity's, when it is None.
    payment_terms_days: int | None = None
    supplied_at: datetime
    #: A draft is finalized by itself at this time; never, when it is None.
    finalizes_at: datetime | None = None
    #: Why it could not be finalized by itself: a person has to look.
    parked_reason: str | None = None
    #: The next reminder, and how many days after the due date it is.
    reminds_at: datetime | None = None
    issued_at: datetime | None = None
    due_at: datetime | None = None
    paid_at: datetime | None = None
    closed_at: datetime | None = None
    collect_automatically: bool = True
    payment_method_id: UUID | None = None
    dunning: dict[str, Any] = field(default_factory=dict)
    accounting_currency: str | None = None
    exchange_rate: Decimal | None = None
    exchange_rate_on: date | None = None
    accounting_total: int | None = None
    accounting_tax: int | None = None
    #: What the search looks in: number, names and line texts.
    search_text: str = ""
    version: int = 0

    @property
    def supplied_on(self) -> date:
        """The day of the supply by the payer's clock, by which periods are counted too."""
        return self.supplied_at.astimezone(zone_of(self.bill_to)).date()

    @property
    def amount_due(self) -> int:
        return self.total - self.credit_applied

    @property
    def amount_creditable(self) -> int:
        """What credit notes may still take back: what was paid, by money or by credit.

        Money that the payer's bank holds waits for the dispute's end.
        """
        if self.status is Status.VOID:
            return 0
        paid = self.credit_applied + self.amount_paid
        return max(paid - self.amount_credited - self.amount_disputed, 0)

    @property
    def amount_overreturned(self) -> int:
        """What was given back beyond what was paid: by hand, while a credit note gave it too."""
        given = self.amount_credited - self.amount_covered + self.amount_unnoted
        return max(given - self.credit_applied - self.amount_paid, 0)

    def note_returns(self, returns: Returns) -> None:
        """Count what goes back, as all refunds and disputes together say."""
        if returns.unnoted != self.amount_unnoted:
            self.returns_attended_at = None
        self.amount_returned = returns.returned
        self.amount_disputed = returns.disputed
        self.amount_unnoted = returns.unnoted

    def attend_returns(self, *, at: datetime) -> bool:
        """Note that what did not agree is settled with the customer; False where all agrees."""
        agrees = not self.amount_overreturned and self.amount_covered <= self.amount_unnoted
        if agrees or self.returns_attended_at is not None:
            return False
        self.returns_attended_at = at
        return True

    @property
    def amount_remaining(self) -> int:
        return max(self.amount_due - self.amount_paid, 0)

    def fill(self, totals: Totals) -> None:
        """Put computed lines and sums on a draft, in place of those it had."""
        self.require_draft()
        if not totals.lines:
            raise NothingToInvoice("An invoice needs at least one line.", field="lines")
        self.lines = [
            InvoiceLine(
                id=new_id(),
                invoice_id=self.id,
                position=position,
                subscription_id=line.subscription_id,
                price_id=line.charge.price_id,
                kind=line.kind,
                description=line.charge.description,
                quantity=Decimal(line.charge.quantity),
                unit_amount=Decimal(line.charge.unit_amount),
                amount=line.amount,
                discount=line.discount,
                subtotal=line.subtotal,
                net=line.net,
                period_start=line.charge.period_start,
                period_end=line.charge.period_end,
                tax_behavior=line.charge.tax_behavior,
                tax_category=line.charge.tax_category,
                tax_code=line.decision.code.value,
                tax_rate=line.decision.rate,
                why=line.why,
            )
            for position, line in enumerate(totals.lines, start=1)
        ]
        self.subtotal = totals.subtotal
        self.discount = totals.discount
        self.net = totals.net
        self.tax = totals.tax
        self.taxes = [group.as_json() for group in totals.groups]
        self.total = totals.total

    def gather(
        self,
        bundles: Sequence[Bundle],
        subscription_id: UUID,
        *,
        supplied_at: datetime,
        at: datetime,
    ) -> None:
        """Take in what one more subscription owes; the order in which they come is no matter.

        Subscriptions stand in the order in which they were made, and the charges of each in the
        order of its own events.
        """
        self.require_draft()
        kept = [*self.basis, *(bundle.as_json() for bundle in bundles)]
        self.basis = sorted(kept, key=lambda bundle: bundle["subscription_id"] or "")
        self.subscription_ids = sorted({*self.subscription_ids, subscription_id})
        self.created_at = min(self.created_at, at)
        self.supplied_at = min(self.supplied_at, supplied_at)

    def park(self, reason: str) -> None:
        """Finalize it no more by itself: somebody has to change it or the settings first."""
        self.require_draft()
        self.finalizes_at = None
        self.parked_reason = reason

    def draft(self, *, at: datetime) -> InvoiceDrafted:
        """Report that it waits to be finalized, or that it has grown while it waits."""
        self.require_draft()
        return InvoiceDrafted(**self._event(at))

    def finalize(self, *, number: str, at: datetime, due_at: datetime) -> InvoiceFinalized:
        """Give it its number; from here on it never changes, and it is owed."""
        self._move_to(Status.OPEN)
        self.number = number
        self.issued_at = at
        self.due_at = due_at
        self.finalizes_at = None
        self.parked_reason = None
        self.basis = []
        self.index()
        return InvoiceFinalized(
            **self._event(at),
            number=number,
            total=self._money(self.total),
            amount_due=self._money(self.amount_due),
            due_at=due_at,
            billing_reason=self.billing_reason,
            collect_automatically=self.collect_automatically,
            payment_method_id=self.payment_method_id,
            dunning=DunningPolicy.model_validate(self.dunning),
            net=self._money(self.net),
            tax=self._money(self.tax),
            credit_applied=self._money(self.credit_applied),
        )

    def plan_reminder(self, days: Sequence[int], *, after: datetime) -> None:
        """Set the next reminder: the first of `days` from the due date that lies ahead."""
        self.reminds_at = None
        if self.collect_automatically or not self.amount_remaining or self.due_at is None:
            return
        moments = [self.due_at + timedelta(days=offset) for offset in days]
        self.reminds_at = min((moment for moment in moments if moment > after), default=None)

    def remind(self, days: Sequence[int]) -> InvoiceReminderDue:
        """The reminder that is due, and the next one planned."""
        if self.reminds_at is None or self.due_at is None or self.status is not Status.OPEN:
            raise IllegalInvoiceTransition("There is nothing to remind of.")
        at = self.reminds_at
        self.plan_reminder(days, after=at)
        return InvoiceReminderDue(
            **self._event(at),
            number=self.number or "",
            amount_remaining=self._money(self.amount_remaining),
            due_at=self.due_at,
            days=(at - self.due_at).days,
        )

    def receive(
        self, amount: int, *, at: datetime, payment_id: UUID | None
    ) -> InvoicePaid | InvoicePartlyPaid:
        """Count money toward it: all that is owed, or a part of it.

        Only what is still owed counts: the caller sees to the rest. `payment_id` is the payment
        that a provider took; None for money that came another way.
        """
        if self.status not in (Status.OPEN, Status.UNCOLLECTIBLE):
            raise IllegalInvoiceTransition(f"Invoice {self.number} is {self.status}, not owed.")
        if not 0 <= amount <= self.amount_remaining:
            raise Invalid("That is more than is owed on this invoice.", field="amount")
        self.amount_paid += amount
        if self.amount_remaining:
            return InvoicePartlyPaid(
                **self._event(at),
                number=self.number or "",
                amount_received=self._money(amount),
                amount_remaining=self._money(self.amount_remaining),
            )
        self._move_to(Status.PAID)
        self.paid_at = at
        return InvoicePaid(
            **self._event(at),
            number=self.number or "",
            total=self._money(self.total),
            amount_paid=self._money(self.amount_paid),
            billing_reason=self.billing_reason,
            payment_id=payment_id,
        )

    def void(self, *, at: datetime) -> InvoiceVoided:
        """Take it back before it is paid. Its number stays used."""
        self._move_to(Status.VOID)
        self.closed_at = at
        return InvoiceVoided(**self._event(at))

    def give_up(self, *, at: datetime) -> InvoiceMarkedUncollectible:
        """Expect the money no more; it may still come."""
        self._move_to(Status.UNCOLLECTIBLE)
        self.closed_at = at
        return InvoiceMarkedUncollectible(**self._event(at))

    def require_draft(self) -> None:
        if self.status is not Status.DRAFT:
            raise InvoiceFrozen(
                f"Invoice {self.number} is finalized and never changes. "
                "Issue a credit note, or void it and make a new one."
            )

    def _event(self, at: datetime) -> dict[str, Any]:
        self.version += 1
        return {
            "occurred_at": at,
            "account_id": self.account_id,
            "sequence": self.version,
            "invoice_id": self.id,
            "subscription_id": self.subscription_id,
            "subscription_ids": tuple(self.subscription_ids),
            "order_id": self.order_id,
        }

    @property
    def order_id(self) -> UUID | None:
        """The purchase of tokens that it is the invoice of."""
        kind, _, order_id = (self.billing_key or "").partition(":")
        return UUID(order_id) if kind == "token_order" else None

    def _money(self, amount: int) -> Money:
        return Money(amount, self.currency)

    def index(self) -> None:
        """Note what the search looks in."""
        texts = [self.number, self.bill_to.get("name"), self.bill_to.get("purchase_order")]
        texts += [line.description for line in self.lines]
        self.search_text = " ".join(dict.fromkeys(text for text in texts if text))

    def _move_to(self, target: Status) -> None:
        if target not in MOVES[self.status]:
            raise IllegalInvoiceTransition(f"An invoice that is {self.status} cannot be {target}.")
        self.status = target
        if target is not Status.OPEN:
            self.reminds_at = None
