"""Taking back what was billed: what the rest of a line is worth, and where it is written."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from fractions import Fraction
from typing import Any
from uuid import UUID

from services.invoicing.domain.credit_note import (
    Earlier,
    LineGroup,
    Settle,
    Split,
    Taken,
    bounded,
    groups_of,
    part_of,
    taken_of,
)
from services.invoicing.domain.invoice import Invoice, InvoiceLine
from services.invoicing.domain.tax import TaxCode, TaxDecision
from services.invoicing.domain.totals import (
    ComputedLine,
    Totals,
    negative_line,
    round_fraction,
    share_left,
    why_taken_back,
    why_taxed,
)
from services.invoicing.domain.unnamed import Origin
from shared.events.subscriptions import TakeBack
from shared.ids import new_id
from shared.money import allocate


@dataclass(frozen=True, kw_only=True)
class Return:
    """What is taken back of one invoice: which lines, why, and what becomes of it."""

    invoice: Invoice
    taken: Taken
    split: Split
    #: By the line that each takes back.
    take_backs: Mapping[UUID, TakeBack]
    settle: Settle
    #: Which take-backs this answers: of other lines, where those had paid a part of what was meant.
    answers: frozenset[UUID] = frozenset()
    #: Why, where no subscription says it in its own words.
    because: str | None = None

    @property
    def is_plain(self) -> bool:
        """Whether all of it was paid and is here: it may stand on another invoice."""
        return self.split.given == self.taken.total

    def without(self, amount: int) -> "Return":
        """So much less."""
        taken, _ = part_of(self.invoice, self.taken, self.taken.total - amount)
        return replace(self, taken=taken, split=Split.of(self.invoice, taken.total))

    def divide(self) -> tuple[Taken, Taken]:
        """What a credit note says now, and what waits until a dispute is decided."""
        if self.split.noted >= self.taken.total:
            return self.taken, Taken([], [])
        now, rest = part_of(self.invoice, self.taken, self.split.noted)
        held, _ = part_of(self.invoice, rest, self.split.withheld)
        return now, held

    @property
    def reason(self) -> str:
        """In the words of what is taken back."""
        if self.because:
            return self.because
        words = "; ".join(dict.fromkeys(one.description for one in self.take_backs.values()))
        return words[:200]


@dataclass
class Shortfall:
    """What an invoice charged, is to give back, and was never asked to be paid for.

    What an earlier release gave back on it, without saying of which line, had paid that part; less
    what became account credit at the time.
    """

    amount: int
    credited_before: int
    settle: Settle
    answers: frozenset[UUID]

    def claim(self, most: int) -> int:
        """So much of what is left of a line that was given back pays for it."""
        before = min(self.credited_before, most)
        self.credited_before -= before
        claimed = min(self.amount, most - before)
        self.amount -= claimed
        return claimed


@dataclass(frozen=True)
class Claim:
    """A line of which a part is given back since it had paid for what is taken back."""

    shortfall: Shortfall
    origin: Origin
    invoice_number: str

    @property
    def take_back(self) -> TakeBack:
        credit, billed = self.origin.credit, self.origin.billed
        text = f"{credit.description}. It had paid a part of {self.invoice_number}."
        return TakeBack.model_validate(
            {
                "id": new_id(),
                "charge_id": billed.charge_id or billed.id,
                "starts_at": credit.period_start,
                "kind": billed.kind,
                "price_id": billed.price_id,
                "period_start": billed.period_start,
                "period_end": billed.period_end,
                "description": credit.description,
                "why": {"text": text, "quantity": billed.why.get("quantity"), "steps": []},
            }
        )

    def take(self, invoice: Invoice, earlier: Earlier) -> Taken:
        """The part of the line that is not given back yet, and is wanted."""
        whole = take_shares(invoice, earlier, {self.origin.billed.id: [self.take_back]})
        most = min(whole.total, self.origin.gross)
        amount = self.shortfall.claim(most) if most > 0 else 0
        return part_of(invoice, whole, amount)[0]


def given_back_by(origin: Origin) -> Taken:
    """What of a line went back by one that does not name it."""
    billed, net = origin.billed, min(-origin.credit.net, origin.billed.net)
    key = {"category": billed.tax_code, "rate": billed.tax_rate}
    tax = round_fraction(net * Fraction(billed.tax_rate) / 100)
    return Taken([(billed, net)], [{**key, "taxable": net, "tax": tax}])


def take_shares(
    invoice: Invoice, earlier: Earlier, take_backs: Mapping[UUID, Sequence[TakeBack]]
) -> Taken:
    """Of these lines what is left of them from the start of each take-back on.

    A line's net after its own discounts by the share of its period, less what went back of it
    before, so that its parts never come to more than the line. Of an inclusive line it is the
    gross that is shared, and its tax taken out.
    """
    nets: dict[UUID, int] = {}
    taxes = []
    for group in groups_of(invoice, earlier):
        mine: dict[UUID, int] = {}
        gross, promised = 0, True
        for line in group.lines:
            if line.id not in take_backs or line.net <= 0:
                continue
            since = min(one.starts_at for one in take_backs[line.id])
            share = share_left(line.period_start, line.period_end, since)
            net, of_gross = _worth(line, share, group)
            before = line.net - group.left[line.id]
            net = max(min(net - before, group.left[line.id]), 0)
            if net:
                mine[line.id] = net
                gross += of_gross
                promised &= line.tax_behavior == "inclusive" and not before
        if mine:
            nets |= mine
            taxes.append(_taxed(group, mine, gross if promised else None))
    return taken_of(invoice, nets, taxes)


def _worth(line: InvoiceLine, share: Fraction, group: LineGroup) -> tuple[int, int]:
    """A share of a line without tax, and as it was charged."""
    charged = line.amount - line.discount
    if share == 1:
        return line.net, charged
    if line.tax_behavior == "exclusive":
        net = round_fraction(line.net * share)
        return net, net
    gross = round_fraction(charged * share)
    tax = round_fraction(gross * Fraction(group.rate) / (100 + Fraction(group.rate)))
    return gross - tax, gross


def _taxed(group: LineGroup, nets: dict[UUID, int], gross: int | None) -> dict[str, Any]:
    """The tax group of what is taken: where a gross was promised, what the net leaves of it."""
    net = sum(nets.values())
    if net == group.net_left or gross is None:
        return group.take_nets(nets)
    return {**group.original, "taxable": net, "tax": bounded(gross - net, group.tax_left)}


def on_invoice(
    totals: Totals, returns: Sequence[Return], *, legal_entity_id: UUID
) -> Totals | None:
    """The invoice with these as negative lines; None where they do not fit on it.

    They fit where the same tax was charged as is charged now, and leave no group of tax and no
    total below zero. What they take off is to the minor unit what credit notes would give.
    """
    groups = {(group.code.value, group.rate): group for group in totals.groups}
    lines: list[ComputedLine] = []
    for one in returns:
        if one.invoice.legal_entity_id != legal_entity_id or totals.carried_over:
            return None
        for original in one.taken.taxes:
            key = (original["category"], Decimal(original["rate"]))
            group = groups.get(key)
            if group is None or group.country != original["country"]:
                return None
            groups[key] = less = replace(
                group,
                taxable=group.taxable - original["taxable"],
                tax=group.tax - original["tax"],
            )
            if min(less.taxable, less.tax) < 0:
                return None
            lines += _negative_lines(one, original, totals.currency)
    net = sum(group.taxable for group in groups.values())
    tax = sum(group.tax for group in groups.values())
    return replace(
        totals,
        lines=(*totals.lines, *lines),
        groups=tuple(groups.values()),
        subtotal=totals.subtotal + sum(line.subtotal for line in lines),
        net=net,
        tax=tax,
        total=net + tax,
        brought=sum(one.taken.total for one in returns),
    )


def _negative_lines(
    one: Return, original: Mapping[str, Any], currency: str
) -> Iterable[ComputedLine]:
    key = (original["category"], Decimal(original["rate"]))
    mine = [(line, net) for line, net in one.taken.lines if (line.tax_code, line.tax_rate) == key]
    taxes = allocate(original["tax"], [net for _, net in mine])
    for (line, net), tax in zip(mine, taxes, strict=True):
        inclusive = line.tax_behavior == "inclusive"
        amount = net + tax if inclusive else net
        computed = negative_line(
            one.take_backs[line.id],
            amount=amount,
            currency=currency,
            behavior="inclusive" if inclusive else "exclusive",
            category=line.tax_category,
            decision=TaxDecision(
                code=TaxCode(original["category"]),
                rate=key[1],
                country=original["country"],
                why=original["why"],
                exemption_code=original["exemption_code"],
                exemption_reason=original["exemption_reason"],
            ),
            subscription_id=line.subscription_id,
        )
        computed.subtotal = computed.net = -net
        computed.takes_back, computed.takes_back_tax = line.id, tax
        computed.why = why_taken_back(
            one.take_backs[line.id],
            whole=line.amount - line.discount if inclusive else line.net,
            amount=-amount,
            period=(line.period_start, line.period_end),
            tax=why_taxed(computed.decision),
            line=line.position,
            invoice=one.invoice.number,
        )
        yield computed
