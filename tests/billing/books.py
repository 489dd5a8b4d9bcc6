"""The reference: what bills come to in invoices, taxes, credit notes and account credit.

It is told of each bill of the model (`model.py`), of money as the bank tells it, and of what staff
did to invoices, in the order in which it happened; and keeps the books as they should be.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from fractions import Fraction
from uuid import UUID
from zoneinfo import ZoneInfo

from tests.billing.model import Bill, Charge, Coupon, TakenBack, nearest

#: The seller of a first run is German.
SELLER = "DE"
RATES = {"FR": [(date(2020, 1, 1), 20)], "AT": [(date(2020, 1, 1), 20)]}
RATES["DE"] = [(date(2020, 1, 1), 19), (date(2020, 7, 1), 16), (date(2021, 1, 1), 19)]
OWED = {"open", "uncollectible"}

#: Bills that leave what waits for the next invoice alone.
LEAVES_WAITING = {"changed", "usage_billed", "change_pending"}

#: A tax group: category, rate, country.
Tax = tuple[str, int, str]


def shares(total: int, weights: Sequence[Fraction | int]) -> list[int]:
    """`total` by `weights`, in whole units, the largest remainders first, then by order."""
    whole = sum(weights, Fraction(0))
    exact = [total * Fraction(weight) / whole for weight in weights]
    parts = [part.__floor__() for part in exact]
    order = sorted(range(len(parts)), key=lambda i: parts[i] - exact[i])
    for i in order[: total - sum(parts)]:
        parts[i] += 1
    return parts


@dataclass(eq=False)
class Line:
    """One amount of an invoice; `net` is without tax and after discounts."""

    charge: Charge | None
    amount: int
    starts: datetime
    ends: datetime
    tax: Tax
    inclusive: bool
    discount: int = 0
    net: int = 0
    #: What it takes back of an earlier invoice, and the tax that goes with it.
    takes_from: "tuple[Invoice, Line] | None" = None
    takes_tax: int = 0
    #: Of a charge that was never invoiced before it was taken back.
    takes_beside: "Line | None" = None

    @property
    def charged(self) -> int:
        return self.amount - self.discount


@dataclass(eq=False)
class Invoice:
    """One invoice as it should be."""

    subscription: UUID | None
    lines: list[Line]
    at: datetime
    reason: str
    supplied: datetime
    id: UUID | None = None
    status: str = "open"
    groups: dict[Tax, list[int]] = field(default_factory=dict)
    credit_applied: int = 0
    paid: int = 0
    #: Of it, by a provider.
    by_card: int = 0
    brought: int = 0
    credited: int = 0
    reduced: int = 0
    refunded: int = 0
    moved: int = 0
    covered: int = 0
    #: Sent back by hand or lost to a bank, and held by a bank.
    by_hand: int = 0
    disputed: int = 0
    #: Net by line and tax by group of all that went back.
    back_of_line: dict[Line, int] = field(default_factory=lambda: defaultdict(int))
    back_of_tax: dict[Tax, int] = field(default_factory=lambda: defaultdict(int))
    withheld: "list[Return]" = field(default_factory=list)
    reissued: bool = False
    #: Since when its subscription takes a line back, whether or not that is worth anything.
    gone: dict[Line, datetime] = field(default_factory=dict)
    #: Where it is one of several subscriptions.
    subscriptions: set[UUID] = field(default_factory=set)
    made: int = 0
    #: Of a change that counts once this is paid: what is taken back then.
    when_paid: Bill | None = None

    @property
    def net(self) -> int:
        return sum(net for net, _ in self.groups.values())

    @property
    def tax(self) -> int:
        return sum(tax for _, tax in self.groups.values())

    @property
    def total(self) -> int:
        return self.net + self.tax

    @property
    def due(self) -> int:
        return self.total - self.credit_applied

    @property
    def remaining(self) -> int:
        return max(self.due - self.reduced - self.paid, 0)

    @property
    def owed(self) -> int:
        return self.remaining if self.status in OWED else 0

    @property
    def settled(self) -> int:
        return self.credit_applied + self.paid + self.brought

    @property
    def given(self) -> int:
        return self.credited - self.reduced + self.moved

    @property
    def own_lines(self) -> list[Line]:
        """Those that bill something; a line that takes another one back counts there."""
        return [
            line
            for line in self.lines
            if line.takes_beside is None and (line.takes_from is None or not self.brought)
        ]

    def left_of(self, line: Line) -> int:
        beside = sum(one.net for one in self.lines if one.takes_beside is line)
        return line.net + beside - self.back_of_line[line]

    def tax_left(self, tax: Tax) -> int:
        brought = 0
        if self.brought:
            brought = sum(line.takes_tax for line in self.lines if line.tax == tax)
        return self.groups[tax][1] + brought - self.back_of_tax[tax]

    def net_left(self, tax: Tax) -> int:
        return sum(self.left_of(line) for line in self.own_lines if line.tax == tax)


@dataclass(eq=False)
class Draft:
    """Bills that become one invoice later, with the account's tax and credit of then."""

    key: object
    subscription: UUID | None
    event: str
    at: datetime
    finalizes: datetime
    supplied: datetime
    made: int
    bills: list[Bill] = field(default_factory=list)


