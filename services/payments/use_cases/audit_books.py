"""Compare invoices, payments, ledger and providers, and name every difference by its class."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any
from uuid import UUID

from prometheus_client import Gauge
from sqlalchemy import func, select

from services.payments.domain import ledger
from services.payments.domain.ledger import EntryKind
from services.payments.domain.methods import OwedStatus
from services.payments.domain.payments import (
    IN_FLIGHT,
    OPEN_ATTEMPTS,
    AttemptStatus,
    PaymentStatus,
)
from services.payments.domain.refunds import RefundStatus
from services.payments.providers import provider
from services.payments.providers.base import Movement
from services.payments.repository import PaymentsUnitOfWork
from services.payments.tables import (
    attempts,
    ledger_entries,
    ledger_transactions,
    owed_invoices,
    payments,
    refunds,
)
from services.payments.use_cases.ask_providers import Begin
from shared.money import Money

#: What happened so recently may still be on its way between two services.
GRACE = timedelta(minutes=2)
BATCH = 1000


class DifferenceClass(StrEnum):
    MISSING_HERE = "missing_here"
    MISSING_THERE = "missing_there"
    AMOUNT = "amount"
    CURRENCY = "currency"
    STATE = "state"
    DUPLICATE = "duplicate"


DIFFERENCES = Gauge("reconciliation_differences", "What the last audit found, by class.", ["class"])
CLEARING_AGE = Gauge(
    "ledger_clearing_age_seconds", "Age of the oldest money that no invoice has taken."
)


@dataclass(frozen=True, slots=True)
class Difference:
    """Two books that do not say the same. `between` names them, `reference` what it is about."""

    kind: DifferenceClass
    between: str
    reference: str
    detail: str


@dataclass
class Audit:
    """What was compared and what came of it. `pending` is under way and no difference yet."""

    checked: Counter[str] = field(default_factory=Counter)
    pending: int = 0
    differences: list[Difference] = field(default_factory=list)

    def differ(self, kind: DifferenceClass, between: str, reference: object, detail: str) -> None:
        self.differences.append(Difference(kind, between, str(reference), detail))


async def audit_books(
    begin: Begin, providers: Iterable[str], *, now: datetime, since: datetime | None = None
) -> Audit:
    """Compare all four books. With `since`, only what moved at the providers after it."""
    audit = Audit()
    for name in providers:
        await _provider_against_attempts(begin, audit, name, since=since)
    async with begin() as uow:
        await _attempts_against_ledger(uow, audit, since=since)
        await _refunds_against_ledger(uow, audit, since=since)
        await _payments_against_invoices(uow, audit, now=now)
        await _measure_clearing(uow, now=now)
    counts = Counter(difference.kind for difference in audit.differences)
    for kind in DifferenceClass:
        DIFFERENCES.labels(kind.value).set(counts[kind])
    return audit


async def _provider_against_attempts(
    begin: Begin, audit: Audit, name: str, *, since: datetime | None
) -> None:
    """What the provider took and gave back is what our attempts and refunds say."""
    seen: Counter[str] = Counter()
    charged: defaultdict[UUID, list[str]] = defaultdict(list)
    batch: list[Movement] = []
    async for line in provider(name).movements(since=since):
        seen[line.key or line.reference] += 1
        batch.append(line)
        if len(batch) >= BATCH:
            await _compare_movements(begin, audit, name, batch, charged)
            batch = []
    await _compare_movements(begin, audit, name, batch, charged)
    for key, count in seen.items():
        if count > 1:
            detail = f"The provider did this {count} times under one key."
            audit.differ(DifferenceClass.DUPLICATE, f"{name}/payments", key, detail)
    for invoice_id, references in charged.items():
        if len(references) > 1:
            detail = f"Charged {len(references)} times: {', '.join(references)}."
            audit.differ(DifferenceClass.DUPLICATE, f"{name}/invoices", invoice_id, detail)
    await _ours_missing_there(begin, audit, name, seen, since=since)


async def _ours_missing_there(
    begin: Begin, audit: Audit, name: str, seen: Counter[str], *, since: datetime | None
) -> None:
    """What we say succeeded is in the provider's books."""
    async with begin() as uow:
        for table, done, started in (
            (attempts, AttemptStatus.SUCCEEDED, attempts.c.started_at),
            (refunds, RefundStatus.SUCCEEDED, refunds.c.created_at),
        ):
            ours = select(table.c.id, table.c.reference).where(
                table.c.provider == name, table.c.status == done
            )
            if since is not None:
                ours = ours.where(started >= since + GRACE)
            for row in await uow.session.execute(ours):
                if str(row.id) not in seen:
                    detail = f"Ours says {row.reference}; the provider's books lack it."
                    between = f"{name}/payments"
                    audit.differ(DifferenceClass.MISSING_THERE, between, row.id, detail)


