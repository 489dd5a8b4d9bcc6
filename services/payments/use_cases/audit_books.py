"""Compare invoices, payments, ledger and providers, and name every difference by its class."""

from collections import Counter
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from prometheus_client import Gauge
from sqlalchemy import CTE, Text, cast, func, or_, select, union

from services.payments.domain import ledger
from services.payments.domain.audit import Audit, DifferenceClass
from services.payments.domain.ledger import EntryKind
from services.payments.domain.methods import OwedStatus
from services.payments.domain.payments import IN_FLIGHT, AttemptStatus, PaymentStatus
from services.payments.domain.refunds import RefundStatus
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
from services.payments.use_cases.audit_provider import compare_provider
from shared.money import Money

#: What happened so recently may still be on its way between two services.
GRACE = timedelta(minutes=2)

DIFFERENCES = Gauge("reconciliation_differences", "What the last audit found, by class.", ["class"])


async def audit_books(
    begin: Begin, providers: Iterable[str], *, now: datetime, since: datetime | None = None
) -> Audit:
    """Compare all four books. With `since`, only what was begun after it, by the indexes."""
    audit = Audit()
    for name in providers:
        await compare_provider(begin, audit, name, now=now, since=since)
    async with begin() as uow:
        await _charges_against_ledger(uow, audit, since=since)
        await _refunds_against_ledger(uow, audit, since=since)
        await _payments_against_invoices(uow, audit, now=now, since=since)
    counts = Counter(difference.kind for difference in audit.differences)
    for kind in DifferenceClass:
        DIFFERENCES.labels(kind.value).set(counts[kind])
    return audit


def first_id(since: datetime) -> UUID:
    """The smallest id that can have been made at this instant: ids begin with their time."""
    return UUID(int=int(since.timestamp() * 1000) << 80)


async def _charges_against_ledger(
    uow: PaymentsUnitOfWork, audit: Audit, *, since: datetime | None
) -> None:
    """Every charge is posted, once, in full, and nothing else is posted as a charge."""
    taken = select(cast(attempts.c.id, Text).label("key"), attempts.c.amount, attempts.c.currency)
    taken = taken.where(attempts.c.status == AttemptStatus.SUCCEEDED)
    if since is not None:
        taken = taken.where(attempts.c.id >= first_id(since))
    ours = taken.cte("ours")
    posted = _posted((EntryKind.CHARGE,), (ledger.CLEARING,), ours if since else None)
    await _compare_postings(uow, audit, "charges", ours, posted)


async def _refunds_against_ledger(
    uow: PaymentsUnitOfWork, audit: Audit, *, since: datetime | None
) -> None:
    """Every refund is posted; one that came back is posted both ways."""
    sent = select(cast(refunds.c.id, Text).label("key"), refunds.c.amount, refunds.c.currency)
    sent = sent.where(refunds.c.status == RefundStatus.SUCCEEDED)
    if since is not None:
        sent = sent.where(refunds.c.id >= first_id(since))
    ours = sent.cte("ours")
    kinds = (EntryKind.REFUND, EntryKind.SURPLUS_REFUND, EntryKind.REFUND_RETURNED)
    accounts = (ledger.REFUNDS, ledger.CLEARING)
    posted = _posted(kinds, accounts, ours if since else None)
    await _compare_postings(uow, audit, "refunds", ours, posted)


def _posted(kinds: tuple[EntryKind, ...], accounts: tuple[str, ...], only: CTE | None) -> CTE:
    """What these kinds of movement posted to these accounts, by reference."""
    statement = (
        select(
            ledger_transactions.c.reference.label("key"),
            ledger_entries.c.currency,
            func.sum(ledger_entries.c.amount).label("amount"),
        )
        .join(ledger_entries, ledger_entries.c.transaction_id == ledger_transactions.c.id)
        .where(ledger_transactions.c.kind.in_(kinds), ledger_entries.c.ledger_account.in_(accounts))
        .group_by(ledger_transactions.c.reference, ledger_entries.c.currency)
        .having(func.sum(ledger_entries.c.amount) != 0)
    )
    if only is not None:
        statement = statement.where(ledger_transactions.c.reference.in_(select(only.c.key)))
    return statement.cte("posted")


async def _compare_postings(
    uow: PaymentsUnitOfWork, audit: Audit, what: str, ours: CTE, posted: CTE
) -> None:
    """The database compares; only what differs is fetched."""
    between = "payments/ledger"
    count = await uow.session.scalar(select(func.count()).select_from(ours))
    audit.checked[f"posted_{what}"] += int(count or 0)
    differing = (
        select(ours, posted.c.key.label("posted"), posted.c.amount, posted.c.currency)
        .join_from(ours, posted, ours.c.key == posted.c.key, full=True)
        .where(
            or_(
                ours.c.key.is_(None),
                posted.c.key.is_(None),
                ours.c.currency != posted.c.currency,
                ours.c.amount != func.abs(posted.c.amount),
            )
        )
    )
    for key, amount, currency, in_books, sum_there, currency_there in await uow.session.execute(
        differing
    ):
        there = Money(int(sum_there), currency_there) if in_books else None
        if there is None:
            audit.differ(DifferenceClass.MISSING_THERE, between, key, "It is not in the ledger.")
        elif key is None:
            detail = f"The ledger says {there} for what never happened."
            audit.differ(DifferenceClass.MISSING_HERE, between, in_books, detail)
        elif there.currency != currency:
            detail = f"The ledger says {there}; ours is in {currency}."
            audit.differ(DifferenceClass.CURRENCY, between, key, detail)
        else:
            detail = f"The ledger says {there}; ours is {amount}."
            audit.differ(DifferenceClass.AMOUNT, between, key, detail)


async def _payments_against_invoices(
    uow: PaymentsUnitOfWork, audit: Audit, *, now: datetime, since: datetime | None
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
    if since is not None:
        of_late = union(
            select(owed_invoices.c.invoice_id).where(owed_invoices.c.invoice_id >= first_id(since)),
            select(attempts.c.invoice_id).where(attempts.c.id >= first_id(since)),
        )
        statement = statement.where(owed_invoices.c.invoice_id.in_(of_late))
    async for row in await uow.session.stream(statement):
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
    elif row.amount_due != row.amount and not _is_too_much(row) and not _ended(row):
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


def _ended(row: Any) -> bool:
    """Whether it collects nothing any more: a part of what it was to collect was taken back."""
    return bool(row.payment_status == PaymentStatus.CANCELED)


def _is_too_much(row: Any) -> bool:
    """A part came another way while the whole was charged: the surplus goes back."""
    under_way = row.payment_status in IN_FLIGHT
    surplus = row.amount - row.amount_due
    return bool(surplus > 0 and (under_way or row.refunded >= surplus))
