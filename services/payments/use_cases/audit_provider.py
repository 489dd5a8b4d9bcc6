"""Compare a provider's own books with ours: charges, refunds, disputes, payouts and fees."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import func, select

from services.payments.domain import ledger
from services.payments.domain.audit import Audit, DifferenceClass
from services.payments.domain.ledger import EntryKind
from services.payments.domain.payments import OPEN_ATTEMPTS
from services.payments.domain.refunds import RefundStatus
from services.payments.providers import provider
from services.payments.providers.base import Movement, MovementKind
from services.payments.repository import PaymentsUnitOfWork
from services.payments.tables import (
    attempts,
    disputes,
    ledger_entries,
    ledger_transactions,
    refunds,
    webhook_events,
)
from services.payments.use_cases.ask_providers import Begin

#: What happened so recently may still be on its way to us or into the provider's lists.
GRACE = timedelta(minutes=2)
BATCH = 1000


@dataclass
class _Seen:
    """What the provider's books held."""

    #: How often, by kind and by our key (by its own name where it has none of ours).
    lines: Counter[tuple[MovementKind, str]] = field(default_factory=Counter)
    #: The charges of each invoice of ours.
    charged: defaultdict[UUID, list[str]] = field(default_factory=lambda: defaultdict(list))


@dataclass(frozen=True)
class _Ours:
    """What we know of a batch of the provider's lines."""

    by_key: dict[UUID, Any]
    disputes: dict[str, Any]
    #: Payouts in the ledger, by the provider's name; in minor units and currency.
    payouts: dict[str, tuple[int, str]]
    #: About these a webhook waits to be worked off.
    told: set[str]


async def compare_provider(
    begin: Begin, audit: Audit, name: str, *, now: datetime, since: datetime | None
) -> None:
    """What the provider took, gave back, lost and paid out is what our rows and ledger say."""
    seen = _Seen()
    batch: list[Movement] = []
    async for line in provider(name).movements(since=since):
        seen.lines[line.kind, _name_of(line)] += 1
        batch.append(line)
        if len(batch) >= BATCH:
            await _compare(begin, audit, name, batch, seen, now=now)
            batch = []
    await _compare(begin, audit, name, batch, seen, now=now)
    for (_, key), count in seen.lines.items():
        if count > 1:
            detail = f"The provider did this {count} times under one key."
            audit.differ(DifferenceClass.DUPLICATE, f"{name}/payments", key, detail)
    for invoice_id, references in seen.charged.items():
        if len(references) > 1:
            detail = f"Charged {len(references)} times: {', '.join(references)}."
            audit.differ(DifferenceClass.DUPLICATE, f"{name}/invoices", invoice_id, detail)
    async with begin() as uow:
        await _missing_there(uow, audit, name, seen, since=since)


def _name_of(line: Movement) -> str:
    if line.kind in ("charge", "refund"):
        return line.key or line.reference
    return line.reference


async def _compare(
    begin: Begin, audit: Audit, name: str, batch: Sequence[Movement], seen: _Seen, *, now: datetime
) -> None:
    async with begin() as uow:
        ours = await _ours(uow, name, batch)
    for line in batch:
        audit.checked[f"{name}_{line.kind}s"] += 1
        match line.kind:
            case "dispute":
                _compare_dispute(audit, name, line, ours, now=now)
            case "payout":
                _compare_payout(audit, name, line, ours, now=now)
            case _:
                _compare_moved(audit, name, line, ours, seen)


async def _ours(uow: PaymentsUnitOfWork, name: str, batch: Sequence[Movement]) -> _Ours:
    keys = [key for key in (_uuid(line.key) for line in batch) if key is not None]
    by_key: dict[UUID, Any] = {}
    for table in (attempts, refunds):
        rows = await uow.session.execute(select(table).where(table.c.id.in_(keys)))
        by_key.update({row.id: row for row in rows})
    references = [line.reference for line in batch if line.kind in ("dispute", "payout")]
    fights = await uow.session.execute(
        select(disputes).where(disputes.c.provider == name, disputes.c.reference.in_(references))
    )
    told = await uow.session.scalars(
        select(webhook_events.c.reference).where(
            webhook_events.c.provider == name,
            webhook_events.c.processed_at.is_(None),
            webhook_events.c.reference.in_(references),
        )
    )
    return _Ours(
        by_key=by_key,
        disputes={row.reference: row for row in fights},
        payouts=await _payouts(uow, name, references),
        told=set(told),
    )


async def _payouts(
    uow: PaymentsUnitOfWork, name: str, references: Sequence[str] | None, *, since: Any = None
) -> dict[str, tuple[int, str]]:
    """What the ledger says was paid out and did not come back."""
    kinds = (EntryKind.PAYOUT, EntryKind.PAYOUT_RETURNED)
    statement = (
        select(
            ledger_transactions.c.reference,
            ledger_entries.c.currency,
            func.sum(ledger_entries.c.amount),
        )
        .join(ledger_entries, ledger_entries.c.transaction_id == ledger_transactions.c.id)
        .where(
            ledger_transactions.c.kind.in_(kinds),
            ledger_entries.c.ledger_account == ledger.BANK,
        )
        .group_by(ledger_transactions.c.reference, ledger_entries.c.currency)
        .having(func.sum(ledger_entries.c.amount) != 0)
    )
    if references is not None:
        named = [f"{name}:{reference}" for reference in references]
        statement = statement.where(ledger_transactions.c.reference.in_(named))
    else:
        statement = statement.where(ledger_transactions.c.reference.startswith(f"{name}:"))
    if since is not None:
        statement = statement.where(ledger_transactions.c.recorded_at >= since)
    rows = await uow.session.execute(statement)
    return {
        reference.removeprefix(f"{name}:"): (int(amount), currency)
        for reference, currency, amount in rows
    }


