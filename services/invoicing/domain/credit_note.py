"""Taking back part of a finalized invoice, with the tax that was on it."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from fractions import Fraction
from typing import Any
from uuid import UUID

from services.invoicing.domain.invoice import Invoice, InvoiceLine
from services.invoicing.domain.totals import CARRIED_OVER, round_fraction, why_taken_back
from services.invoicing.domain.unnamed import gives_back_unnamed, is_unnamed, taken_beside
from shared.errors import Conflict, Invalid, NotFound
from shared.events.invoicing import CreditNoteIssued
from shared.events.subscriptions import TakeBack
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
    #: From when the line is taken back, and why, where a subscription does it.
    starts_at: datetime | None = None
    why: dict[str, Any] | None = None

    def describe(self, take_back: TakeBack, line: InvoiceLine, *, invoice: str) -> None:
        """Say it in the words of the subscription that takes it back. `invoice`: its number."""
        self.description = take_back.description
        self.starts_at = min(max(take_back.starts_at, take_back.period_start), take_back.period_end)
        self.why = why_taken_back(
            take_back,
            whole=line.net,
            amount=self.net,
            period=(line.period_start, line.period_end),
            tax=line.why.get("tax"),
            line=line.position,
            invoice=invoice,
        )


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
    #: What of it was not paid yet, and is not owed any more.
    reduction: int = 0
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
            reduction=Money(self.reduction, self.currency),
        )


@dataclass(frozen=True)
class Earlier:
    """What went back of an invoice before: net by line, tax by group.

    By credit notes, by negative lines beside them and on later invoices, and what waits for a
    dispute to be decided.
    """

    net_of_line: Mapping[UUID, int]
    tax_of_group: Mapping[Group, int]

    @classmethod
    def of(
        cls,
        notes: Sequence[CreditNote],
        *,
        moved: Iterable[InvoiceLine] = (),
        withheld: Iterable[Mapping[str, Any]] = (),
    ) -> "Earlier":
        lines: dict[UUID, int] = defaultdict(int)
        groups: dict[Group, int] = defaultdict(int)
        for note in notes:
            for line in note.lines:
                lines[line.invoice_line_id] += line.net
            for group in note.taxes:
                groups[group["category"], Decimal(group["rate"])] += group["tax"]
        for negative in moved:
            if negative.takes_back is not None:
                lines[negative.takes_back] -= negative.net
                groups[negative.tax_code, negative.tax_rate] += negative.takes_back_tax or 0
        for entry in withheld:
            for line_id, net in entry["lines"].items():
                lines[UUID(line_id)] += net
            for group in entry["taxes"]:
                groups[group["category"], Decimal(group["rate"])] += group["tax"]
        return cls(lines, groups)

    def plus(self, taken: "Taken") -> "Earlier":
        """And what is taken back now."""
        lines, groups = defaultdict(int, self.net_of_line), defaultdict(int, self.tax_of_group)
        for line, net in taken.lines:
            lines[line.id] += net
        for group in taken.taxes:
            groups[group["category"], Decimal(group["rate"])] += group["tax"]
        return Earlier(lines, groups)


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

    @property
    def total(self) -> int:
        return self.net + self.tax

    def plus(self, other: "Taken") -> "Taken":
        """Both, of one invoice."""
        nets: dict[UUID, int] = defaultdict(int)
        lines = {line.id: line for line, _ in (*self.lines, *other.lines)}
        for line, net in (*self.lines, *other.lines):
            nets[line.id] += net
        taxes: dict[Group, dict[str, Any]] = {}
        for group in (*self.taxes, *other.taxes):
            key = (group["category"], Decimal(group["rate"]))
            before = taxes.get(key, {"taxable": 0, "tax": 0})
            more = {name: before[name] + group[name] for name in ("taxable", "tax")}
            taxes[key] = {**group, **more}
        in_order = sorted(lines.values(), key=lambda line: line.position)
        return Taken([(line, nets[line.id]) for line in in_order], list(taxes.values()))


@dataclass(frozen=True, kw_only=True)
class LineGroup:
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
            tax = bounded(round_fraction(net * Fraction(self.rate) / 100), self.tax_left)
        return {**self.original, "taxable": net, "tax": tax}

    def take_gross(self, gross: int) -> tuple[dict[UUID, int], dict[str, Any]]:
        """A gross amount as net and tax, the net split over the lines by what is left of them."""
        if gross == self.net_left + self.tax_left:
            nets = dict(self.left)
            return nets, {**self.original, "taxable": self.net_left, "tax": self.tax_left}
        tax = bounded(
            round_fraction(gross * Fraction(self.rate) / (100 + Fraction(self.rate))), self.tax_left
        )
        tax = max(tax, gross - self.net_left)
        net = gross - tax
        charged = [line for line in self.lines if self.left[line.id] > 0]
        shares = allocate(net, [self.left[line.id] for line in charged])
        nets = {line.id: share for line, share in zip(charged, shares, strict=True)}
        return nets, {**self.original, "taxable": net, "tax": tax}


def take_all(invoice: Invoice, earlier: Earlier) -> Taken:
    """Everything that is left of the invoice.

    What its negative lines brought was not asked for here, and is not taken back.
    """
    if invoice.amount_brought or gives_back_unnamed(invoice):
        left = invoice.amount_left
        return take_amount(invoice, earlier, left) if left else Taken([], [])
    # A group of which nothing is left is not on the note, not even with a zero.
    groups = [group for group in groups_of(invoice, earlier) if any(group.left.values())]
    return taken_of(
        invoice,
        {line: net for group in groups for line, net in group.left.items()},
        [group.take_nets(group.left) for group in groups],
    )


def take_lines(invoice: Invoice, earlier: Earlier, wanted: Mapping[UUID, int]) -> Taken:
    """These amounts of these lines, as they were charged: with tax for inclusive prices."""
    _require_lines(invoice, wanted)
    nets: dict[UUID, int] = {}
    taxes = []
    for group in groups_of(invoice, earlier):
        mine: dict[UUID, int] = {}
        for line in group.lines:
            if line.id not in wanted:
                continue
            amount = wanted[line.id]
            left = group.left[line.id]
            net = amount
            if line.tax_behavior == "inclusive":
                net = round_fraction(amount * 100 / (100 + Fraction(group.rate)))
            if net > left:
                raise CreditLineInvalid(
                    f"Of line {line.position} no more than {left} (without tax) is left.",
                    field="lines",
                )
            mine[line.id] = net
        if mine:
            nets |= mine
            taxes.append(group.take_nets(mine))
    return taken_of(invoice, nets, taxes)


def _require_lines(invoice: Invoice, wanted: Mapping[UUID, int]) -> None:
    known = {line.id: line for line in invoice.lines}
    for line_id, amount in wanted.items():
        if line_id not in known:
            raise CreditLineInvalid(f"The invoice has no line {line_id}.", field="lines")
        if known[line_id].takes_back is not None or is_unnamed(known[line_id]):
            raise CreditLineInvalid("A line that takes another one back stays.", field="lines")
        if amount <= 0:
            raise CreditLineInvalid("Take back more than nothing of a line.", field="lines")


def take_amount(invoice: Invoice, earlier: Earlier, amount: int) -> Taken:
    """An amount with tax, split over what is left of each tax group."""
    if amount <= 0:
        raise CreditLineInvalid("Take back more than nothing.", field="amount")
    groups = groups_of(invoice, earlier)
    left = sum(max(group.net_left + group.tax_left, 0) for group in groups)
    if amount > left:
        raise CreditExceedsPaid(f"No more than {left} is left of this invoice.")
    return _taken_of(invoice, groups, amount)


def part_of(invoice: Invoice, taken: Taken, amount: int) -> tuple[Taken, Taken]:
    """So much of what is taken, with its tax, and the rest of it."""
    nets = {line.id: net for line, net in taken.lines}
    groups = []
    for original in taken.taxes:
        key = (original["category"], Decimal(original["rate"]))
        lines = [line for line, _ in taken.lines if (line.tax_code, line.tax_rate) == key]
        left = {line.id: nets[line.id] for line in lines}
        groups.append(
            LineGroup(original=original, lines=lines, left=left, tax_left=original["tax"])
        )
    part = _taken_of(invoice, groups, amount) if amount else Taken([], [])
    of_part = {line.id: net for line, net in part.lines}
    tax_of_part = {(group["category"], group["rate"]): group for group in part.taxes}
    rest_taxes = []
    for original in taken.taxes:
        gone = tax_of_part.get((original["category"], original["rate"]), {"taxable": 0, "tax": 0})
        taxable = original["taxable"] - gone["taxable"]
        tax = original["tax"] - gone["tax"]
        if taxable or tax:
            rest_taxes.append({**original, "taxable": taxable, "tax": tax})
    rest = {line: net - of_part.get(line, 0) for line, net in nets.items()}
    return part, taken_of(invoice, rest, rest_taxes)


def _taken_of(invoice: Invoice, groups: Sequence[LineGroup], amount: int) -> Taken:
    """An amount with tax out of these groups, which have as much."""
    groups = [group for group in groups if group.net_left + group.tax_left > 0]
    left = [group.net_left + group.tax_left for group in groups]
    nets: dict[UUID, int] = {}
    taxes = []
    for group, gross in zip(groups, allocate(amount, left), strict=True):
        if gross:
            of_group, tax = group.take_gross(gross)
            nets |= of_group
            taxes.append(tax)
    return taken_of(invoice, nets, taxes)


@dataclass(frozen=True, kw_only=True)
class Split:
    """What becomes of an amount that is taken back of an invoice."""

    #: Was not paid, and is not owed any more.
    reduction: int
    #: Had gone back by hand.
    returned_before: int
    given: int
    #: Waits until the payer's bank gives back what it holds.
    withheld: int

    @classmethod
    def of(cls, invoice: Invoice, total: int) -> "Split":
        """First what is unpaid, then what went back by hand, then what was paid and is here."""
        reduction = min(total, invoice.amount_owed)
        paid = total - reduction
        free = max(invoice.amount_settled - invoice.amount_given, 0)
        by_hand = max(invoice.amount_unnoted - invoice.amount_covered, 0)
        before = min(paid, free, by_hand)
        wanted = min(paid, free) - before
        given = min(wanted, max(free - by_hand - invoice.amount_disputed, 0))
        return cls(
            reduction=reduction,
            returned_before=before,
            given=given,
            withheld=min(wanted - given, invoice.amount_disputed),
        )

    @property
    def noted(self) -> int:
        """What a credit note says now."""
        return self.reduction + self.returned_before + self.given


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
    """The credit note, counted on the invoice: never more than was billed, nor than was paid.

    `by_provider` is what a provider took for the invoice, and can send back. What is not paid is
    taken first: the caller reduces the invoice by it. What went back without a credit note (a
    refund by hand, a lost dispute) is counted next, and given no more.
    """
    total = taken.total
    split = Split.of(invoice, total)
    if total <= 0 or split.noted != total:
        raise _too_much(invoice, total)
    before = split.returned_before
    refundable = by_provider - invoice.amount_refunded - invoice.amount_unnoted
    refundable -= invoice.amount_disputed
    refund = min(split.given, max(refundable, 0)) if settle is Settle.REFUND else 0
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
        credit=total - refund - before - split.reduction,
        returned_before=before,
        reduction=split.reduction,
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
    """Refuse to take back nothing, or more than is owed, or was paid and not yet taken back."""
    if not 0 < taken.total <= invoice.amount_creditable:
        raise _too_much(invoice, taken.total)


def _too_much(invoice: Invoice, total: int) -> CreditExceedsPaid:
    if total <= 0:
        return CreditExceedsPaid("Nothing is left of this invoice to take back.")
    left = Money(invoice.amount_creditable, invoice.currency)
    return CreditExceedsPaid(
        f"{Money(total, invoice.currency)} is more than can be taken back of this invoice: {left}."
    )


def groups_of(invoice: Invoice, earlier: Earlier) -> list[LineGroup]:
    """The tax groups of an invoice, and what is left of them.

    A line that takes back another one is no part of a group: it counts on the line that it takes
    back. What it brought from an earlier invoice has paid a part of this one, tax included; so has
    what an earlier release gave back without a name.
    """
    groups = []
    beside = taken_beside(invoice)
    taken: dict[UUID, int] = defaultdict(int)
    for line in invoice.lines:
        if line.id in beside:
            taken[beside[line.id]] -= line.net
    for original in invoice.taxes:
        key = (original["category"], Decimal(original["rate"]))
        every = [line for line in invoice.lines if (line.tax_code, line.tax_rate) == key]
        lines = [
            line for line in every if line.id not in beside and not _counts_elsewhere(invoice, line)
        ]
        gone = _gone(every, lines, earlier)
        left = {line.id: line.net - taken[line.id] - gone[line.id] for line in lines}
        tax_left = _tax_of(invoice, original, every, beside) - earlier.tax_of_group.get(key, 0)
        groups.append(LineGroup(original=original, lines=lines, left=left, tax_left=tax_left))
    return groups


def _counts_elsewhere(invoice: Invoice, line: InvoiceLine) -> bool:
    if line.takes_back is None:
        return line.kind == CARRIED_OVER or is_unnamed(line)
    return invoice.amount_brought > 0


def _gone(
    every: Sequence[InvoiceLine], lines: Sequence[InvoiceLine], earlier: Earlier
) -> dict[UUID, int]:
    """What went back of each line.

    A note of an earlier release on all of an invoice took its negative lines as well: so much less
    it took of the others.
    """
    gone = {line.id: earlier.net_of_line.get(line.id, 0) for line in lines}
    again = -sum(earlier.net_of_line.get(line.id, 0) for line in every if is_unnamed(line))
    if again > 0 and any(gone.values()):
        shares = allocate(again, list(gone.values()))
        return {
            line_id: net - share for (line_id, net), share in zip(gone.items(), shares, strict=True)
        }
    return gone


def _tax_of(
    invoice: Invoice,
    original: Mapping[str, Any],
    every: Sequence[InvoiceLine],
    beside: Mapping[UUID, UUID],
) -> int:
    """The tax on what a group charges, also where what was given back elsewhere made it less."""
    if any(is_unnamed(line) and line.id not in beside for line in every):
        charged = [
            line for line in every if line.id in beside or not _counts_elsewhere(invoice, line)
        ]
        net = sum(line.net for line in charged)
        if all(line.tax_behavior == "inclusive" for line in charged):
            return sum(line.amount - line.discount for line in charged) - net
        return round_fraction(net * Fraction(Decimal(original["rate"])) / 100)
    tax: int = original["tax"]
    if invoice.amount_brought:
        tax += sum(line.takes_back_tax or 0 for line in every)
    return tax


def taken_of(invoice: Invoice, nets: Mapping[UUID, int], taxes: list[dict[str, Any]]) -> Taken:
    lines = [(line, nets[line.id]) for line in invoice.lines if nets.get(line.id)]
    return Taken(lines, taxes)


def bounded(tax: int, left: int) -> int:
    """No more tax than is left, and never of the other sign."""
    return max(0, min(tax, left)) if left >= 0 else min(0, max(tax, left))
