"""Usage: events counted once, added up in buckets that no period's bound ever cuts."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import ClassVar
from uuid import UUID

from services.subscriptions.domain.period import BillingPeriod
from services.subscriptions.domain.price import Aggregation
from services.subscriptions.domain.subscription import SERVED, Subscription
from shared.errors import Conflict, Invalid, NotFound

#: How far a sender's clock may be ahead of ours.
CLOCK_TOLERANCE = timedelta(minutes=5)
THRESHOLDS_PERCENT = (80, 100)


class UsageTooLate(Conflict):
    code = "usage-too-late"


class UsageTooEarly(Invalid):
    code = "usage-in-the-future"


class UsageHasNoSubscription(Conflict):
    code = "usage-has-no-subscription"


class UsageEventNotFound(NotFound):
    code = "usage-event-not-found"


class UsageValueInvalid(Invalid):
    code = "usage-value-invalid"


@dataclass(frozen=True, slots=True)
class UsageEvent:
    """`id` is the sender's, unique per account. `member` is what unique counts tell apart."""

    id: str
    meter_id: UUID
    subscription_id: UUID
    value: Decimal
    at: datetime
    bucket_start: datetime
    member: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredUsage:
    """An event as it was just stored, without reading it back."""

    id: str
    meter_id: UUID
    subscription_id: UUID
    value: Decimal
    member: str | None
    at: datetime
    voided: bool = False
    received_at: datetime

    @classmethod
    def of(cls, event: UsageEvent, received_at: datetime) -> "StoredUsage":
        return cls(
            id=event.id,
            meter_id=event.meter_id,
            subscription_id=event.subscription_id,
            value=event.value,
            member=event.member,
            at=event.at,
            received_at=received_at,
        )


@dataclass(slots=True)
class Bucket:
    """What happened in a part of an hour, so that a question reads hours and not events."""

    EMPTY: ClassVar[Decimal] = Decimal(0)

    total: Decimal = Decimal(0)
    count: int = 0
    highest: Decimal | None = None
    latest: Decimal | None = None
    latest_at: datetime | None = None

    def add(self, value: Decimal, at: datetime) -> None:
        self.merge(Bucket(value, 1, value, value, at))

    def merge(self, other: "Bucket") -> None:
        """The bucket of both; the order of merging makes no difference but to equal instants."""
        self.total += other.total
        self.count += other.count
        if other.highest is not None:
            self.highest = max(other.highest, self.highest or other.highest)
        if other.latest_at is not None and (
            self.latest_at is None or other.latest_at >= self.latest_at
        ):
            self.latest, self.latest_at = other.latest, other.latest_at

    def read(self, aggregation: Aggregation) -> Decimal:
        """What a metered price asks for. Unique counts are kept apart."""
        match aggregation:
            case Aggregation.SUM:
                return max(self.total, self.EMPTY)
            case Aggregation.COUNT:
                return Decimal(self.count)
            case Aggregation.MAX:
                return max(self.highest or self.EMPTY, self.EMPTY)
            case Aggregation.LATEST:
                return max(self.latest or self.EMPTY, self.EMPTY)
            case Aggregation.UNIQUE:
                raise ValueError("unique counts are not in buckets")


def merged(buckets: Iterable[Bucket]) -> Bucket:
    whole = Bucket()
    for bucket in buckets:
        whole.merge(bucket)
    return whole


def bucket_start(subscription: Subscription, at: datetime) -> datetime:
    """The hour of `at`, cut where a period or a metered price begins within it."""
    hour = at.replace(minute=0, second=0, microsecond=0)
    cuts = [hour, subscription.period_start]
    if at >= subscription.period_end:
        cuts.append(subscription.cadence.period_at(at).start)
    cuts += [item.metered_from for item in subscription.items if item.metered_from is not None]
    return max(cut for cut in cuts if cut <= at)


def place(
    subscription: Subscription,
    billed: Sequence[BillingPeriod],
    *,
    at: datetime,
    now: datetime,
    grace: timedelta,
) -> datetime:
    """The bucket in which usage at `at` counts, or a refusal.

    What comes late, but within the grace, goes to the `billed` window in which it happened.
    """
    if at > now + CLOCK_TOLERANCE:
        raise UsageTooEarly("Usage lies in the past; check the sender's clock.", field="at")
    if subscription.status not in SERVED:
        raise UsageHasNoSubscription(f"The subscription is {subscription.status}.")
    if at >= subscription.period_start:
        return bucket_start(subscription, at)
    for window in billed:
        if at in window and now <= window.end + grace:
            return max(at.replace(minute=0, second=0, microsecond=0), window.start)
    raise UsageTooLate("Its period is over and so is the time for late usage.", field="at")


def reached(used: Decimal, limit: int) -> list[int]:
    """The thresholds, in percent of the limit, that the use has reached."""
    if limit <= 0:
        return list(THRESHOLDS_PERCENT)
    return [percent for percent in THRESHOLDS_PERCENT if used * 100 >= percent * limit]
