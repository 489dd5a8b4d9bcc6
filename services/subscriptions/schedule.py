"""The edge of time: what is due now, in batches that any number of workers share."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import select

from services.subscriptions import tables
from services.subscriptions.repository import SubscriptionsUnitOfWork
from services.subscriptions.settings import SubscriptionsSettings
from services.subscriptions.use_cases.advance_subscriptions import advance_subscriptions
from shared.observability import logger
from shared.runtime import Runtime
from shared.schedule import Due, Schedule

log = logger(__name__)

schedule = Schedule()

SubscriptionsRuntime = Runtime[SubscriptionsUnitOfWork, SubscriptionsSettings]


async def next_subscription_due(uow: SubscriptionsUnitOfWork, account_id: UUID) -> datetime | None:
    return await uow.subscriptions.next_due(account_id)


@schedule.job(every=1.0, next_due=next_subscription_due)
async def advance_due_subscriptions(runtime: SubscriptionsRuntime, due: Due) -> int:
    """Renewals and all else that time brings. A batch that fails is done one by one."""
    try:
        async with runtime.begin() as uow:
            done = await advance_subscriptions(uow, due, most=runtime.settings.renewal_batch)
        return len(done)
    except Exception:
        log.exception("A batch of renewals failed; one by one now")
    return await _one_by_one(runtime, due)


async def _one_by_one(runtime: SubscriptionsRuntime, due: Due) -> int:
    """What cannot be billed is parked with its reason and holds up nobody."""
    subscriptions = tables.subscriptions.c
    async with runtime.begin() as uow:
        found = await uow.session.scalars(
            select(subscriptions.id)
            .where(due.matches(subscriptions.due_at, subscriptions.account_id))
            .order_by(subscriptions.due_at)
            .limit(runtime.settings.renewal_batch)
        )
        waiting = list(found)
    for subscription_id in waiting:
        try:
            async with runtime.begin() as uow:
                await advance_subscriptions(uow, due, most=1, only=subscription_id)
        except Exception as error:
            log.exception("A subscription cannot be billed", subscription_id=str(subscription_id))
            async with runtime.begin() as uow:
                subscription = await uow.subscriptions.get(subscription_id)
                subscription.park(f"{type(error).__name__}: {error}"[:500], now=due.now)
    return len(waiting)