async def _compare_movements(
    begin: Begin,
    audit: Audit,
    name: str,
    batch: Sequence[Movement],
    charged: defaultdict[UUID, list[str]],
) -> None:
    keys = [key for key in (_uuid(line.key) for line in batch) if key is not None]
    async with begin() as uow:
        known: dict[UUID, Any] = {}
        for table in (attempts, refunds):
            rows = await uow.session.execute(select(table).where(table.c.id.in_(keys)))
            known.update({row.id: row for row in rows})
    for line in batch:
        key = _uuid(line.key)
        ours = known.get(key) if key is not None else None
        audit.checked[f"{name}_{line.kind}s"] += 1
        between = f"{name}/payments"
        if ours is None:
            detail = f"The provider's {line.kind} {line.reference} of {line.amount} is not ours."
            audit.differ(DifferenceClass.MISSING_HERE, between, line.key or line.reference, detail)
            continue
        if line.kind == "charge":
            charged[ours.invoice_id].append(line.reference)
        if ours.status in (*OPEN_ATTEMPTS, RefundStatus.PENDING) and ours.ask_at is not None:
            audit.pending += 1
        elif ours.status != "succeeded":
            detail = f"The provider moved {line.amount}; ours is {ours.status}."
            audit.differ(DifferenceClass.STATE, between, ours.id, detail)
        elif ours.currency != line.amount.currency:
            detail = f"The provider moved {line.amount}; ours is in {ours.currency}."
            audit.differ(DifferenceClass.CURRENCY, between, ours.id, detail)
        elif ours.amount != line.amount.amount:
            detail = f"The provider moved {line.amount}; ours is {ours.amount}."
            audit.differ(DifferenceClass.AMOUNT, between, ours.id, detail)


async def _attempts_against_ledger(
    uow: PaymentsUnitOfWork, audit: Audit, *, since: datetime | None
) -> None:
    """Every charge is posted, once, in full, and nothing else is posted as a charge."""
    taken = select(attempts.c.id, attempts.c.amount, attempts.c.currency).where(
        attempts.c.status == AttemptStatus.SUCCEEDED
    )
    if since is not None:
        taken = taken.where(attempts.c.started_at >= since)
    ours = {str(row.id): row for row in await uow.session.execute(taken)}
    posted = await _posted(uow, (EntryKind.CHARGE,), ledger.CLEARING)
    _compare_postings(audit, "charges", ours, posted, whole=since is None)


async def _refunds_against_ledger(
    uow: PaymentsUnitOfWork, audit: Audit, *, since: datetime | None
) -> None:
    sent = select(refunds.c.id, refunds.c.amount, refunds.c.currency).where(
        refunds.c.status == RefundStatus.SUCCEEDED
    )
    if since is not None:
        sent = sent.where(refunds.c.created_at >= since)
    ours = {str(row.id): row for row in await uow.session.execute(sent)}
    kinds = (EntryKind.REFUND, EntryKind.SURPLUS_REFUND)
    posted = await _posted(uow, kinds, ledger.REFUNDS, ledger.CLEARING)
    _compare_postings(audit, "refunds", ours, posted, whole=since is None)


async def _posted(
    uow: PaymentsUnitOfWork, kinds: tuple[EntryKind, ...], *accounts: str
) -> dict[str, Money]:
    """What these kinds of movement posted to these accounts, by reference."""
    statement = (
        select(
            ledger_transactions.c.reference,
            ledger_entries.c.currency,
            func.sum(ledger_entries.c.amount),
        )
        .join(ledger_entries, ledger_entries.c.transaction_id == ledger_transactions.c.id)
        .where(ledger_transactions.c.kind.in_(kinds), ledger_entries.c.ledger_account.in_(accounts))
        .group_by(ledger_transactions.c.reference, ledger_entries.c.currency)
    )
    rows = await uow.session.execute(statement)
    return {reference: Money(int(amount), currency) for reference, currency, amount in rows}