@dataclass(eq=False)
class Return:
    """What goes back of one invoice: net by line, tax by group."""

    invoice: Invoice
    nets: dict[Line, int]
    taxes: dict[Tax, int]
    refund: bool = False
    since: dict[Line, datetime] = field(default_factory=dict)

    @property
    def total(self) -> int:
        return sum(self.nets.values()) + sum(self.taxes.values())


@dataclass(frozen=True)
class Note:
    """A credit note as it should be."""

    invoice: Invoice
    total: int
    refund: int
    credit: int
    returned_before: int
    reduction: int


class Books:
    """All of one account."""

    def __init__(
        self, *, country: str, zone: str, consolidated: bool = False, draft_hours: int = 0
    ) -> None:
        self.consolidated = consolidated
        self.draft_hours = draft_hours
        self.drafts: list[Draft] = []
        #: How many invoices were begun: in this order they are gone through.
        self.made = 0
        self.country = country
        self.zone = zone
        self.has_number = False
        self.credit = 0
        self.invoices: list[Invoice] = []
        self.expected: dict[UUID | None, list[Invoice]] = defaultdict(list)
        self.by_id: dict[UUID, Invoice] = {}
        self.pending: dict[UUID, list[Bill]] = defaultdict(list)
        self.notes: list[Note] = []
        #: Invoices of changes that count once they are paid.
        self.pending_changes: dict[UUID, Invoice] = {}

    # ---- bills -------------------------------------------------------------------------------

    def bill(
        self,
        bill: Bill,
        order: Sequence[UUID],
        *,
        supplied: datetime,
        at: datetime,
        change_id: UUID | None = None,
        terms: str = "",
    ) -> None:
        """What an event asked for; `order` is how its charges stand.

        `terms` are how it is collected: what differs in that shares no invoice.
        """
        self.pass_to(at)
        positions = {charge_id: position for position, charge_id in enumerate(order)}
        bill.charges.sort(key=lambda charge: positions[charge.id] if charge.id else 0)
        waiting = self.pending[bill.subscription]
        if not bill.now:
            waiting.append(bill)
            return
        bills = [bill]
        if bill.event in LEAVES_WAITING:
            if bill.event != "change_pending":
                self._take_back_what_waits(bill)
        else:
            bills = [*waiting, bill]
            waiting.clear()
        if any(one.charges for one in bills) and self._waits(bill, bills, supplied, at, terms):
            return
        lines = [line for one in bills for line in self._lines(one, supplied)]
        returns = self._returns(bills, lines)
        if lines:
            invoice = self._invoice(bill, lines, returns, at, supplied)
            if change_id is not None:
                self.pending_changes[change_id] = invoice
        else:
            for back in returns:
                self._write(back)

    def _take_back_what_waits(self, bill: Bill) -> None:
        """What is taken back of charges that wait is taken back where they wait."""
        for one in list(bill.taken_back):
            for other in self.pending[bill.subscription]:
                if one.charge in other.charges:
                    bill.taken_back.remove(one)
                    other.taken_back.append(one)

    def _waits(
        self, bill: Bill, bills: list[Bill], supplied: datetime, at: datetime, terms: str
    ) -> bool:
        """Whether it is a draft first: of the day, or to be looked at."""
        if self.consolidated and bill.event in {"renewed", "trial_ended"}:
            zone = ZoneInfo(self.zone)
            day = supplied.astimezone(zone).date()
            end = datetime.combine(day + timedelta(days=1), time(), tzinfo=zone).astimezone(UTC)
            key: object = (day, terms)
            subscription, finalizes = None, end
        elif self.draft_hours and bill.event not in {"started", "change_pending"}:
            key, subscription = (bill.subscription, at, self.made), bill.subscription
            finalizes = at + timedelta(hours=self.draft_hours)
        else:
            return False
        draft = next((one for one in self.drafts if one.key == key), None)
        if draft is None:
            self.made += 1
            draft = Draft(key, subscription, bill.event, at, finalizes, supplied, self.made)
            self.drafts.append(draft)
        draft.bills += bills
        draft.supplied = min(draft.supplied, supplied)
        return True

    def pass_to(self, now: datetime) -> None:
        """What waited long enough is finalized."""
        for draft in sorted(self.drafts, key=lambda one: (one.finalizes, one.made)):
            if draft.finalizes <= now:
                self.finalize_draft(draft)

    def finalize_draft(self, draft: Draft) -> None:
        self.drafts.remove(draft)
        bills = sorted(draft.bills, key=lambda one: one.subscription)
        lines = [line for one in bills for line in self._lines(one, draft.supplied)]
        returns = self._returns(bills, lines)
        bill = Bill(draft.subscription or UUID(int=0), draft.event, draft.at)
        invoice = Invoice(draft.subscription, lines, draft.finalizes, draft.event, draft.supplied)
        invoice.subscriptions = {one.subscription for one in bills}
        self._complete(invoice, bill, returns, made=draft.made)

    def _lines(self, bill: Bill, supplied: datetime) -> list[Line]:
        lines = []
        tax = self.tax_on(supplied)
        for charge in bill.charges:
            inclusive = charge.price.told["tax_behavior"] == "inclusive"
            line = Line(charge, charge.amount, charge.starts, charge.ends, tax, inclusive)
            lines.append(line)
        for off in bill.off:
            mine = [one for one in lines if one.charge in off.charges and one.charged > 0]
            whole = sum(line.charged for line in mine)
            amount = _taken_off(off.coupon, off.amount, whole)
            for line, share in zip(
                mine, shares(amount, [one.charged for one in mine]), strict=True
            ):
                line.discount += share
        return lines

    def _returns(self, bills: Sequence[Bill], lines: list[Line]) -> list[Return]:
        """What is taken back of earlier invoices; what is beside its charge is a line there."""
        beside = {line.charge: line for line in lines if line.charge}
        found: dict[Invoice, dict[Line, datetime]] = defaultdict(dict)
        refund: set[Invoice] = set()
        for bill in bills:
            for one in bill.taken_back:
                if one.charge in beside:
                    lines += _taken_beside(beside[one.charge], one.starts)
                    continue
                if bill.event != "change_pending" and self._take_back_in_draft(one):
                    continue
                known = self._line_of(one.charge)
                if known is None:
                    continue
                invoice, line = known
                if invoice.status == "void":
                    if bill.event != "change_pending":
                        invoice.gone[line] = min(invoice.gone.get(line, one.starts), one.starts)
                    continue
                found[invoice][line] = min(found[invoice].get(line, one.starts), one.starts)
                if bill.give_back == "refund":
                    refund.add(invoice)
        returns = [self._worth(invoice, since) for invoice, since in found.items()]
        for back in returns:
            back.refund = back.invoice in refund
        returns.sort(key=lambda one: one.invoice.made)
        return [one for one in returns if one.total > 0]

    def _take_back_in_draft(self, one: TakenBack) -> bool:
        for draft in self.drafts:
            for bill in draft.bills:
                if one.charge in bill.charges:
                    bill.taken_back.append(one)
                    return True
        return False

    def _line_of(self, charge: Charge) -> tuple[Invoice, Line] | None:
        """Where a charge was billed: the newest invoice."""
        for invoice in sorted(self.invoices, key=lambda one: -one.made):
            for line in invoice.lines:
                if line.charge is charge:
                    return invoice, line
        return None

    def _worth(self, invoice: Invoice, since: dict[Line, datetime]) -> Return:
        nets: dict[Line, int] = {}
        taxes: dict[Tax, int] = {}
        for tax in invoice.groups:
            rate = Fraction(tax[1])
            mine: dict[Line, int] = {}
            gross, promised = 0, True
            for line in invoice.own_lines:
                if line.tax != tax or line not in since or line.net <= 0:
                    continue
                share = _share(line, since[line])
                if share == 1:
                    net, of_gross = line.net, line.charged
                elif line.inclusive:
                    of_gross = nearest(line.charged * share)
                    net = of_gross - nearest(of_gross * rate / (100 + rate))
                else:
                    net = of_gross = nearest(line.net * share)
                before = line.net - invoice.left_of(line)
                net = max(min(net - before, line.net - before), 0)
                if net:
                    mine[line] = net
                    gross += of_gross
                    promised = promised and line.inclusive and not before
            if mine:
                net = sum(mine.values())
                left = invoice.tax_left(tax)
                if net == invoice.net_left(tax):
                    taxes[tax] = left
                elif promised:
                    taxes[tax] = _between(gross - net, left)
                else:
                    taxes[tax] = _between(nearest(net * rate / 100), left)
                nets |= mine
        return Return(invoice, nets, taxes, since=since)

    def _invoice(
        self,
        bill: Bill,
        lines: list[Line],
        returns: list[Return],
        at: datetime,
        supplied: datetime,
    ) -> Invoice:
        invoice = Invoice(bill.subscription, lines, at, bill.event, supplied)
        self.made += 1
        return self._complete(invoice, bill, returns, made=self.made)

    def _complete(
        self, invoice: Invoice, bill: Bill, returns: list[Return], *, made: int
    ) -> Invoice:
        invoice.made = made
        _sum_up(invoice)
        paid = [one for one in returns if self._split(one)[2]]
        notes = [one for one in returns if one not in paid]
        if not self._put_on(invoice, paid):
            notes = returns
        if bill.event == "change_pending":
            # It may lapse: whatever is no line of it is taken back once it is paid.
            notes = []
            rest = list(bill.taken_back)
            invoice.when_paid = Bill(bill.subscription, "change_paid", at=bill.at, taken_back=rest)
        for one in notes:
            self._write(one)
        self.finalize(invoice)
        return invoice

    def finalize(self, invoice: Invoice) -> None:
        """It takes the account's credit, and is owed or paid."""
        invoice.credit_applied = min(self.credit, invoice.total)
        self.credit -= invoice.credit_applied
        self.invoices.append(invoice)
        self.expected[invoice.subscription].append(invoice)
        self._settle(invoice)

    def _settle(self, invoice: Invoice) -> None:
        """Where nothing remains to be paid, it is paid; and what waited for that is given back."""
        if invoice.status not in OWED or invoice.remaining:
            return
        invoice.status = "paid"
        bill, invoice.when_paid = invoice.when_paid, None
        if bill is not None:
            self._take_back_what_waits(bill)
            for one in self._returns([bill], []):
                self._write(one)

    def take_back_change(self, change_id: UUID) -> None:
        """The change will not happen: its invoice is void, or what was paid of it goes back."""
        invoice = self.pending_changes.get(change_id)
        if invoice is None:
            return
        invoice.when_paid = None
        if invoice.status == "open":
            self.void(invoice)
        elif invoice.status in {"paid", "uncollectible"}:
            self._let_be(invoice)
            own = invoice.own_lines
            nets = {line: left for line in own if (left := invoice.left_of(line))}
            taxes = {tax: invoice.tax_left(tax) for tax in {line.tax for line in nets}}
            everything = Return(invoice, nets, taxes, refund=True)
            if everything.total > 0:
                self._write(everything)

    def _put_on(self, invoice: Invoice, returns: list[Return]) -> bool:
        """Take-backs as negative lines, where all of each was paid and its tax is there."""
        groups = {tax: list(sums) for tax, sums in invoice.groups.items()}
        for one in returns:
            reduction, before, given, _ = self._split(one)
            if reduction or before or given != one.total:
                return False
            for tax, amount in one.taxes.items():
                if tax not in groups:
                    return False
                groups[tax][0] -= sum(net for line, net in one.nets.items() if line.tax == tax)
                groups[tax][1] -= amount
                if min(groups[tax]) < 0:
                    return False
        invoice.groups = groups
        for one in returns:
            for tax, amount in one.taxes.items():
                mine = [line for line in one.nets if line.tax == tax]
                nets = [one.nets[line] for line in mine]
                for line, net, part in zip(mine, nets, shares(amount, nets), strict=True):
                    charged = net + part if line.inclusive else net
                    since = one.since[line]
                    negative = Line(None, -charged, since, line.ends, tax, line.inclusive)
                    negative.net = -net
                    negative.takes_from, negative.takes_tax = (one.invoice, line), part
                    invoice.lines.append(negative)
            invoice.brought += one.total
            one.invoice.moved += one.total
            self._note_back(one)
        return True

    def _note_back(self, one: Return, sign: int = 1) -> None:
        for line, net in one.nets.items():
            one.invoice.back_of_line[line] += sign * net
        for tax, amount in one.taxes.items():
            one.invoice.back_of_tax[tax] += sign * amount

    # ---- giving back -------------------------------------------------------------------------

    def _split(self, one: Return) -> tuple[int, int, int, int]:
        """Of what goes back: not owed any more, gone by hand before, given now, and withheld."""
        invoice = one.invoice
        reduction = min(one.total, invoice.owed)
        paid = one.total - reduction
        free = max(invoice.settled - invoice.given, 0)
        by_hand = max(invoice.by_hand - invoice.covered, 0)
        before = min(paid, free, by_hand)
        wanted = min(paid, free) - before
        given = min(wanted, max(free - by_hand - invoice.disputed, 0))
        return reduction, before, given, min(wanted - given, invoice.disputed)

    def _write(self, one: Return) -> Note | None:
        """A credit note over what can be given now."""
        reduction, before, given, withheld = self._split(one)
        noted = reduction + before + given
        if noted < one.total:
            one, rest = _parted(one, noted)
            if withheld:
                kept, _ = _parted(rest, withheld)
                one.invoice.withheld.append(kept)
                self._note_back(kept)
        if not one.total:
            return None
        for line, since in one.since.items():
            if line in one.nets:
                one.invoice.gone[line] = min(one.invoice.gone.get(line, since), since)
        return self._issue(one)

    def _issue(self, one: Return) -> Note:
        invoice = one.invoice
        reduction, before, given, _ = self._split(one)
        refund = 0
        if one.refund:
            can = invoice.by_card - invoice.refunded - invoice.by_hand - invoice.disputed
            refund = min(given, max(can, 0))
        note = Note(invoice, one.total, refund, given - refund, before, reduction)
        invoice.credited += one.total
        invoice.refunded += refund
        invoice.covered += before
        invoice.reduced += reduction
        self._note_back(one)
        self.notes.append(note)
        self.credit += note.credit
        if reduction:
            self._settle(invoice)
        return note

    def credit_note(
        self, invoice: Invoice, *, line: int | None, amount: int | None, refund: bool
    ) -> None:
        """Staff took back a line's amount, an amount, or all that is left; as was accepted."""
        nets: dict[Line, int] = {}
        taxes: dict[Tax, int] = {}
        if line is not None and amount is not None:
            chosen = invoice.lines[line]
            net = amount
            if chosen.inclusive:
                net = nearest(Fraction(amount * 100, 100 + chosen.tax[1]))
            nets[chosen] = net
            taxes[chosen.tax] = _tax_of(invoice, chosen.tax, net)
        elif amount is None and not invoice.brought:
            own = invoice.own_lines
            nets = {one: invoice.left_of(one) for one in own if invoice.left_of(one)}
            for tax in {one.tax for one in nets}:
                taxes[tax] = invoice.tax_left(tax)
        else:
            amount = (
                max(invoice.total - invoice.credited - invoice.moved, 0)
                if amount is None
                else amount
            )
            whole = Return(
                invoice,
                {one: invoice.left_of(one) for one in invoice.own_lines},
                {tax: invoice.tax_left(tax) for tax in invoice.groups},
            )
            part, _ = _parted(whole, amount)
            nets, taxes = part.nets, part.taxes
        self._issue(Return(invoice, nets, taxes, refund))

    # ---- money and staff ---------------------------------------------------------------------

    def receive(self, invoice: Invoice, amount: int, *, by_card: bool) -> None:
        applied = min(amount, invoice.owed)
        invoice.paid += applied
        invoice.by_card += applied if by_card else 0
        if not by_card:
            self.credit += amount - applied
        if applied:
            self._settle(invoice)

    def void(self, invoice: Invoice) -> None:
        """Nothing of it counts: what paid for it is credit again, once."""
        invoice.status = "void"
        by_hand = max(invoice.by_hand - invoice.covered, 0)
        self.credit += max(invoice.credit_applied + invoice.paid - invoice.given - by_hand, 0)
        self._let_be(invoice)

    def _let_be(self, invoice: Invoice) -> None:
        """What its negative lines took back of others was not taken back after all."""
        if invoice.given > invoice.credit_applied + invoice.paid:
            return  # of what its negative lines brought, a part was given back
        for line in invoice.lines:
            if line.takes_from is not None:
                other, of = line.takes_from
                back = Return(other, {of: -line.net}, {of.tax: line.takes_tax})
                self._note_back(back, -1)
                other.moved -= back.total
        invoice.brought = 0

    def reissue(self, voided: Invoice, *, at: datetime) -> None:
        """Made again as it was charged, discounts taken off, with the tax of its day.

        What its subscription took back of it is not billed anew.
        """
        lines: list[Line] = []
        again_of: dict[Line, Line] = {}
        since: dict[Invoice, dict[Line, datetime]] = defaultdict(dict)
        tax = self.tax_on(voided.supplied)
        beside = [(old.takes_beside, old.starts) for old in voided.lines if old.takes_beside]
        for old in voided.lines:
            if old.takes_beside is not None:
                continue
            if old.takes_from is not None:
                charge = old.takes_from[1].charge
                known = self._line_of(charge) if charge else None
                if known is not None:
                    since[known[0]][known[1]] = old.starts
            else:
                line = Line(old.charge, old.charged, old.starts, old.ends, tax, old.inclusive)
                lines.append(line)
                again_of[old] = line
        for old, starts in [*voided.gone.items(), *beside]:
            of = again_of[old]
            before = sum(line.amount for line in lines if line.takes_beside is of)
            worth = nearest(of.charged * _share(of, starts)) + before
            if worth > 0:
                line = Line(None, -worth, starts, of.ends, tax, of.inclusive)
                line.takes_beside = of
                lines.append(line)
        voided.reissued = True
        returns = [self._worth(of, lines_since) for of, lines_since in since.items()]
        returns = [one for one in returns if one.total > 0]
        bill = Bill(voided.subscription or UUID(int=0), voided.reason, at)
        again = Invoice(voided.subscription, lines, at, voided.reason, voided.supplied)
        again.subscriptions = voided.subscriptions
        self.made += 1
        self._complete(again, bill, returns, made=self.made)

    def give_up(self, invoice: Invoice) -> None:
        invoice.status = "uncollectible"

    def dispute_decided(self, invoice: Invoice) -> None:
        """What waited for it is given, as far as it can be now."""
        waiting, invoice.withheld = invoice.withheld, []
        for one in waiting:
            self._note_back(one, -1)
        for one in waiting:
            self._write(one)

    # ---- tax ---------------------------------------------------------------------------------

    def tax_on(self, supplied: datetime) -> Tax:
        day = supplied.astimezone(ZoneInfo(self.zone)).date()
        if self.has_number and self.country not in {SELLER, "US"}:
            return ("AE", 0, self.country)
        if self.country not in RATES:
            return ("G", 0, self.country)
        rate = [rate for begins, rate in RATES[self.country] if begins <= day]
        return ("S", (rate or [RATES[self.country][0][1]])[-1], self.country)


