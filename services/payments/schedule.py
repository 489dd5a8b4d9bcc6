"""What payments does by itself when it is due."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from datetime import datetime, timedelta
from typing import Protocol, TypeVar
from uuid import UUID

from sqlalchemy import exists, func, or_, select

from services.payments.collector import Collector
from services.payments.domain.dunning import Dunning, DunningStatus
from services.payments.domain.methods import PaymentMethod
from services.payments.domain.payments import (
    COLLECTIBLE,
    Attempt,
    AttemptStatus,
    Payment,
    PaymentStatus,
)
from services.payments.domain.refunds import Refund, RefundStatus
from services.payments.providers import provider
from services.payments.repository import PaymentsUnitOfWork
from services.payments.settings import PaymentsSettings
from services.payments.tables import attempts, dunnings, payment_methods, payments, refunds
from services.payments.traffic import Traffic
from services.payments.use_cases.ask_providers import ask_provider, claim_unanswered
from services.payments.use_cases.audit_books import audit_books
from services.payments.use_cases.collect_payments import claim_due
from services.payments.use_cases.keep_payment_methods import exhaust_dunning, warn_of_expiry
from services.payments.use_cases.measure_books import measure_books
from services.payments.use_cases.refund_payments import claim_refunds, send_refund
from services.payments.use_cases.take_webhooks import (
    claim_webhooks,
    forget_webhooks,
    work_off_webhook,
)
from shared.clock import utc_now
from shared.crashpoint import crashpoint
from shared.errors import DomainError
from shared.observability import logger
from shared.runtime import Runtime
from shared.schedule import Due, Schedule

log = logger(__name__)
schedule = Schedule()

PaymentsRuntime = Runtime[PaymentsUnitOfWork, PaymentsSettings]

BATCH = 50
AT_ONCE = 10
DROPPED_AT_ONCE = 1000
#: A look at the due payments that found the provider's rate used up comes back after this.
THROTTLED_SECONDS = 0.05
#: How long a test clock's round waits for its charges before it reports that they still run.
CLOCK_PATIENCE_SECONDS = 2.0

DUE_STATES = (*COLLECTIBLE, PaymentStatus.REQUIRES_ACTION)


class OfProvider(Protocol):
    """Work that is about something at a provider."""

    provider: str


R = TypeVar("R", bound=OfProvider)


def collector_of(runtime: PaymentsRuntime) -> Collector:
    collector: Collector = runtime.own["collector"]
    return collector


def traffic_of(runtime: PaymentsRuntime) -> Traffic:
    return collector_of(runtime).traffic


async def _next_payment(uow: PaymentsUnitOfWork, account_id: UUID) -> datetime | None:
    found: datetime | None = await uow.session.scalar(
        select(func.min(payments.c.due_at)).where(
            payments.c.account_id == account_id, payments.c.status.in_(DUE_STATES)
        )
    )
    return found


async def _is_busy(uow: PaymentsUnitOfWork, account_id: UUID) -> bool:
    """An attempt waits for its answer, or a payment or refund for its turn."""
    now = await uow.now(account_id)
    unanswered = select(Attempt).where(
        attempts.c.account_id == account_id,
        or_(
            attempts.c.status == AttemptStatus.UNKNOWN,
            attempts.c.cancel_requested & (attempts.c.status == AttemptStatus.REQUIRES_ACTION),
        ),
        attempts.c.ask_at.is_not(None),
    )
    waiting = select(Payment).where(
        payments.c.account_id == account_id,
        payments.c.status.in_(DUE_STATES),
        payments.c.due_at <= now,
    )
    unsent = select(Refund).where(
        refunds.c.account_id == account_id,
        refunds.c.status == RefundStatus.PENDING,
        refunds.c.ask_at.is_not(None),
    )
    found = await uow.session.scalar(
        select(or_(exists(unanswered), exists(waiting), exists(unsent)))
    )
    return bool(found)


@schedule.job(every=1.0, next_due=_next_payment, busy=_is_busy)
async def collect_due(runtime: PaymentsRuntime, due: Due) -> int:
    """Claim due payments and send their charges; waiting for providers holds nobody up."""
    collector = collector_of(runtime)
    if not collector.free:
        await collector.wait_for_slot()
    for_anybody = collector.free - collector.reserve
    async with runtime.begin() as uow:
        claims = await claim_due(
            uow,
            due,
            limit=min(for_anybody if for_anybody > 0 else collector.free, BATCH),
            only_urgent=for_anybody <= 0,
            owner=collector.owner,
            real_now=utc_now(),
            traffic=collector.traffic,
        )
        if claims.claims:
            crashpoint("payments.before_claim_commits")
    if claims.claims:
        crashpoint("payments.claimed")
    tasks = collector.start(claims.claims)
    if due.account_id is not None and tasks:
        await asyncio.wait(tasks, timeout=CLOCK_PATIENCE_SECONDS)
    if claims.throttled and not claims.handled:
        await asyncio.sleep(THROTTLED_SECONDS)
        return int(due.account_id is None)
    return claims.handled


@schedule.job(every=1.0)
async def ask_providers(runtime: PaymentsRuntime, due: Due) -> int:
    """The reconciler. It works in real time, also for accounts under a test clock."""
    del due
    traffic = traffic_of(runtime)

    async def ask(attempt: Attempt) -> None:
        if await ask_provider(runtime.begin, attempt):
            rate = provider(attempt.provider).calls_per_second
            traffic.lane(attempt.provider, rate=rate).hear()

    async with runtime.begin() as uow:
        claimed = await claim_unanswered(uow, limit=BATCH, real_now=utc_now())
    await _each(claimed, ask, in_turn=traffic)
    return len(claimed)


@schedule.job(every=1.0)
async def send_refunds(runtime: PaymentsRuntime, due: Due) -> int:
    """Send what is to go back, and ask about what got no answer. In real time."""
    del due
    async with runtime.begin() as uow:
        claimed = await claim_refunds(uow, limit=BATCH, real_now=utc_now())
    await _each(
        claimed, lambda refund: send_refund(runtime.begin, refund), in_turn=traffic_of(runtime)
    )
    return len(claimed)


@schedule.job(every=1.0)
async def work_off_webhooks(runtime: PaymentsRuntime, due: Due) -> int:
    """Work off what the providers sent. In real time."""
    del due
    async with runtime.begin() as uow:
        claimed = await claim_webhooks(uow, limit=BATCH, real_now=utc_now())
    await _each(claimed, lambda webhook: work_off_webhook(runtime.begin, webhook))
    return len(claimed)


async def _next_end(uow: PaymentsUnitOfWork, account_id: UUID) -> datetime | None:
    found: datetime | None = await uow.session.scalar(
        select(func.min(dunnings.c.ends_at))
        .join_from(dunnings, payments, dunnings.c.payment_id == payments.c.id)
        .where(
            dunnings.c.account_id == account_id,
            dunnings.c.status == DunningStatus.RUNNING,
            payments.c.due_at.is_(None),
            payments.c.status.in_((PaymentStatus.FAILED, PaymentStatus.REQUIRES_ACTION)),
        )
    )
    return found


@schedule.job(every=30.0, next_due=_next_end)
async def exhaust_dunnings(runtime: PaymentsRuntime, due: Due) -> int:
    """End the dunning of payments for which nothing is planned and the time is over."""
    async with runtime.begin() as uow:
        statement = (
            select(Payment, Dunning)
            .join_from(Payment, Dunning, dunnings.c.payment_id == payments.c.id)
            .where(
                dunnings.c.status == DunningStatus.RUNNING,
                payments.c.due_at.is_(None),
                payments.c.status.in_((PaymentStatus.FAILED, PaymentStatus.REQUIRES_ACTION)),
                due.matches(dunnings.c.ends_at, dunnings.c.account_id),
            )
            .limit(BATCH)
            .with_for_update(skip_locked=True, of=payments)
        )
        found = (await uow.session.execute(statement)).all()
        for payment, dunning in found:
            at = max(dunning.ends_at, await due.now_for(uow, payment.account_id))
            await exhaust_dunning(uow, dunning, payment, now=at)
    return len(found)


async def _next_warning(uow: PaymentsUnitOfWork, account_id: UUID) -> datetime | None:
    found: datetime | None = await uow.session.scalar(
        select(func.min(payment_methods.c.warn_at)).where(
            payment_methods.c.account_id == account_id
        )
    )
    return found


@schedule.job(every=600.0, next_due=_next_warning)
async def warn_of_expiries(runtime: PaymentsRuntime, due: Due) -> int:
    """Tell accounts whose card expires within a month."""
    async with runtime.begin() as uow:
        statement = (
            select(PaymentMethod)
            .where(
                payment_methods.c.warn_at.is_not(None),
                due.matches(payment_methods.c.warn_at, payment_methods.c.account_id),
            )
            .limit(BATCH)
            .with_for_update(skip_locked=True)
        )
        found = (await uow.session.scalars(statement)).all()
        for method in found:
            await warn_of_expiry(uow, method, now=await due.now_for(uow, method.account_id))
    return len(found)


@schedule.job(every=3600.0)
async def audit_hourly(runtime: PaymentsRuntime, due: Due) -> int:
    """Compare the books of the last two days; the differences are a metric with an alert."""
    if due.account_id is not None:
        return 0
    now = utc_now()
    found = await audit_books(
        runtime.begin,
        runtime.settings.enabled_providers,
        now=now,
        since=now - timedelta(days=2),
    )
    for difference in found.differences:
        log.error(
            "The books differ",
            kind=difference.kind,
            between=difference.between,
            reference=difference.reference,
        )
    return 0


@schedule.job(every=60.0)
async def measure(runtime: PaymentsRuntime, due: Due) -> int:
    """Keep the gauges true that alerts look at."""
    if due.account_id is None:
        async with runtime.begin() as uow:
            await measure_books(uow, now=utc_now())
    return 0


@schedule.job(every=3600.0)
async def drop_old_webhooks(runtime: PaymentsRuntime, due: Due) -> int:
    """Forget webhooks that were worked off long ago. In real time."""
    if due.account_id is not None:
        return 0
    async with runtime.begin() as uow:
        return await forget_webhooks(uow, limit=DROPPED_AT_ONCE, real_now=utc_now())


async def _each(
    rows: Iterable[R],
    work: Callable[[R], Awaitable[None]],
    *,
    in_turn: Traffic | None = None,
) -> None:
    """Do these side by side, a few at once; one that fails comes again and holds up no other.

    With `in_turn`, each first waits until its provider's rate has room for it.
    """
    turns = asyncio.Semaphore(AT_ONCE)

    async def one(row: R) -> None:
        async with turns:
            try:
                if in_turn is not None:
                    rate = provider(row.provider).calls_per_second
                    await in_turn.lane(row.provider, rate=rate).turn()
                await work(row)
            except DomainError as refusal:
                log.warning("Not yet", kind=type(row).__name__, reason=refusal.detail)
            except Exception:
                log.exception("Work failed and comes again", kind=type(row).__name__)

    await asyncio.gather(*(one(row) for row in rows))