def _compare_postings(
    audit: Audit, what: str, ours: dict[str, Any], posted: dict[str, Money], *, whole: bool
) -> None:
    between = "payments/ledger"
    for key, row in ours.items():
        audit.checked[f"posted_{what}"] += 1
        found = posted.get(key)
        if found is None:
            audit.differ(DifferenceClass.MISSING_THERE, between, key, "It is not in the ledger.")
        elif found.currency != row.currency:
            detail = f"The ledger says {found}; ours is in {row.currency}."
            audit.differ(DifferenceClass.CURRENCY, between, key, detail)
        elif abs(found.amount) != row.amount:
            detail = f"The ledger says {found}; ours is {row.amount}."
            audit.differ(DifferenceClass.AMOUNT, between, key, detail)
    for key in posted.keys() - ours.keys() if whole else ():
        detail = f"The ledger says {posted[key]} for what never happened."
        audit.differ(DifferenceClass.MISSING_HERE, between, key, detail)


async def _payments_against_invoices(
    uow: PaymentsUnitOfWork, audit: Audit, *, now: datetime
) -> None:
    """What is paid was paid by the money that came, and money that came paid something."""
    settled = (
        select(attempts.c.payment_id, func.max(attempts.c.settled_at).label("at"))
        .where(attempts.c.status == AttemptStatus.SUCCEEDED)
        .group_by(attempts.c.payment_id)
        .subquery()
    )
    statement = (
        select(
            owed_invoices,
            payments.c.id.label("payment_id"),
            payments.c.status.label("payment_status"),
            payments.c.amount,
            payments.c.currency.label("payment_currency"),
            payments.c.refunded,
            settled.c.at.label("settled_at"),
        )
        .join_from(
            owed_invoices,
            payments,
            payments.c.invoice_id == owed_invoices.c.invoice_id,
            isouter=True,
        )
        .join(settled, settled.c.payment_id == payments.c.id, isouter=True)
    )
    for row in await uow.session.execute(statement):
        audit.checked["invoices"] += 1
        _compare_invoice(audit, row, now=now)


def _compare_invoice(audit: Audit, row: Any, *, now: datetime) -> None:
    between = "invoices/payments"
    reference = row.invoice_id
    if row.payment_id is None:
        if row.amount_due > 0:
            audit.differ(
                DifferenceClass.MISSING_HERE, between, reference, "Nothing collects this invoice."
            )
        return
    if row.currency != row.payment_currency:
        detail = f"Owed in {row.currency}, collected in {row.payment_currency}."
        audit.differ(DifferenceClass.CURRENCY, between, reference, detail)
    elif row.amount_due != row.amount and not _is_too_much(row):
        detail = f"Owed {row.amount_due}, collected {row.amount}."
        audit.differ(DifferenceClass.AMOUNT, between, reference, detail)
    paid = row.payment_status == PaymentStatus.SUCCEEDED
    if row.paid_by is not None and not paid:
        detail = f"The invoice is paid by a payment that is {row.payment_status}."
        audit.differ(DifferenceClass.STATE, between, reference, detail)
    if not paid:
        return
    if row.settled_at is not None and row.settled_at > now - GRACE:
        audit.pending += row.status == OwedStatus.OPEN
        return
    if row.status in (OwedStatus.OPEN, OwedStatus.UNCOLLECTIBLE):
        detail = f"The money came, and the invoice is still {row.status}."
        audit.differ(DifferenceClass.STATE, between, reference, detail)
    elif row.paid_by is None and row.refunded < row.amount:
        detail = f"The money came for an invoice that is {row.status} otherwise, and stays here."
        audit.differ(DifferenceClass.STATE, between, reference, detail)


def _is_too_much(row: Any) -> bool:
    """A part came another way while the whole was charged: the surplus goes back."""
    under_way = row.payment_status in IN_FLIGHT
    surplus = row.amount - row.amount_due
    return bool(surplus > 0 and (under_way or row.refunded >= surplus))


async def _measure_clearing(uow: PaymentsUnitOfWork, *, now: datetime) -> None:
    """How long the oldest money has waited for an invoice to take it."""
    waiting = (
        select(func.min(attempts.c.settled_at))
        .join_from(attempts, owed_invoices, owed_invoices.c.invoice_id == attempts.c.invoice_id)
        .where(
            attempts.c.status == AttemptStatus.SUCCEEDED,
            owed_invoices.c.status == OwedStatus.OPEN,
        )
    )
    oldest = await uow.session.scalar(waiting)
    CLEARING_AGE.set((now - oldest).total_seconds() if oldest else 0.0)


def _uuid(text: str | None) -> UUID | None:
    try:
        return UUID(text) if text else None
    except ValueError:
        return None
