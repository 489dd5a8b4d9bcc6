"""Take in usage: each event once, in the window in which it happened, while that can be billed."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from uuid import UUID

from services.subscriptions.domain.catalog import Feature, FeatureType, Meter, MeterNotFound
from services.subscriptions.domain.price import Aggregation, plain
from services.subscriptions.domain.subscription import Subscription
from services.subscriptions.domain.usage import (
    CLOCK_TOLERANCE,
    UsageEvent,
    UsageHasNoSubscription,
    UsageTooEarly,
    Window,
    not_taken,
    reached,
    require_member,
)
from services.subscriptions.repository import SubscriptionsUnitOfWork
from services.subscriptions.tables import UsageRow
from services.subscriptions.use_cases.count_usage import (
    CountedUsage,
    UsageCounters,
    bill_late,
)
from services.subscriptions.use_cases.limit_usage import limit_usage
from services.subscriptions.use_cases.mark_stale import mark_stale
from shared.errors import DomainError
from shared.events.subscriptions import UsageThresholdReached
from shared.ids import new_id


@dataclass(frozen=True, kw_only=True)
class Report:
    """Usage as its sender tells it. `member` is for unique counts: who or what was seen."""

    id: str
    meter: str
    value: Decimal = Decimal(1)
    member: str | None = None
    at: datetime | None = None
    subscription_id: UUID | None = None


@dataclass(frozen=True)
class Outcome:
    """What became of one report: the stored event, or why it was refused."""

    id: str
    row: UsageRow | UsageEvent | None
    duplicate: bool = False
    refusal: DomainError | None = None


async def record_usage(
    uow: SubscriptionsUnitOfWork, account_id: UUID, reports: Sequence[Report], *, now: datetime
) -> list[Outcome]:
    """Store a batch. One refused report refuses nothing beside it; a repeat counts once."""
    meters = await uow.usage.meters(report.meter for report in reports)
    counters = UsageCounters(uow, account_id, await uow.subscriptions.served(account_id), now)
    await uow.catalog.load(counters.served.values())
    refusals: dict[str, DomainError] = {}
    new: dict[str, UsageEvent] = {}
    counted: dict[int, CountedUsage] = {}
    for report in reports:
        if report.id in new:
            continue
        try:
            new[report.id] = await _place(counters, report, meters.get(report.meter), counted)
        except DomainError as refusal:
            refusals[report.id] = refusal
    for event_id, too_large in (await limit_usage(uow, account_id, counted.values())).items():
        del new[event_id]
        refusals[event_id] = too_large
    stored = await uow.usage.insert(account_id, list(new.values()))
    if stored:
        await mark_stale(uow, {account_id})
    await bill_late(uow, counters, counted.values(), stored)
    await _alert(uow, counters, [new[event_id] for event_id in stored], now=now)
    # Whatever was not stored may have been before: then it is answered as it was then, also
    # where it would be refused by now.
    known: dict[str, UsageRow | UsageEvent] = {}
    known |= await uow.usage.find(account_id, {report.id for report in reports} - stored)
    outcomes = []
    for report in reports:
        fresh = report.id in stored
        if fresh:
            stored.discard(report.id)
            known[report.id] = new[report.id]
        row = known.get(report.id)
        refused = None if row is not None else refusals.get(report.id)
        outcomes.append(Outcome(report.id, row, not fresh, refused))
    return outcomes


async def _place(
    counters: UsageCounters,
    report: Report,
    meter: Meter | None,
    counted: dict[int, CountedUsage],
) -> UsageEvent:
    """The event with its subscription and its bucket, put to what its windows count."""
    if meter is None:
        raise MeterNotFound(f"There is no meter {report.meter!r}.")
    at = report.at or counters.now
    if at > counters.now + CLOCK_TOLERANCE:
        raise UsageTooEarly("Usage lies in the past; check the sender's clock.", field="at")
    if report.subscription_id is None:
        subscription, windows = await _whose(counters, meter, at)
    else:
        found = await counters.find(report.subscription_id)
        if found is None:
            raise UsageHasNoSubscription("The account has no such running subscription.")
        subscription = found
        windows = await counters.taking(subscription, meter, at)
    if not windows:
        raise await _refusal(counters, subscription, meter, at)
    require_member(report.id, report.member, windows)
    event = UsageEvent(
        id=report.id,
        meter_id=meter.id,
        subscription_id=subscription.id,
        value=report.value,
        member=report.member,
        at=at,
        bucket_start=await counters.bucket(subscription, at),
        received_at=counters.now,
    )
    for window in windows:
        if id(window) not in counted:
            counted[id(window)] = CountedUsage(window, meter, [])
        counted[id(window)].events.append(event)
    return event


async def _whose(
    counters: UsageCounters, meter: Meter, at: datetime
) -> tuple[Subscription, list[Window]]:
    """The one subscription that an event without one could belong to, and what of it counts."""
    served = list(counters.served.values())
    found = [
        (subscription, now)
        for subscription, windows in await counters.metering(meter)
        if (now := [window for window in windows if at in window])
    ]
    if not found:
        found = [
            (subscription, late)
            for subscription in await counters.find_all()
            if (late := await counters.late(subscription, meter, at))
        ]
    if not found:
        found = [
            (subscription, limited)
            for subscription in served
            if (limited := await counters.limited(subscription, meter, at))
        ]
    if not found and len(served) == 1:
        found = [(served[0], [])]  # which tells why it does not
    if len(found) != 1:
        raise UsageHasNoSubscription(
            "Name the subscription: the account has "
            f"{len(found) or len(served) or 'none'} that this usage could belong to."
        )
    return found[0]


async def _refusal(
    counters: UsageCounters, subscription: Subscription, meter: Meter, at: datetime
) -> DomainError:
    billed = [one for one in await counters.billed(subscription) if one.meter_id == meter.id]
    return not_taken(subscription, billed, meter=meter.code, at=at, now=counters.now)


async def _alert(
    uow: SubscriptionsUnitOfWork,
    counters: UsageCounters,
    fresh: Sequence[UsageEvent],
    *,
    now: datetime,
) -> None:
    """Tell, once per period, that a metered feature is 80 or 100 percent used."""
    touched: dict[UUID, set[UUID]] = defaultdict(set)
    for event in fresh:
        touched[event.subscription_id].add(event.meter_id)
    for subscription in counters.served.values():
        if subscription.id not in touched:
            continue
        for feature, limit in await counters.features(subscription):
            if feature.meter_id in touched[subscription.id] and limit is not None:
                await _alert_of(uow, subscription, feature, limit, now=now)


async def _alert_of(
    uow: SubscriptionsUnitOfWork,
    subscription: Subscription,
    feature: Feature,
    limit: int,
    *,
    now: datetime,
) -> None:
    if feature.type is not FeatureType.METERED or feature.meter_id is None:
        return
    used = await uow.usage.used(
        subscription.id, feature.meter_id, subscription.period, Aggregation.SUM
    )
    for percent in reached(used, limit):
        if await uow.usage.raise_alert(
            subscription.id, feature.code, subscription.period_start, percent
        ):
            uow.emit(
                UsageThresholdReached(
                    occurred_at=now,
                    account_id=subscription.account_id,
                    sequence=1,
                    alert_id=new_id(),
                    subscription_id=subscription.id,
                    feature=feature.code,
                    percent=percent,
                    used=plain(used),
                    limit=limit,
                    period_start=subscription.period_start,
                )
            )
