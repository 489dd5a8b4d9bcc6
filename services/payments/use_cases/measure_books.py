"""Measure what alerts look at: money that no invoice has taken, and what waits for a person."""

from collections import Counter
from datetime import datetime

from prometheus_client import Gauge
from sqlalchemy import func, select

from services.payments.domain.payments import AttemptStatus
from services.payments.domain.refunds import RefundReason, RefundStatus
from services.payments.queries.stuck import list_stuck
from services.payments.repository import PaymentsUnitOfWork
from services.payments.tables import attempts, owed_invoices, refunds

CLEARING_AGE = Gauge(
    "ledger_clearing_age_seconds", "Age of the oldest money that no invoice has taken."
)
STUCK = Gauge("payments_stuck", "What goes on only when a person looks at it.", ["kind"])


async def measure_books(uow: PaymentsUnitOfWork, *, now: datetime) -> None:
    """Set the gauges; `now` is real time."""
    oldest = await _oldest_in_clearing(uow)
    CLEARING_AGE.set((now - oldest).total_seconds() if oldest else 0.0)
    stuck = Counter(found.kind for found in await list_stuck(uow.session))
    for kind in ("payment", "refund", "failed_refund", "webhook"):
        STUCK.labels(kind).set(stuck[kind])


async def _oldest_in_clearing(uow: PaymentsUnitOfWork) -> datetime | None:
    """When the oldest money came that neither paid its invoice nor went back as surplus.

    Told by the invoices that no payment of ours paid, which an index lists: the clearing account
    itself has an entry for every charge that there ever was.
    """
    went_back = (
        select(func.coalesce(func.sum(refunds.c.amount), 0))
        .where(
            refunds.c.payment_id == attempts.c.payment_id,
            refunds.c.reason == RefundReason.SURPLUS,
            refunds.c.status == RefundStatus.SUCCEEDED,
        )
        .scalar_subquery()
    )
    oldest: datetime | None = await uow.session.scalar(
        select(func.min(attempts.c.settled_at))
        .join_from(owed_invoices, attempts, owed_invoices.c.invoice_id == attempts.c.invoice_id)
        .where(
            owed_invoices.c.paid_by.is_(None),
            attempts.c.status == AttemptStatus.SUCCEEDED,
            went_back < attempts.c.amount,
        )
    )
    return oldest
