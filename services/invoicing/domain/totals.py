"""From charges to lines, discounts, tax groups and totals, as EN 16931 adds them up."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from math import floor
from typing import Any, Literal, Self
from uuid import UUID

from services.invoicing.domain.tax import ZERO, TaxCode, TaxDecision
from shared.errors import Invalid
from shared.events.subscriptions import Charge, Discount, TakeBack
from shared.ids import new_id
from shared.money import allocate, round_half_away

#: The kind of the line that moves a negative total to the account's credit, as releases before
#: take-backs need it, which charge below zero.
CARRIED_OVER = "carried_over"
#: The kind of a line that takes another one back.
TAKEN_BACK = "proration_credit"

GiveBack = Literal["credit", "refund"]


@dataclass(frozen=True)
class Bundle:
    """Charges with the discounts that apply to them and to no others, and what is taken back.

    `give_back` says where what was paid of the take-backs goes, where it is no negative line.
    """

    charges: tuple[Charge, ...]
    discounts: tuple[Discount, ...] = ()
    subscription_id: UUID | None = None
    take_backs: tuple[TakeBack, ...] = ()
    give_back: GiveBack = "credit"

    def as_json(self) -> dict[str, Any]:
        """As a draft keeps it until it is finalized."""
        kept: dict[str, Any] = {
            "charges": [charge.model_dump(mode="json") for charge in self.charges],
            "discounts": [discount.model_dump(mode="json") for discount in self.discounts],
            "subscription_id": str(self.subscription_id) if self.subscription_id else None,
        }
        if self.take_backs:
            kept["take_backs"] = [one.model_dump(mode="json") for one in self.take_backs]
            kept["give_back"] = self.give_back
        return kept

    @classmethod
    def from_json(cls, kept: dict[str, Any]) -> Self:
        subscription_id = kept["subscription_id"]
        return cls(
            charges=tuple(Charge.model_validate(charge) for charge in kept["charges"]),
            discounts=tuple(Discount.model_validate(discount) for discount in kept["discounts"]),
            subscription_id=UUID(subscription_id) if subscription_id else None,
            take_backs=tuple(TakeBack.model_validate(one) for one in kept.get("take_backs", ())),
            give_back=kept.get("give_back", "credit"),
        )

    def with_take_back(self, take_back: TakeBack) -> "Bundle":
        """The same, with one more charge taken back; a repeat changes nothing."""
        if any(one.id == take_back.id for one in self.take_backs):
            return self
        return replace(self, take_backs=(*self.take_backs, take_back))


def split_take_backs(bundles: Sequence[Bundle]) -> tuple[list[TakeBack], list[TakeBack]]:
    """Those that take back a charge of these bundles, and those of what was billed before."""
    here = {charge.id for bundle in bundles for charge in bundle.charges}
    every = [one for bundle in bundles for one in bundle.take_backs]
    return (
        [one for one in every if one.charge_id in here],
        [one for one in every if one.charge_id not in here],
    )


def share_left(start: datetime, end: datetime, since: datetime) -> Fraction:
    """The part of a period from `since` on; all of one that has no length."""
    if end <= start:
        return Fraction(1)
    unit = timedelta(microseconds=1)
    left = end - min(max(since, start), end)
    return Fraction(left // unit, (end - start) // unit)


@dataclass(kw_only=True)
class ComputedLine:
    """One charge on its way to an invoice line.

    `amount` and `discount` are as charged (with the tax in them for inclusive prices);
    `subtotal` and `net` are without tax, before and after the discount.
    """

    charge: Charge
    kind: str
    decision: TaxDecision
    subscription_id: UUID | None
    amount: int
    discount: int = 0
    subtotal: int = 0
    net: int = 0
    why: dict[str, Any] = field(default_factory=dict)
    #: The charge beside it that it takes back.
    takes_back_charge: UUID | None = None
    #: The line of an earlier invoice that it takes back, and the tax that goes with it.
    takes_back: UUID | None = None
    takes_back_tax: int | None = None

    @property
    def inclusive(self) -> bool:
        return self.charge.tax_behavior == "inclusive"

    @property
    def discounted(self) -> int:
        return self.amount - self.discount


@dataclass(frozen=True, kw_only=True)
class TaxGroup:
    """Tax of one (category, rate): BG-23 of EN 16931. `taxable` and `tax` in minor units."""

    code: TaxCode
    rate: Decimal
    country: str
    taxable: int
    tax: int
    why: str
    exemption_code: str | None = None
    exemption_reason: str | None = None

    def as_json(self) -> dict[str, Any]:
        return {
            "category": self.code.value,
            "rate": f"{self.rate.normalize():f}",
            "country": self.country,
            "taxable": self.taxable,
            "tax": self.tax,
            "why": self.why,
            "exemption_code": self.exemption_code,
            "exemption_reason": self.exemption_reason,
        }


@dataclass(frozen=True, kw_only=True)
class Totals:
    """The whole sum. `carried_over` is what a negative total gives to the account's credit.

    `brought` is what its negative lines take back of earlier invoices, with tax.
    """

    currency: str
    lines: tuple[ComputedLine, ...]
    groups: tuple[TaxGroup, ...]
    subtotal: int
    discount: int
    net: int
    tax: int
    total: int
    carried_over: int
    brought: int = 0


def compute(
    bundles: Sequence[Bundle], *, currency: str, decide: Callable[[str], TaxDecision]
) -> Totals:
    """Lines less discounts are the net, plus tax per group the total, which is never negative."""
    lines: list[ComputedLine] = []
    for bundle in bundles:
        part = [_line(charge, bundle, currency, decide) for charge in bundle.charges]
        for discount in bundle.discounts:
            _apply(discount, part, currency)
        lines.extend(part)
    lines.extend(_taken_back(split_take_backs(bundles)[0], lines))
    groups = _tax(lines)
    total = sum(group.taxable + group.tax for group in groups)
    carried = 0
    if total < 0:
        carried = -total
        lines.append(_carried_over(carried, currency, lines))
        groups = _tax(lines)
    net = sum(line.net for line in lines)
    subtotal = sum(line.subtotal for line in lines)
    tax = sum(group.tax for group in groups)
    return Totals(
        currency=currency,
        lines=tuple(lines),
        groups=groups,
        subtotal=subtotal,
        discount=subtotal - net,
        net=net,
        tax=tax,
        total=net + tax,
        carried_over=carried,
    )


def _line(
    charge: Charge, bundle: Bundle, currency: str, decide: Callable[[str], TaxDecision]
) -> ComputedLine:
    if charge.currency != currency:
        raise Invalid(f"A charge in {charge.currency} cannot be on an invoice in {currency}.")
    decision = decide(charge.tax_category)
    why = {**charge.why, "tax": why_taxed(decision)}
    return ComputedLine(
        charge=charge,
        kind=charge.kind,
        decision=decision,
        subscription_id=bundle.subscription_id,
        amount=charge.amount,
        why=why,
    )


def _apply(discount: Discount, lines: list[ComputedLine], currency: str) -> None:
    """Split one discount over the lines by largest remainder, ties by line order.

    A percentage covers credits too: what was sold at half the price is given back at half the
    price. A fixed amount reduces what is charged, never below zero, and leaves credits alone.
    """
    meant = discount.charge_ids
    lines = [line for line in lines if meant is None or line.charge.id in meant]
    charged = [line for line in lines if line.discounted > 0]
    if discount.percent is not None:
        percent = Decimal(discount.percent)
        rule = f"{_text(percent)} % of the lines, split by largest remainder"
        credited = [line for line in lines if line.discounted < 0]
        for side in (charged, credited):
            whole = sum(line.discounted for line in side)
            _spread(discount, round_half_away(whole * percent / 100), side, rule)
    elif discount.amount is not None:
        if discount.currency not in (None, currency):
            return
        whole = sum(line.discounted for line in charged)
        rule = "a fixed amount over the lines, split by largest remainder"
        _spread(discount, min(discount.amount, whole), charged, rule)


def _spread(discount: Discount, amount: int, lines: list[ComputedLine], rule: str) -> None:
    if amount == 0 or not lines:
        return
    shares = allocate(amount, [abs(line.discounted) for line in lines])
    for line, share in zip(lines, shares, strict=True):
        line.discount += share
        line.why.setdefault("discounts", []).append(
            {"code": discount.code, "rule": rule, "whole": amount, "share": share}
        )


def why_taxed(decision: TaxDecision) -> dict[str, Any]:
    """Why a line bears this tax."""
    return {"category": decision.code.value, "rate": _text(decision.rate), "why": decision.why}


def why_taken_back(
    take_back: TakeBack,
    *,
    whole: int,
    amount: int,
    period: tuple[datetime, datetime],
    tax: Mapping[str, Any] | None,
    line: int,
    invoice: str | None = None,
) -> dict[str, Any]:
    """The words of the subscription, and of what the share was taken and what it came to.

    `amount` is as its line shows it: below zero on an invoice, above on a credit note. `tax` is
    that of the line that is taken back; `invoice` None: that line is beside it.
    """
    share = share_left(*period, take_back.starts_at)
    return {
        **take_back.why,
        **({"tax": tax} if tax else {}),
        "taken_back": {
            **({"invoice": invoice} if invoice else {}),
            "line": line,
            "charge_id": str(take_back.charge_id),
            "whole": whole,
            "fraction": str(share),
            "amount": amount,
        },
    }


def _taken_back(take_backs: Sequence[TakeBack], lines: list[ComputedLine]) -> list[ComputedLine]:
    """Negative lines for charges that are beside them: what they come to after their discounts.

    All that takes back a charge never comes to more than the charge.
    """
    of_charge = {line.charge.id: line for line in lines}
    position = {line.charge.id: number for number, line in enumerate(lines, start=1)}
    taken: dict[UUID, int] = defaultdict(int)
    made = []
    for take_back in take_backs:
        line = of_charge[take_back.charge_id]
        share = share_left(line.charge.period_start, line.charge.period_end, take_back.starts_at)
        worth = max(round_fraction(line.discounted * share) - taken[line.charge.id], 0)
        if not worth:
            continue
        taken[line.charge.id] += worth
        computed = negative_line(
            take_back,
            amount=worth,
            currency=line.charge.currency,
            behavior=line.charge.tax_behavior,
            category=line.charge.tax_category,
            decision=line.decision,
            subscription_id=line.subscription_id,
        )
        computed.takes_back_charge = line.charge.id
        computed.why = why_taken_back(
            take_back,
            whole=line.discounted,
            amount=-worth,
            period=(line.charge.period_start, line.charge.period_end),
            tax=why_taxed(line.decision),
            line=position[line.charge.id],
        )
        made.append(computed)
    return made


def negative_line(
    take_back: TakeBack,
    *,
    amount: int,
    currency: str,
    behavior: Literal["exclusive", "inclusive"],
    category: str,
    decision: TaxDecision,
    subscription_id: UUID | None,
) -> ComputedLine:
    """A line that takes `amount` back, in the words of the take-back."""
    charge = Charge(
        id=take_back.id,
        kind="proration_credit",
        description=take_back.description,
        unit_amount=str(-amount),
        amount=-amount,
        currency=currency,
        period_start=min(max(take_back.starts_at, take_back.period_start), take_back.period_end),
        period_end=take_back.period_end,
        tax_category=category,
        tax_behavior=behavior,
        price_id=take_back.price_id,
        why=take_back.why,
    )
    return ComputedLine(
        charge=charge,
        kind=TAKEN_BACK,
        decision=decision,
        subscription_id=subscription_id,
        amount=-amount,
        why=dict(take_back.why),
    )


def _tax(lines: Sequence[ComputedLine]) -> tuple[TaxGroup, ...]:
    """Tax per (category, rate) on the sum, rounded once; sets each line's net."""
    groups: dict[tuple[Any, ...], list[ComputedLine]] = defaultdict(list)
    for line in lines:
        decision = line.decision
        groups[decision.code, decision.rate].append(line)
    return tuple(_tax_of(group) for group in groups.values())


