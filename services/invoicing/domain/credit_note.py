"""Taking back part of a finalized invoice, with the tax that was on it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from fractions import Fraction
from math import floor
from typing import Any
from uuid import UUID

from services.invoicing.domain.invoice import Invoice, InvoiceLine
from shared.errors import Conflict, Invalid, NotFound
from shared.events.invoicing import CreditNoteIssued
from shared.ids import new_id
from shared.money import Money, allocate


class CreditNoteNotFound(NotFound):
    code = "credit-note-not-found"


class CreditExceedsPaid(Conflict):
    code = "credit-exceeds-paid"


class CreditLineInvalid(Invalid):
    code = "credit-line-invalid"


class Settle(StrEnum):
    """Where the money goes."""

    REFUND = "refund"  # back by the way it came, the rest to the account's credit
    CREDIT = "credit"  # to the account's credit


#: A tax group of the invoice: category and rate.
Group = tuple[str, Decimal]


@dataclass(eq=False, kw_only=True)
class CreditNoteLine:
    """What is taken back of one invoice line, without tax."""

    id: UUID
    credit_note_id: UUID
    invoice_line_id: UUID
    position: int
    description: str
    net: int
    tax_code: str
    tax_rate: Decimal


@dataclass(eq=False, kw_only=True)
class CreditNote:
    """Issued at once and never changed; made by `credit`."""

    id: UUID
    account_id: UUID
    invoice_id: UUID
    subscription_id: UUID | None
    legal_entity_id: UUID
    number: str
    invoice_number: str
    currency: str
    reason: str
    settle: Settle
    lines: list[CreditNoteLine] = field(default_factory=list)
    net: int
    tax: int
    taxes: list[dict[str, Any]]
    total: int
    refund: int
    credit: int
    #: What had gone back before, without a credit note: it is not given a second time.
    returned_before: int = 0
    bill_to: dict[str, Any]
    seller: dict[str, Any]
    issued_at: datetime
    version: int = 0

    def issue(self, *, at: datetime) -> CreditNoteIssued:
        """Report it; payments sends the refund back."""
        self.version += 1
        return CreditNoteIssued(
            occurred_at=at,
            account_id=self.account_id,
            sequence=self.version,
            credit_note_id=self.id,
            invoice_id=self.invoice_id,
            subscription_id=self.subscription_id,
            number=self.number,
            total=Money(self.total, self.currency),
            refund=Money(self.refund, self.currency),
            credit=Money(self.credit, self.currency),
            returned_before=Money(self.returned_before, self.currency),
        )


@dataclass(frozen=True)
class Earlier:
    """What earlier credit notes took back: net by line, tax by group."""

    net_of_line: Mapping[UUID, int]
    tax_of_group: Mapping[Group, int]

    @classmethod
    def of(cls, notes: Sequence[CreditNote]) -> "Earlier":
        lines: dict[UUID, int] = {}
        groups: dict[Group, int] = {}
        for note in notes:
            for line in note.lines:
                lines[line.invoice_line_id] = lines.get(line.invoice_line_id, 0) + line.net
            for group in note.taxes:
                key = (group["category"], Decimal(group["rate"]))
                groups[key] = groups.get(key, 0) + group["tax"]
        return cls(lines, groups)


@dataclass(frozen=True)
class Taken:
    """What a new credit note takes: (line, net) in line order, and its tax groups."""

    lines: list[tuple[InvoiceLine, int]]
    taxes: list[dict[str, Any]]

    @property
    def net(self) -> int:
        return sum(net for _, net in self.lines)

    @property
    def tax(self) -> int:
        return sum(group["tax"] for group in self.taxes)


@dataclass(frozen=True, kw_only=True)
class _Group:
    """One tax group of the invoice, and what is left of it."""

    original: dict[str, Any]
    lines: list[InvoiceLine]
    left: dict[UUID, int]
    tax_left: int

    @property
    def rate(self) -> Decimal:
        return Decimal(self.original["rate"])

    @property
    def net_left(self) -> int:
        return sum(self.left.values())

    def take_nets(self, nets: dict[UUID, int]) -> dict[str, Any]:
        """The tax on these nets, as on the original; the last of the group takes what is left."""
        net = sum(nets.values())
        if net == self.net_left:
            tax = self.tax_left
        else:
            tax = _bounded(_round(net * Fraction(self.rate) / 100), self.tax_left)
        return {**self.original, "taxable": net, "tax": tax}

    def take_gross(self, gross: int) -> tuple[dict[UUID, int], dict[str, Any]]:
        """A gross amount as net and tax, the net split over the lines by what is left of them."""
        if gross == self.net_left + self.tax_left:
            nets = dict(self.left)
            return nets, {**self.original, "taxable": self.net_left, "tax": self.tax_left}
        tax = _bounded(
            _round(gross * Fraction(self.rate) / (100 + Fraction(self.rate))), self.tax_left
        )
        tax = max(tax, gross - self.net_left)
        net = gross - tax
        charged = [line for line in self.lines if self.left[line.id] > 0]
        shares = allocate(net, [self.left[line.id] for line in charged])
        nets = {line.id: share for line, share in zip(charged, shares, strict=True)}
        return nets, {**self.original, "taxable": net, "tax": tax}


def take_all(invoice: Invoice, earlier: Earlier) -> Taken:
    """Everything that is left of the invoice."""
    # A group of which nothing is left is not on the note, not even with a zero.
    groups = [group for group in _groups(invoice, earlier) if any(group.left.values())]
    return _taken(
        invoice,
        {line: net for group in groups for line, net in group.left.items()},
        [group.take_nets(group.left) for group in groups],
    )


def take_lines(invoice: Invoice, earlier: Earlier, wanted: Mapping[UUID, int]) -> Taken:
    """These amounts of these lines, as they were charged: with tax for inclusive prices."""
    known = {line.id: line for line in invoice.lines}
    for line_id, amount in wanted.items():
        if line_id not in known:
            raise CreditLineInvalid(f"The invoice has no line {line_id}.", field="lines")
        if amount <= 0:
            raise CreditLineInvalid("Take back more than nothing of a line.", field="lines")
    nets: dict[UUID, int] = {}
    taxes = []
    for group in _groups(invoice, earlier):
        mine: dict[UUID, int] = {}
        for line in group.lines:
            if line.id not in wanted:
                continue
            amount = wanted[line.id]
            left = group.left[line.id]
            net = amount
            if line.tax_behavior == "inclusive":
                net = _round(amount * 100 / (100 + Fraction(group.rate)))
            if net > left:
                raise CreditLineInvalid(
                    f"Of line {line.position} no more than {left} (without tax) is left.",
                    field="lines",
                )
            mine[line.id] = net
        if mine:
            nets |= mine
            taxes.append(group.take_nets(mine))
    return _taken(invoice, nets, taxes)


def take_amount(invoice: Invoice, earlier: Earlier, amount: int) -> Taken:
    """An amount with tax, split over what is left of each tax group."""
    groups = [g for g in _groups(invoice, earlier) if g.net_left + g.tax_left > 0]
    left = [group.net_left + group.tax_left for group in groups]
    if amount <= 0:
        raise CreditLineInvalid("Take back more than nothing.", field="amount")
    if amount > sum(left):
        raise CreditExceedsPaid(f"No more than {sum(left)} is left of this invoice.")
    nets: dict[UUID, int] = {}
    taxes = []
    for group, gross in zip(groups, allocate(amount, left), strict=True):
        if gross:
            of_group, tax = group.take_gross(gross)
            nets |= of_group
            taxes.append(tax)
    return _taken(invoice, nets, taxes)


def credit(
    invoice: Invoice,
    taken: Taken,
    *,
    number: str,
    reason: str,
    settle: Settle,
    by_provider: int,
    at: datetime,
) -> CreditNote:
    """The credit note, counted on the invoice: never more than was paid.

    `by_provider` is what a provider took for the invoice, and can send back. What went back
    without a credit note (a refund by hand, a lost dispute) is counted first, and given no more.
    """
    total = taken.net + taken.tax
    require_creditable(invoice, taken)
    before = min(total, max(invoice.amount_unnoted - invoice.amount_covered, 0))
    refundable = by_provider - invoice.amount_refunded - invoice.amount_unnoted
    refundable -= invoice.amount_disputed
    refund = min(total - before, max(refundable, 0)) if settle is Settle.REFUND else 0
    invoice.amount_credited += total
    invoice.amount_refunded += refund
    invoice.amount_covered += before
    note = CreditNote(
        id=new_id(),
        account_id=invoice.account_id,
        invoice_id=invoice.id,
        subscription_id=invoice.subscription_id,
        legal_entity_id=invoice.legal_entity_id,
        number=number,
        invoice_number=invoice.number or "",
        currency=invoice.currency,
        reason=reason,
        settle=settle,
        net=taken.net,
        tax=taken.tax,
        taxes=taken.taxes,
        total=total,
        refund=refund,
        credit=total - refund - before,
        returned_before=before,
        bill_to=invoice.bill_to,
        seller=invoice.seller,
        issued_at=at,
    )
    note.lines = [
        CreditNoteLine(
            id=new_id(),
            credit_note_id=note.id,
            invoice_line_id=line.id,
            position=position,
            description=line.description,
            net=net,
            tax_code=line.tax_code,
            tax_rate=line.tax_rate,
        )
        for position, (line, net) in enumerate(taken.lines, start=1)
    ]
    return note


def require_creditable(invoice: Invoice, taken: Taken) -> None:
    """Refuse to take back nothing, or more than was paid and not yet taken back."""
    total = taken.net + taken.tax
    if total <= 0:
        raise CreditExceedsPaid("Nothing is left of this invoice to take back.")
    if total > invoice.amount_creditable:
        raise CreditExceedsPaid(
            f"{Money(total, invoice.currency)} is more than was paid and not yet taken back: "
            f"{Money(invoice.amount_creditable, invoice.currency)}."
        )


def _groups(invoice: Invoice, earlier: Earlier) -> list[_Group]:
    groups = []
    for original in invoice.taxes:
        key = (original["category"], Decimal(original["rate"]))
        lines = [line for line in invoice.lines if (line.tax_code, line.tax_rate) == key]
        left = {line.id: line.net - earlier.net_of_line.get(line.id, 0) for line in lines}
        tax_left = original["tax"] - earlier.tax_of_group.get(key, 0)
        groups.append(_Group(original=original, lines=lines, left=left, tax_left=tax_left))
    return groups


def _taken(invoice: Invoice, nets: Mapping[UUID, int], taxes: list[dict[str, Any]]) -> Taken:
    lines = [(line, nets[line.id]) for line in invoice.lines if nets.get(line.id)]
    return Taken(lines, taxes)


def _bounded(tax: int, left: int) -> int:
    """No more tax than is left, and never of the other sign."""
    return max(0, min(tax, left)) if left >= 0 else min(0, max(tax, left))


def _round(value: Fraction) -> int:
    whole = floor(abs(value) + Fraction(1, 2))
    return whole if value >= 0 else -whole
