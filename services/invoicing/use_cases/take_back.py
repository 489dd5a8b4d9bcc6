"""Take back what was billed: find the lines, say what they are worth, and write it down."""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from uuid import UUID

from services.invoicing.domain.credit_note import CreditNote, Earlier, Settle, Split, Taken
from services.invoicing.domain.invoice import Invoice, Status
from services.invoicing.domain.take_back import (
    Claim,
    Return,
    Shortfall,
    given_back_by,
    take_shares,
)
from services.invoicing.domain.totals import Bundle, split_take_backs
from services.invoicing.domain.unnamed import Origin, carried_over, taken_beside
from services.invoicing.repository import InvoicingUnitOfWork
from services.invoicing.use_cases.write_credit_note import write_credit_note
from shared.events.subscriptions import TakeBack
from shared.observability import logger

log = logger(__name__)


@dataclass(frozen=True)
class Wanted:
    """A charge of a subscription that was billed before and is taken back."""

    subscription_id: UUID
    take_back: TakeBack
    settle: Settle


def wanted_of(bundles: Sequence[Bundle]) -> list[Wanted]:
    """What these take back of other bills."""
    before = {one.id for one in split_take_backs(bundles)[1]}
    return [
        Wanted(bundle.subscription_id, one, Settle(bundle.give_back))
        for bundle in bundles
        for one in bundle.take_backs
        if one.id in before and bundle.subscription_id is not None
    ]


async def find_lines(
    uow: InvoicingUnitOfWork, wanted: Sequence[Wanted], *, quietly: bool = False
) -> dict[UUID, list[tuple[Wanted, UUID]]]:
    """By invoice, what is wanted of it and the line that it is."""
    of_subscription: dict[UUID, list[Wanted]] = defaultdict(list)
    for one in wanted:
        of_subscription[one.subscription_id].append(one)
    found: dict[UUID, list[tuple[Wanted, UUID]]] = defaultdict(list)
    for subscription_id, theirs in of_subscription.items():
        lines = await uow.invoices.lines_of_charges(
            subscription_id, [one.take_back for one in theirs]
        )
        for one in theirs:
            line = lines.get(one.take_back.id)
            if line is not None:
                found[line.invoice_id].append((one, line.id))
            elif not quietly:
                log.warning(
                    "Nothing was billed of what is taken back",
                    subscription_id=str(subscription_id),
                    charge_id=str(one.take_back.charge_id),
                )
    return found


async def find_origins(
    uow: InvoicingUnitOfWork, invoice_ids: Collection[UUID]
) -> dict[UUID, list[Origin]]:
    """By invoice, by which earlier lines what it gives back without a name was billed; and so on.

    Only what releases before take-backs wrote does that; for all others one look tells so.
    """
    origins: dict[UUID, list[Origin]] = defaultdict(list)
    looked_at: set[UUID] = set()
    while invoice_ids := set(invoice_ids) - looked_at:
        looked_at |= invoice_ids
        unnamed = await uow.invoices.unnamed_credits(invoice_ids)
        if not unnamed:
            break
        of_these = {line.invoice_id for line in unnamed}
        beside = {
            credit
            for invoice in await uow.invoices.peek(of_these)
            for credit in taken_beside(invoice)
        }
        found = await uow.invoices.origins([one for one in unnamed if one.id not in beside])
        for one in found:
            origins[one.credit.invoice_id].append(one)
        invoice_ids = {one.billed.invoice_id for one in found}
    return origins


def with_origins(found: Collection[UUID], origins: Mapping[UUID, Sequence[Origin]]) -> set[UUID]:
    """All invoices of which something may be taken back."""
    return {*found, *(one.billed.invoice_id for of_one in origins.values() for one in of_one)}


