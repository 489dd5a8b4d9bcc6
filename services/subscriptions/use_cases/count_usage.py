"""What of an account counts usage: which prices, from when to when, and what may still be late."""

from collections import defaultdict
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from services.subscriptions.domain.catalog import Feature, Meter
from services.subscriptions.domain.subscription import RUNNING, Subscription
from services.subscriptions.domain.usage import (
    LONGEST_GRACE,
    Buckets,
    UsageEvent,
    Window,
    bill_late_usage,
    feature_window,
    open_windows,
)
from services.subscriptions.repository import SubscriptionsUnitOfWork
from services.subscriptions.use_cases.read_entitlements import grants_of, metered_features


@dataclass(slots=True)
class CountedUsage:
    """A window of one subscription, and the events of a meter that it counts."""

    window: Window
    meter: Meter
    events: list[UsageEvent]


class UsageCounters:
    """What of an account counts usage: of each subscription, by which prices, from when to when.

    All is looked up once for a batch, and only what the prices that are held now do not answer.
    """

    def __init__(
        self,
        uow: SubscriptionsUnitOfWork,
        account_id: UUID,
        served: Sequence[Subscription],
        now: datetime,
    ) -> None:
        self.now = now
        self.served = {subscription.id: subscription for subscription in served}
        self._uow = uow
        self._account_id = account_id
        self._open: dict[UUID, list[Window]] = {}
        self._priced: dict[tuple[UUID, UUID], list[Window]] = {}
        self._metering: dict[UUID, list[tuple[Subscription, list[Window]]]] = {}
        self._features: dict[UUID, list[tuple[Feature, int | None]]] = {}
        self._buckets: dict[UUID, Buckets] = {}
        self._billed: dict[UUID, list[Window]] | None = None
        self._ended: dict[UUID, Subscription] = {}

    async def find(self, subscription_id: UUID) -> Subscription | None:
        """One that is served, or that ended or rests since not long ago."""
        if subscription_id in self.served:
            return self.served[subscription_id]
        await self._look_back()
        return self._ended.get(subscription_id)

    async def find_all(self) -> list[Subscription]:
        await self._look_back()
        return [*self.served.values(), *self._ended.values()]

    async def open(self, subscription: Subscription) -> list[Window]:
        """What it holds that counts usage, by its price."""
        if subscription.id not in self._open:
            terms = await self._uow.catalog.terms_of(subscription)
            self._open[subscription.id] = open_windows(subscription, terms)
        return self._open[subscription.id]

    async def metering(self, meter: Meter) -> list[tuple[Subscription, list[Window]]]:
        """Those that are served and hold a price that counts the meter, at some time."""
        if meter.id not in self._metering:
            self._metering[meter.id] = [
                (subscription, windows)
                for subscription in self.served.values()
                if (windows := await self.priced(subscription, meter))
            ]
        return self._metering[meter.id]

    async def is_metered(self, subscription: Subscription) -> bool:
        """Whether usage is billed when its period ends."""
        return any(one.start < subscription.period_end for one in await self.open(subscription))

    async def billed(self, subscription: Subscription) -> list[Window]:
        """What was billed so lately that usage may still come for it."""
        return (await self._look_back()).get(subscription.id, [])

    async def features(self, subscription: Subscription) -> list[tuple[Feature, int | None]]:
        """Those that it gives and a meter counts, with their limits."""
        if subscription.id not in self._features:
            grants = await grants_of(self._uow, [subscription])
            self._features[subscription.id] = [
                (feature, grants[feature.code])
                for feature in await metered_features(self._uow, grants)
            ]
        return self._features[subscription.id]

    async def priced(self, subscription: Subscription, meter: Meter) -> list[Window]:
        """Whatever it holds that counts the meter, at some time."""
        return [one for one in await self.open(subscription) if one.meter_id == meter.id]

    async def late(self, subscription: Subscription, meter: Meter, at: datetime) -> list[Window]:
        """The windows billed before that it can still be late for."""
        return [
            window
            for window in await self.billed(subscription)
            if window.meter_id == meter.id and window.takes(at, now=self.now, grace=grace_of(meter))
        ]

    async def limited(self, subscription: Subscription, meter: Meter, at: datetime) -> list[Window]:
        """What a feature of it counts at this instant."""
        features = await self.features(subscription)
        if not any(feature.meter_id == meter.id for feature, _ in features):
            return []
        return [one for one in feature_window(subscription, meter.id) if at in one]

    async def taking(self, subscription: Subscription, meter: Meter, at: datetime) -> list[Window]:
        """Whatever takes usage of this instant; nothing does where it could not be billed."""
        key = (subscription.id, meter.id)
        priced = self._priced.get(key)
        if priced is None:
            priced = self._priced[key] = await self.priced(subscription, meter)
        return (
            [window for window in priced if at in window]
            or await self.late(subscription, meter, at)
            or await self.limited(subscription, meter, at)
        )

    async def bucket(self, subscription: Subscription, at: datetime) -> datetime:
        """The bucket in which this instant is added up."""
        buckets = self._buckets.get(subscription.id)
        if buckets is None:
            buckets = self._buckets[subscription.id] = Buckets.of(subscription)
        start = buckets.start_of(at)
        if start <= buckets.unsure_until:
            billed = await self.billed(subscription)
            buckets = self._buckets[subscription.id] = Buckets.of(subscription, billed)
            start = buckets.start_of(at)
        return start

    async def _look_back(self) -> dict[UUID, list[Window]]:
        if self._billed is not None:
            return self._billed
        self._billed = defaultdict(list)
        rows = await self._uow.usage.lately_billed(self._account_id, since=self.now - LONGEST_GRACE)
        for row in rows:
            price = await self._uow.catalog.price(row.price_id)
            if price.meter_id is not None:
                self._billed[row.subscription_id].append(
                    Window(price.meter_id, row.window_start, row.window_end, price, billed=True)
                )
        ended = await self._uow.usage.subscriptions(self._billed.keys() - self.served.keys())
        self._ended = {subscription.id: subscription for subscription in ended}
        return self._billed


async def bill_late(
    uow: SubscriptionsUnitOfWork,
    counters: UsageCounters,
    counted: Iterable[CountedUsage],
    changed: Container[str],
) -> None:
    """See to it that what changed in windows that were billed before is billed.

    `changed`: the ids of the events that were stored, or voided.
    """
    due: dict[UUID, datetime] = {}
    for one in counted:
        if one.window.billed and any(event.id in changed for event in one.events):
            at = one.window.closes_at(grace_of(one.meter))
            subscription_id = one.events[0].subscription_id
            due[subscription_id] = min(due.get(subscription_id, at), at)
    for subscription_id in sorted(due):
        subscription = await counters.find(subscription_id)
        if subscription is None:
            continue
        if subscription.status in RUNNING and await counters.is_metered(subscription):
            continue  # whatever bills its usage when the next period opens looks back by itself
        await uow.session.refresh(subscription, with_for_update=True)
        bill_late_usage(subscription, due[subscription_id])


def grace_of(meter: Meter) -> timedelta:
    return timedelta(hours=meter.grace_hours)