def _compare_moved(audit: Audit, name: str, line: Movement, ours: _Ours, seen: _Seen) -> None:
    """A charge or a refund, by our key."""
    between = f"{name}/payments"
    key = _uuid(line.key)
    row = ours.by_key.get(key) if key is not None else None
    if row is None:
        detail = f"The provider's {line.kind} {line.reference} of {line.amount} is not ours."
        audit.differ(DifferenceClass.MISSING_HERE, between, line.key or line.reference, detail)
        return
    if line.kind == "charge":
        seen.charged[row.invoice_id].append(line.reference)
    if row.status in (*OPEN_ATTEMPTS, RefundStatus.PENDING) and row.ask_at is not None:
        audit.pending += 1
    elif row.status != "succeeded":
        detail = f"The provider moved {line.amount}; ours is {row.status}."
        audit.differ(DifferenceClass.STATE, between, row.id, detail)
    elif _same_money(audit, between, row.id, line, (row.amount, row.currency)) and (
        line.kind == "charge" and line.fee and line.fee != row.fee
    ):
        detail = f"The provider kept a fee of {line.fee}; ours is {row.fee}."
        audit.differ(DifferenceClass.AMOUNT, between, row.id, detail)


def _compare_dispute(
    audit: Audit, name: str, line: Movement, ours: _Ours, *, now: datetime
) -> None:
    between = f"{name}/disputes"
    row = ours.disputes.get(line.reference)
    if (row is None or row.status != line.status) and _is_under_way(line, ours, now):
        audit.pending += 1
    elif row is None:
        detail = f"The provider's dispute of {line.amount} is not ours."
        audit.differ(DifferenceClass.MISSING_HERE, between, line.reference, detail)
    elif row.status != line.status:
        detail = f"The provider says {line.status}; ours is {row.status}."
        audit.differ(DifferenceClass.STATE, between, line.reference, detail)
    else:
        _same_money(audit, between, line.reference, line, (row.amount, row.currency))


def _compare_payout(audit: Audit, name: str, line: Movement, ours: _Ours, *, now: datetime) -> None:
    between = f"{name}/ledger"
    posted = ours.payouts.get(line.reference)
    if posted is not None:
        _same_money(audit, between, line.reference, line, posted)
    elif _is_under_way(line, ours, now):
        audit.pending += 1
    else:
        detail = f"The provider's payout of {line.amount} is not in the ledger."
        audit.differ(DifferenceClass.MISSING_HERE, between, line.reference, detail)


def _is_under_way(line: Movement, ours: _Ours, now: datetime) -> bool:
    """Its webhook waits here, or may still be on its way."""
    return line.reference in ours.told or line.created_at > now - GRACE


def _same_money(
    audit: Audit, between: str, reference: object, line: Movement, ours: tuple[int, str]
) -> bool:
    amount, currency = ours
    if currency != line.amount.currency:
        detail = f"The provider moved {line.amount}; ours is in {currency}."
        audit.differ(DifferenceClass.CURRENCY, between, reference, detail)
        return False
    if amount != line.amount.amount:
        detail = f"The provider moved {line.amount}; ours is {amount}."
        audit.differ(DifferenceClass.AMOUNT, between, reference, detail)
        return False
    return True


async def _missing_there(
    uow: PaymentsUnitOfWork, audit: Audit, name: str, seen: _Seen, *, since: datetime | None
) -> None:
    """What we say happened is in the provider's books."""
    after = since + GRACE if since is not None else None
    for kind, table, began in _TABLES:
        ours = select(table.c.id, table.c.reference).where(table.c.provider == name)
        if kind != "dispute":
            ours = ours.where(table.c.status == "succeeded")
        if after is not None:
            ours = ours.where(began >= after)
        for row in await uow.session.execute(ours):
            known_as = row.reference if kind == "dispute" else str(row.id)
            if (kind, known_as) not in seen.lines:
                detail = f"Ours says {row.reference}; the provider's books lack it."
                between = f"{name}/disputes" if kind == "dispute" else f"{name}/payments"
                audit.differ(DifferenceClass.MISSING_THERE, between, known_as, detail)
    for reference, (amount, currency) in (await _payouts(uow, name, None, since=after)).items():
        if ("payout", reference) not in seen.lines:
            detail = f"The ledger says {amount} {currency}; the provider's books lack it."
            audit.differ(DifferenceClass.MISSING_THERE, f"{name}/ledger", reference, detail)


_TABLES: tuple[tuple[MovementKind, Any, Any], ...] = (
    ("charge", attempts, attempts.c.started_at),
    ("refund", refunds, refunds.c.created_at),
    ("dispute", disputes, disputes.c.opened_at),
)


def _uuid(text: str | None) -> UUID | None:
    try:
        return UUID(text) if text else None
    except ValueError:
        return None