async def find_returns(
    uow: InvoicingUnitOfWork,
    account_id: UUID,
    wanted: Sequence[Wanted],
    *,
    at: datetime,
    may_lapse: bool = False,
) -> list[Return]:
    """What these come to, under the locks of their invoices, the oldest first.

    What is billed by a draft is taken back there: the draft is computed again; and what was billed
    by a void invoice, by what replaces it. `may_lapse`: not yet.
    """
    if not wanted:
        return []
    await uow.settle_invoices(account_id)
    found = await find_lines(uow, wanted)
    origins = await find_origins(uow, found)
    await uow.invoices.hold(with_origins(found, origins))
    known = {invoice_id: await uow.invoices.get(invoice_id) for invoice_id in sorted(found)}
    if any(line_id not in _line_ids(known[key]) for key, of in found.items() for _, line_id in of):
        # It was computed again while its lock was waited for.
        found = await find_lines(uow, wanted)
        origins = await find_origins(uow, found)
        known = {invoice_id: await uow.invoices.get(invoice_id) for invoice_id in sorted(found)}
    due: dict[UUID, list[tuple[Wanted, UUID]]] = {}
    for invoice_id, invoice in known.items():
        if may_lapse and invoice.status in {Status.DRAFT, Status.VOID}:
            continue
        if invoice.status is Status.DRAFT:
            await _take_back_in_draft(uow, invoice, found[invoice_id], at=at)
        elif invoice.status is Status.VOID:
            for one, line_id in found[invoice_id]:
                named = one.take_back.model_copy(update={"charge_id": line_id})
                invoice.take_back_when_made_again(one.subscription_id, named)
        else:
            due[invoice_id] = found[invoice_id]
    for invoice_id in with_origins(due, origins) - set(known):
        known[invoice_id] = await uow.invoices.get(invoice_id)
    return await _returns_of(uow, known, due, origins)


async def foresee_returns(uow: InvoicingUnitOfWork, wanted: Sequence[Wanted]) -> list[Return]:
    """What these would come to if they were taken back now; nothing is locked or changed."""
    found = await find_lines(uow, wanted) if wanted else {}
    origins = await find_origins(uow, found)
    invoices = await uow.invoices.peek(with_origins(found, origins))
    known = {invoice.id: invoice for invoice in invoices}
    due = {key: of for key, of in found.items() if key in known}
    return await _returns_of(uow, known, due, origins)


async def _returns_of(
    uow: InvoicingUnitOfWork,
    invoices: Mapping[UUID, Invoice],
    found: Mapping[UUID, Sequence[tuple[Wanted, UUID]]],
    origins: Mapping[UUID, Sequence[Origin]],
) -> list[Return]:
    """What is taken back of each, the oldest first.

    What the newest of them cannot give, since something that names no line had paid a part of it,
    is claimed of the older ones that had billed that.
    """
    claims: dict[UUID, list[Claim]] = defaultdict(list)
    returns = []
    for invoice_id in sorted(with_origins(found, origins), reverse=True):
        invoice, of_these = invoices[invoice_id], origins.get(invoice_id, ())
        if invoice.status in {Status.DRAFT, Status.VOID}:
            continue
        one = await _return_of(uow, invoice, found.get(invoice_id, ()), claims[invoice_id])
        if one is None:
            continue
        missing = one.taken.total - one.split.noted - one.split.withheld
        if missing > 0 and of_these:
            settle, answers = one.settle, one.answers
            shortfall = Shortfall(missing, carried_over(invoice), settle, answers)
            for origin in of_these:
                claim = Claim(shortfall, origin, invoice.number or "")
                claims[origin.billed.invoice_id].append(claim)
            one = one.without(missing)
        if one.taken.total:
            returns.append(one)
    return returns[::-1]


async def earlier_of(uow: InvoicingUnitOfWork, invoice: Invoice) -> Earlier:
    """What went back of an invoice before."""
    return Earlier.of(
        await uow.credit_notes.list_of(invoice.id) if invoice.amount_credited else [],
        moved=await uow.invoices.lines_that_take_back(invoice),
        withheld=invoice.withheld,
    )


async def write_return(uow: InvoicingUnitOfWork, one: Return, *, at: datetime) -> CreditNote | None:
    """A credit note over what can be given now; what a dispute holds waits for its end."""
    invoice = one.invoice
    taken, held = one.divide()
    if held.total:
        invoice.withhold(_as_json(held, one), held.total)
    if not taken.total:
        return None
    note = await write_credit_note(
        uow,
        invoice,
        taken,
        reason=one.reason,
        settle=one.settle,
        take_backs=one.take_backs,
        at=at,
    )
    await give_when_paid(uow, invoice, at=at)
    return note


async def give_withheld(uow: InvoicingUnitOfWork, invoice: Invoice, *, at: datetime) -> None:
    """A dispute was decided: give what waited for it, as far as it can be given now."""
    for entry in invoice.release():
        lines = {line.id: line for line in invoice.lines}
        nets = {UUID(line_id): net for line_id, net in entry["lines"].items()}
        taken = Taken([(lines[line_id], net) for line_id, net in nets.items()], entry["taxes"])
        one = Return(
            invoice=invoice,
            taken=taken,
            split=Split.of(invoice, taken.total),
            take_backs={
                UUID(line_id): TakeBack.model_validate(kept)
                for line_id, kept in entry["take_backs"].items()
            },
            settle=Settle(entry["settle"]),
            because=entry["because"],
        )
        await write_return(uow, one, at=at)


