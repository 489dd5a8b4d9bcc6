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
from services.invoicing.domain.totals import CARRIED_OVER, TAKEN_BACK, Bundle, Totals
from shared.errors import Conflict, Invalid, NotFound
from shared.events.invoicing import (
    BillingReason,
    InvoiceDrafted,
    InvoiceFinalized,
    InvoiceMarkedUncollectible,
    InvoicePaid,
    InvoicePartlyPaid,
    InvoiceReduced,
    InvoiceReminderDue,
    InvoiceVoided,
)
from shared.events.subscriptions import DunningPolicy, TakeBack
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


class InvoiceReissuedAlready(Conflict):
    """The voided invoice was made again before; the new one is named."""

    code = "invoice-reissued-already"


class NothingToInvoice(Invalid):
    code = "nothing-to-invoice"


#: Money is expected for these, or still welcome.
OWED = (Status.OPEN, Status.UNCOLLECTIBLE)
#: Lines that bill no charge.
MADE_HERE = (CARRIED_OVER, TAKEN_BACK)


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
    #: The charge that it bills, by which it is taken back.
    charge_id: UUID | None = None
    #: The line that it takes back, of this invoice or of an earlier one …
    takes_back: UUID | None = None
    #: … and the tax that goes back with an earlier one's.
    takes_back_tax: int | None = None
    #: What one of `quantity` is called.
    unit: str | None = None
    #: The terms of the sum, such as tiers.
    parts: list[dict[str, Any]] | None = None

    @property
    def brought(self) -> int:
        """What it takes back of an earlier invoice, with tax."""
        return 0 if self.takes_back_tax is None else self.takes_back_tax - self.net


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
    #: What its negative lines take back of earlier invoices: so much of it they have paid.
    amount_brought: int = 0
    #: Taken back by credit notes …
    amount_credited: int = 0
    #: … and of that, what was not paid yet and is not owed any more.
    amount_reduced: int = 0
    #: Taken back by negative lines of later invoices.
    amount_moved: int = 0
    #: To be given back when an open dispute is decided …
    amount_withheld: int = 0
    #: … line by line.
    withheld: list[dict[str, Any]] = field(default_factory=list)
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
    #: The invoice that was made again of this one, which is void.
    reissued_as: UUID | None = None
    #: What a draft is computed from, again at each change and when it is finalized. Of an invoice
    #: for a change that waits to be paid: what is given back once it is.
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
        """What is asked for when it is issued; what is taken back later is not on it."""
        return self.total - self.credit_applied

    @property
    def amount_settled(self) -> int:
        """What was paid: by money, by credit, and by what its negative lines brought."""
        return self.credit_applied + self.amount_paid + self.amount_brought

    @property
    def amount_given(self) -> int:
        """Of what was paid, what credit notes and later invoices took back."""
        return self.amount_credited - self.amount_reduced + self.amount_moved

    @property
    def amount_owed(self) -> int:
        """What is still expected, also of one that was given up."""
        return self.amount_remaining if self.status in OWED else 0

    @property
    def amount_creditable(self) -> int:
        """What may still be taken back: what is owed, and what was paid, by money or by credit.

        Money that the payer's bank holds waits for the dispute's end.
        """
        if self.status in (Status.DRAFT, Status.VOID):
            return 0
        paid = self.amount_settled - self.amount_given - self.amount_disputed
        return max(self.amount_owed + paid, 0)

    @property
    def amount_left(self) -> int:
        """What of its total nothing has taken back yet."""
        return max(self.total - self.amount_credited - self.amount_moved, 0)

    @property
    def amount_overreturned(self) -> int:
        """What was given back beyond what was paid: by hand, while a credit note gave it too."""
        given = self.amount_given - self.amount_covered + self.amount_unnoted
        return max(given - self.amount_settled, 0)

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
        return max(self.amount_due - self.amount_reduced - self.amount_paid, 0)

    def fill(self, totals: Totals) -> None:
        """Put computed lines and sums on a draft, in place of those it had."""
        self.require_draft()
        if not totals.lines:
            raise NothingToInvoice("An invoice needs at least one line.", field="lines")
        ids = [new_id() for _ in totals.lines]
        of_charge: dict[UUID | None, UUID] = {
            line.charge.id: line_id for line, line_id in zip(totals.lines, ids, strict=True)
        }
        self.lines = [
            InvoiceLine(
                id=line_id,
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
                charge_id=None if line.kind in MADE_HERE else line.charge.id,
                takes_back=line.takes_back or of_charge.get(line.takes_back_charge),
                takes_back_tax=line.takes_back_tax,
                unit=line.charge.unit,
                parts=[part.model_dump(mode="json") for part in line.charge.parts] or None,
            )
            for position, (line_id, line) in enumerate(zip(ids, totals.lines, strict=True), start=1)
        ]
        self.amount_brought = totals.brought
        self.subtotal = totals.subtotal
        self.discount = totals.discount
        self.net = totals.net
        self.tax = totals.tax
        self.taxes = [group.as_json() for group in totals.groups]
        self.total = totals.total

    def charge_like(self, line: InvoiceLine) -> UUID | None:
        """The charge of a draft that a line of an earlier release was computed from."""
        for kept in self.basis:
            for charge in Bundle.from_json(kept).charges:
                same = (charge.price_id, charge.kind, charge.period_start, charge.period_end)
                if same == (line.price_id, line.kind, line.period_start, line.period_end):
                    return charge.id
        return None

    def take_back_in_draft(self, charge_id: UUID, take_back: TakeBack) -> None:
        """Have a charge that it is computed from taken back, when it is computed again."""
        self.require_draft()
        bundles = [Bundle.from_json(kept) for kept in self.basis]
        self.basis = [
            (
                bundle.with_take_back(take_back)
                if any(charge.id == charge_id for charge in bundle.charges)
                else bundle
            ).as_json()
            for bundle in bundles
        ]

    def take_back_when_made_again(self, subscription_id: UUID, take_back: TakeBack) -> None:
        """Void, it has nothing to give back; what replaces it is not to bill this anew."""
        bundle = Bundle((), (), subscription_id, take_backs=(take_back,))
        self.basis = [*self.basis, bundle.as_json()]

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
        self.basis = [kept for kept in self.basis if kept.get("when_paid")]
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
        self._require_owed()
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
        return self._settle(at=at, payment_id=payment_id)

    def reduce(self, amount: int, *, at: datetime) -> InvoiceReduced | InvoicePaid:
        """A credit note took back what is not paid: so much less is owed, or nothing any more."""
        self._require_owed()
        if not 0 < amount <= self.amount_remaining:
            raise Invalid("That is more than is owed on this invoice.", field="amount")
        self.amount_reduced += amount
        if self.amount_remaining:
            return InvoiceReduced(
                **self._event(at),
                number=self.number or "",
                amount_reduced=self._money(amount),
                amount_remaining=self._money(self.amount_remaining),
            )
        return self._settle(at=at, payment_id=None)

    def withhold(self, entry: dict[str, Any], amount: int) -> None:
        """Give this back when the payer's bank has decided."""
        self.withheld = [*self.withheld, entry]
        self.amount_withheld += amount

    def release(self) -> list[dict[str, Any]]:
        """What was withheld, to be given now as far as that can be."""
        waiting, self.withheld, self.amount_withheld = self.withheld, [], 0
        return waiting

    def _require_owed(self) -> None:
        if self.status not in OWED:
            raise IllegalInvoiceTransition(f"Invoice {self.number} is {self.status}, not owed.")

    def _settle(self, *, at: datetime, payment_id: UUID | None) -> InvoicePaid:
        self._move_to(Status.PAID)
        self.paid_at = at
        return InvoicePaid(
            **self._event(at),
            number=self.number or "",
            total=self._money(self.total),
            amount_paid=self._money(self.amount_paid),
            billing_reason=self.billing_reason,
            payment_id=payment_id,
            amount_reduced=self._money(self.amount_reduced) if self.amount_reduced else None,
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

    @property
    def amount_returned_by_void(self) -> int:
        """What the account has again in credit when it is voided: once, whatever went back."""
        by_hand = max(self.amount_unnoted - self.amount_covered, 0)
        paid = self.credit_applied + self.amount_paid
        return max(paid - self.amount_given - by_hand, 0)

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
            "change_id": self.change_id,
        }

    @property
    def order_id(self) -> UUID | None:
        """The purchase of tokens that it is the invoice of."""
        kind, _, order_id = (self.billing_key or "").partition(":")
        return UUID(order_id) if kind == "token_order" else None

    @property
    def change_id(self) -> UUID | None:
        """The change of a subscription that waits for it to be paid."""
        if self.billing_reason != "subscription_pending_change" or self.billing_key is None:
            return None
        return UUID(self.billing_key.rpartition(":")[2])

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