def _taken_beside(of: Line, since: datetime) -> list[Line]:
    worth = nearest(of.charged * _share(of, since))
    if not worth:
        return []
    line = Line(None, -worth, since, of.ends, of.tax, of.inclusive)
    line.takes_beside = of
    return [line]


def _share(line: Line, since: datetime) -> Fraction:
    whole = line.ends - line.starts
    if not whole:
        return Fraction(1)
    left = line.ends - min(max(since, line.starts), line.ends)
    return Fraction(int(left.total_seconds()), int(whole.total_seconds()))


def _taken_off(coupon: Coupon, amount: int | None, whole: int) -> int:
    if amount is not None:
        return min(amount, whole)
    return nearest(whole * Fraction(coupon.told["percent"]) / 100)


def _between(tax: int, left: int) -> int:
    return max(0, min(tax, left)) if left >= 0 else min(0, max(tax, left))


def _tax_of(invoice: Invoice, tax: Tax, net: int) -> int:
    left = invoice.tax_left(tax)
    if net == invoice.net_left(tax):
        return left
    return _between(nearest(net * Fraction(tax[1]) / 100), left)


def _sum_up(invoice: Invoice) -> None:
    """Net of each line, and the tax of each group, rounded once."""
    for tax in dict.fromkeys(line.tax for line in invoice.lines):
        lines = [line for line in invoice.lines if line.tax == tax]
        without = [line for line in lines if line.inclusive]
        part = Fraction(100, 100 + tax[1])
        gross = sum(line.charged for line in without)
        net = gross - nearest(gross * (1 - part))
        exact = [line.charged * part for line in without]
        nets = [one.__floor__() for one in exact]
        order = sorted(range(len(nets)), key=lambda i: nets[i] - exact[i])
        for i in order[: net - sum(nets)]:
            nets[i] += 1
        for line, line_net in zip(without, nets, strict=True):
            line.net = line_net
        for line in lines:
            if not line.inclusive:
                line.net = line.charged
        taxable = sum(line.net for line in lines)
        if len(without) == len(lines):
            invoice.groups[tax] = [taxable, gross - taxable]
        else:
            invoice.groups[tax] = [taxable, nearest(taxable * Fraction(tax[1]) / 100)]


