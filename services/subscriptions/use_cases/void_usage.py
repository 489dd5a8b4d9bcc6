"""Take a usage event back."""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from services.subscriptions.domain.usage import (
    UsageEvent,
    UsageEventNotFound,
    UsageTooLate,
    Window,
)
from services.subscriptions.repository import SubscriptionsUnitOfWork
from services.subscriptions.tables import UsageRow
from services.subscriptions.use_cases.count_usage import (
    CountedUsage,
    UsageCounters,
    bill_late,
)
from services.subscriptions.use_cases.limit_usage import require_billable_usage
from services.subscriptions.use_cases.mark_stale import mark_stale


async def void_usage(
    uow: SubscriptionsUnitOfWork, account_id: UUID, event_id: str, *, now: datetime
) -> UsageRow:
    """Take an event back, as if it had not been sent; its id stays used.

    Possible for as long as usage of its instant is taken: until then the difference is billed.
    """
    row = (await uow.usage.find(account_id, [event_id])).get(event_id)
    if row is None:
        raise UsageEventNotFound(f"There is no usage event {event_id!r}.")
    if row.voided:
        return row
    counters = UsageCounters(uow, account_id, await uow.subscriptions.served(account_id), now)
    meter = await uow.usage.meter(row.meter_id)
    subscription = await counters.find(row.subscription_id)
    windows: Sequence[Window] = ()
    if subscription is not None:
        windows = await counters.taking(subscription, meter, row.at)
    if not windows:
        raise UsageTooLate("Its period was billed, and the time to correct it is over.")
    event = UsageEvent(
        id=row.id,
        meter_id=row.meter_id,
        subscription_id=row.subscription_id,
        value=row.value,
        member=row.member,
        at=row.at,
        bucket_start=row.bucket_start,
        received_at=row.received_at,
    )
    await uow.usage.void(row)
    await require_billable_usage(uow, event, windows)
    counted = [CountedUsage(window, meter, [event]) for window in windows]
    await bill_late(uow, counters, counted, {event.id})
    await mark_stale(uow, {account_id})
    uow.audit("usage_event.void", event_id, account_id=account_id)
    await uow.session.refresh(row)
    return row
