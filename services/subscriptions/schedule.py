"""The edge of time: what is due now, in batches that any number of workers share."""

import asyncio
from datetime import datetime
from uuid import UUID

from redis.exceptions import RedisError
from sqlalchemy import delete, select, tuple_

from services.subscriptions import tables
from services.subscriptions.entitlement_cache import cache_of
from services.subscriptions.repository import SubscriptionsUnitOfWork
from services.subscriptions.settings import SubscriptionsSettings
from services.subscriptions.use_cases.advance_subscriptions import advance_subscriptions
from services.subscriptions.use_cases.move_prices import move_some
from services.subscriptions.use_cases.run_test_clock import look_again
from services.subscriptions.use_cases.spend_tokens import expire_tokens
from shared.messaging.outages import is_collision, is_outage
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
    not_to_blame: Exception | None = None
    for subscription_id in waiting:
        try:
            async with runtime.begin() as uow:
                await advance_subscriptions(uow, due, most=1, only=subscription_id)
        except Exception as error:
            if is_outage(error) or is_collision(error):
                not_to_blame = error  # it stays due
                continue
            log.exception("A subscription cannot be billed", subscription_id=str(subscription_id))
            async with runtime.begin() as uow:
                subscription = await uow.subscriptions.get(subscription_id)
                subscription.park(f"{type(error).__name__}: {error}"[:500], now=due.now)
    if not_to_blame is not None:
        raise not_to_blame
    return len(waiting)


@schedule.job(every=600.0)
async def plan_what_was_left(runtime: SubscriptionsRuntime, due: Due) -> int:
    """What an earlier release, which may still run, stopped looking at although something waits."""
    if due.account_id is not None:
        return 0  # real time is soon enough
    async with runtime.begin() as uow:
        return len(await uow.subscriptions.claim_left_waiting(most=500))


async def next_token_expiry(uow: SubscriptionsUnitOfWork, account_id: UUID) -> datetime | None:
    return await uow.tokens.next_expiry(account_id)


@schedule.job(every=60.0, next_due=next_token_expiry)
async def expire_token_grants(runtime: SubscriptionsRuntime, due: Due) -> int:
    """Tokens whose time is over are written off."""
    async with runtime.begin() as uow:
        return await expire_tokens(uow, due, most=500)


@schedule.job(every=5.0)
async def move_subscribers(runtime: SubscriptionsRuntime, due: Due) -> int:
    """Bulk moves to another price, a batch at a time."""
    if due.account_id is not None:
        return 0  # a move belongs to no account's clock
    async with runtime.begin() as uow:
        return await move_some(uow, most=runtime.settings.renewal_batch)


@schedule.job(every=5.0)
async def forget_stale_entitlements(runtime: SubscriptionsRuntime, due: Due) -> int:
    """Tell the cache whose entitlements changed; while Redis is away the marks wait."""
    if due.account_id is not None:
        return 0  # real time is soon enough
    stale = tables.stale_entitlements
    async with runtime.begin() as uow:
        rows = (await uow.session.execute(select(stale).limit(500))).all()
    if not rows:
        return 0
    try:
        await cache_of(runtime.own).forget({row.account_id for row in rows})
    except (RedisError, OSError) as error:
        log.warning("The cache cannot be told of changes", error=type(error).__name__)
        return 0
    async with runtime.begin() as uow:
        # A mark that came meanwhile has another instant and stays.
        await uow.session.execute(
            delete(stale).where(
                tuple_(stale.c.account_id, stale.c.marked_at).in_(
                    [(row.account_id, row.marked_at) for row in rows]
                )
            )
        )
    return len(rows)


#: Long enough for an event to pass through the services, short enough for whoever waits.
LOOK_AGAIN_AFTER_SECONDS = 0.05


@schedule.job(every=1.0)
async def look_at_test_clocks_again(runtime: SubscriptionsRuntime, due: Due) -> int:
    """The next round of test clocks whose events were still on their way."""
    if due.account_id is not None or not due.platform.test_clocks:
        return 0
    await asyncio.sleep(LOOK_AGAIN_AFTER_SECONDS)
    async with runtime.begin() as uow:
        return await look_again(uow)