def _parted(whole: Return, amount: int) -> tuple[Return, Return]:
    """So much of a return with its tax, and the rest of it."""
    by_tax = {
        tax: ({line: net for line, net in whole.nets.items() if line.tax == tax}, left)
        for tax, left in whole.taxes.items()
    }
    lefts = {tax: sum(nets.values()) + left for tax, (nets, left) in by_tax.items()}
    groups = [tax for tax, left in lefts.items() if left > 0]
    nets: dict[Line, int] = {}
    taxes: dict[Tax, int] = {}
    if amount:
        for tax, gross in zip(groups, shares(amount, [lefts[tax] for tax in groups]), strict=True):
            mine, tax_left = by_tax[tax]
            if not gross:
                continue
            if gross == lefts[tax]:
                nets |= mine
                taxes[tax] = tax_left
                continue
            rate = Fraction(tax[1])
            of_tax = _between(nearest(gross * rate / (100 + rate)), tax_left)
            of_tax = max(of_tax, gross - sum(mine.values()))
            charged = [line for line, net in mine.items() if net > 0]
            parts = shares(gross - of_tax, [mine[line] for line in charged])
            nets |= dict(zip(charged, parts, strict=True))
            taxes[tax] = of_tax
    rest_nets = {line: net - nets.get(line, 0) for line, net in whole.nets.items()}
    rest_taxes = {tax: left - taxes.get(tax, 0) for tax, left in whole.taxes.items()}
    part = Return(whole.invoice, nets, taxes, whole.refund, whole.since)
    return part, Return(whole.invoice, rest_nets, rest_taxes, whole.refund, whole.since)