def _tax_of(lines: list[ComputedLine]) -> TaxGroup:
    decision = lines[0].decision
    rate = decision.rate
    exclusive = [line for line in lines if not line.inclusive]
    inclusive = [line for line in lines if line.inclusive]
    for line in exclusive:
        line.subtotal, line.net = line.amount, line.discounted
    if inclusive:
        _take_tax_out(inclusive, rate)
    taxable = sum(line.net for line in lines)
    if inclusive and not exclusive:
        # The price that was promised is the gross: tax is what the rounded net leaves of it.
        tax = sum(line.discounted for line in inclusive) - taxable
    else:
        tax = round_half_away(taxable * rate / 100)
    return TaxGroup(
        code=decision.code,
        rate=rate,
        country=decision.country,
        taxable=taxable,
        tax=tax,
        why=_together(line.decision.why for line in lines) or "",
        exemption_code=_together(line.decision.exemption_code for line in lines),
        # Exempt for several reasons is one group that names them all (BR-E-01).
        exemption_reason=_together(line.decision.exemption_reason for line in lines),
    )


def _together(texts: Iterable[str | None]) -> str | None:
    """Different texts in the order in which they came."""
    return "; ".join(dict.fromkeys(text for text in texts if text)) or None


def _take_tax_out(lines: list[ComputedLine], rate: Decimal) -> None:
    """Round the tax in the sum of inclusive lines once, and share the net out over them."""
    part = Fraction(100) / (100 + Fraction(rate))
    gross = sum(line.discounted for line in lines)
    net = gross - round_fraction(gross * (1 - part))
    discount = round_fraction(sum(line.discount for line in lines) * part)
    nets = _apportion(net, [line.discounted * part for line in lines])
    discounts = _apportion(discount, [line.discount * part for line in lines])
    for line, line_net, line_discount in zip(lines, nets, discounts, strict=True):
        line.net = line_net
        line.subtotal = line_net + line_discount


