"""Take in usage: each event once, in the period in which it happened."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from uuid import UUID

from services.subscriptions.domain.catalog import Feature, FeatureType, Meter, MeterNotFound
from services.subscriptions.domain.period import BillingPeriod
from services.subscriptions.domain.price import Aggregation, plain
from services.subscriptions.domain.subscription import Subscription
from services.subscriptions.domain.usage import (
    StoredUsage,
    UsageEvent,
    UsageEventNotFound,
    UsageHasNoSubscription,
    place,
    reached,
)
from services.subscriptions.repository import SubscriptionsUnitOfWork
from services.subscriptions.tables import UsageRow
from services.subscriptions.use_cases.gather_usage import LONGEST_GRACE
from services.subscriptions.use_cases.mark_stale import mark_stale
from services.subscriptions.use_cases.read_entitlements import grants_of, metered_features
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
    row: UsageRow | StoredUsage | None
    duplicate: bool = False
    refusal: DomainError | None = None


async def record_usage(
    uow: SubscriptionsUnitOfWork, account_id: UUID, reports: Sequence[Report], *, now: datetime
) -> list[Outcome]:
    """Store a batch. One refused report refuses nothing beside it; a repeat counts once."""
    meters = await uow.usage.meters(report.meter for report in reports)
    held = await uow.subscriptions.served(account_id)
    await uow.catalog.load(held)
    placing = _Placing(uow, held, now)
    refusals: dict[str, DomainError] = {}
    new: dict[str, UsageEvent] = {}
    for report in reports:
        if report.id in new:
            continue
        try:
            meter = meters.get(report.meter)
            if meter is None:
                raise MeterNotFound(f"There is no meter {report.meter!r}.")
            new[report.id] = await placing.place(report, meter)
        except DomainError as refusal:
            refusals[report.id] = refusal
    stored = await uow.usage.insert(account_id, list(new.values()), received_at=now)
    if stored:
        await mark_stale(uow, {account_id})
    await _alert(uow, held, [new[event_id] for event_id in stored], now=now)
    # Whatever was not stored may have been before: then it is answered as it was then, also
    # where it would be refused by now.
    known: dict[str, UsageRow | StoredUsage] = {}
    known |= await uow.usage.find(account_id, {report.id for report in reports} - stored)
    outcomes = []
    for report in reports:
        fresh = report.id in stored
        if fresh:
            stored.discard(report.id)
            known[report.id] = StoredUsage.of(new[report.id], now)
        row = known.get(report.id)
        refused = None if row is not None else refusals.get(report.id)
        outcomes.append(Outcome(report.id, row, not fresh, refused))
    return outcomes


async def void_usage(uow: SubscriptionsUnitOfWork, account_id: UUID, event_id: str) -> UsageRow:
    """Take an event back, as if it had not been sent; its id stays used."""
    row = (await uow.usage.find(account_id, [event_id])).get(event_id)
    if row is None:
        raise UsageEventNotFound(f"There is no usage event {event_id!r}.")
    if not row.voided:
        await uow.usage.void(row)
        await mark_stale(uow, {account_id})
        uow.audit("usage_event.void", event_id, account_id=account_id)
        await uow.session.refresh(row)
    return row


class _Placing:
    """Finds for each report the subscription and the bucket that it counts in."""

    def __init__(
        self, uow: SubscriptionsUnitOfWork, held: Sequence[Subscription], now: datetime
    ) -> None:
        self._uow = uow
        self._held = held
        self._now = now
        self._billed: dict[UUID, list[BillingPeriod]] = {}
        self._metering: dict[UUID, list[Subscription]] = {}

    async def place(self, report: Report, meter: Meter) -> UsageEvent:
        subscription = await self._subscription(report, meter)
        at = report.at or self._now
        billed = await self._windows(subscription) if at < subscription.period_start else []
        bucket = place(
            subscription, billed, at=at, now=self._now, grace=timedelta(hours=meter.grace_hours)
        )
        return UsageEvent(
            id=report.id,
            meter_id=meter.id,
            subscription_id=subscription.id,
            value=report.value,
            at=at,
            bucket_start=bucket,
            member=report.member,
        )

    async def _windows(self, subscription: Subscription) -> list[BillingPeriod]:
        """What was billed so lately that usage may still come for it."""
        if subscription.id not in self._billed:
            since = self._now - LONGEST_GRACE
            rows = await self._uow.usage.billed_windows(subscription.id, since=since)
            self._billed[subscription.id] = [
                BillingPeriod(row.window_start, row.window_end) for row in rows
            ]
        return self._billed[subscription.id]

    async def _subscription(self, report: Report, meter: Meter) -> Subscription:
        if report.subscription_id is not None:
            for subscription in self._held:
                if subscription.id == report.subscription_id:
                    return subscription
            raise UsageHasNoSubscription("The account has no such running subscription.")
        if meter.id not in self._metering:
            self._metering[meter.id] = await self._that_meter(meter)
        found = self._metering[meter.id] or list(self._held)
        if len(found) != 1:
            raise UsageHasNoSubscription(
                "Name the subscription: the account has "
                f"{len(found) or 'none'} that this usage could belong to."
            )
        return found[0]

    async def _that_meter(self, meter: Meter) -> list[Subscription]:
        found = []
        for subscription in self._held:
            terms = await self._uow.catalog.terms_of(subscription)
            if any(terms.price(item).meter_id == meter.id for item in subscription.items):
                found.append(subscription)
        return found


async def _alert(
    uow: SubscriptionsUnitOfWork,
    held: Sequence[Subscription],
    fresh: Sequence[UsageEvent],
    *,
    now: datetime,
) -> None:
    """Tell, once per period, that a metered feature is 80 or 100 percent used."""
    touched: dict[UUID, set[UUID]] = defaultdict(set)
    for event in fresh:
        touched[event.subscription_id].add(event.meter_id)
    for subscription in held:
        if subscription.id not in touched:
            continue
        grants = await grants_of(uow, [subscription])
        for feature in await metered_features(uow, grants):
            limit = grants[feature.code]
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