async def give_when_paid(uow: InvoicingUnitOfWork, invoice: Invoice, *, at: datetime) -> None:
    """The invoice of a change that waited for it is paid: now its take-backs count."""
    if invoice.status is not Status.PAID or not invoice.basis:
        return
    bundles = [Bundle.from_json(kept) for kept in invoice.basis]
    invoice.basis = []
    await take_back_at_last(uow, invoice, bundles, at=at)


async def take_back_at_last(
    uow: InvoicingUnitOfWork, invoice: Invoice, bundles: Sequence[Bundle], *, at: datetime
) -> None:
    """What a paid change takes back beside its invoice: also of what waits to be billed."""
    rest = []
    for bundle in bundles:
        waiting = []
        if bundle.subscription_id is not None:
            waiting = await uow.pending.waiting(bundle.subscription_id, invoice.currency)
        billed = [
            one for one in bundle.take_backs if not any(other.take_back(one) for other in waiting)
        ]
        rest.append(replace(bundle, take_backs=tuple(billed)))
    await take_back(uow, invoice.account_id, rest, at=at)


async def take_back(
    uow: InvoicingUnitOfWork, account_id: UUID, bundles: Sequence[Bundle], *, at: datetime
) -> None:
    """Take back what no new bill is made for: by credit notes."""
    for one in await find_returns(uow, account_id, wanted_of(bundles), at=at):
        await write_return(uow, one, at=at)


async def _return_of(
    uow: InvoicingUnitOfWork,
    invoice: Invoice,
    found: Sequence[tuple[Wanted, UUID]],
    claims: Sequence[Claim],
) -> Return | None:
    """What is taken back of one invoice, if that is anything."""
    of_line: dict[UUID, list[TakeBack]] = defaultdict(list)
    for one, line_id in found:
        of_line[line_id].append(one.take_back)
    earlier = await earlier_of(uow, invoice)
    usage = [line for line in invoice.lines if line.id in of_line]
    for origin in await uow.invoices.usage_given_back(usage):
        earlier = earlier.plus(given_back_by(origin))
    taken = take_shares(invoice, earlier, of_line)
    refund = any(one.settle is Settle.REFUND for one, _ in found)
    answers = {one.take_back.id for one, _ in found}
    for claim in claims:
        part = claim.take(invoice, earlier.plus(taken))
        if not part.total:
            continue
        taken = taken.plus(part)
        of_line.setdefault(claim.origin.billed.id, [claim.take_back])
        refund = refund or claim.shortfall.settle is Settle.REFUND
        answers |= claim.shortfall.answers
    if taken.total <= 0:
        return None
    return Return(
        invoice=invoice,
        taken=taken,
        split=Split.of(invoice, taken.total),
        take_backs={line: _earliest(take_backs) for line, take_backs in of_line.items()},
        settle=Settle.REFUND if refund else Settle.CREDIT,
        answers=frozenset(answers),
    )


async def _take_back_in_draft(
    uow: InvoicingUnitOfWork,
    draft: Invoice,
    found: Sequence[tuple[Wanted, UUID]],
    *,
    at: datetime,
) -> None:
    # A draft is computed with what it takes back, and what is taken back may be a draft's.
    from services.invoicing.use_cases.draft_invoice import refill_draft  # noqa: PLC0415

    lines = {line.id: line for line in draft.lines}
    for one, line_id in found:
        charge_id = lines[line_id].charge_id or draft.charge_like(lines[line_id])
        if charge_id is not None:
            named = one.take_back.model_copy(update={"charge_id": charge_id})
            draft.take_back_in_draft(charge_id, named)
    await refill_draft(uow, draft)
    uow.emit(draft.draft(at=at))


def _earliest(take_backs: Sequence[TakeBack]) -> TakeBack:
    return min(take_backs, key=lambda one: one.starts_at)


def _line_ids(invoice: Invoice) -> set[UUID]:
    return {line.id for line in invoice.lines}


def _as_json(held: Taken, one: Return) -> dict[str, object]:
    take_backs: Mapping[UUID, TakeBack] = one.take_backs
    return {
        "lines": {str(line.id): net for line, net in held.lines},
        "taxes": held.taxes,
        "settle": one.settle.value,
        "take_backs": {
            str(line.id): take_backs[line.id].model_dump(mode="json")
            for line, _ in held.lines
            if line.id in take_backs
        },
        "because": one.because,
    }