def _apportion(total: int, quotas: list[Fraction]) -> list[int]:
    """Whole parts of `quotas` that sum to `total`, the rounded sum of them; signs may differ."""
    parts = [floor(quota) for quota in quotas]
    left = total - sum(parts)
    by_remainder = sorted(range(len(quotas)), key=lambda i: parts[i] - quotas[i])
    for i in by_remainder[:left]:
        parts[i] += 1
    return parts


def round_fraction(value: Fraction) -> int:
    """Half away from zero, on an exact fraction."""
    whole = floor(abs(value) + Fraction(1, 2))
    return whole if value >= 0 else -whole


def _carried_over(amount: int, currency: str, lines: Sequence[ComputedLine]) -> ComputedLine:
    last = lines[-1]
    of_one = len({line.subscription_id for line in lines}) == 1
    reason = "Not a supply: moved to the account's credit"
    charge = Charge(
        id=new_id(),
        kind="one_off",
        description="Moved to account credit",
        unit_amount=str(amount),
        amount=amount,
        currency=currency,
        period_start=last.charge.period_start,
        period_end=last.charge.period_end,
        tax_category="exempt",
        why={"rule": "a total is never below zero; the rest becomes account credit"},
    )
    return ComputedLine(
        charge=charge,
        kind=CARRIED_OVER,
        decision=TaxDecision(
            code=TaxCode.EXEMPT,
            rate=ZERO,
            country=last.decision.country,
            why=reason,
            exemption_reason=reason,
        ),
        subscription_id=last.subscription_id if of_one else None,
        amount=amount,
        why=dict(charge.why),
    )


def _text(value: Decimal) -> str:
    return f"{value.normalize():f}"
