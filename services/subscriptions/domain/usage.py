"""Usage: events counted once, added up in buckets that no period's bound ever cuts."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import lru_cache
from typing import ClassVar
from uuid import UUID

from services.subscriptions.domain.charges import Terms
from services.subscriptions.domain.period import Cadence, zone_of
from services.subscriptions.domain.price import Aggregation, Price, PriceType
from services.subscriptions.domain.subscription import RUNNING, SERVED, Status, Subscription
from shared.errors import Conflict, DomainError, Invalid, NotFound
from shared.money import LARGEST_AMOUNT

#: How far a sender's clock may be ahead of ours.
CLOCK_TOLERANCE = timedelta(minutes=5)
#: No meter's grace is longer.
LONGEST_GRACE = timedelta(days=31)
THRESHOLDS_PERCENT = (80, 100)
#: In minor units: a batch that costs less than this at its price is taken without a look at what
#: its window costs so far. It would take 10^9 such batches in one window to pass the largest
#: amount unseen, and 10^13 to pass what an integer of the database holds.
WORTH_A_LOOK = 10**6


class UsageTooLate(Conflict):
    """The period of this usage was billed, and the time for late usage of it is over."""

    code = "usage-too-late"


class UsageTooEarly(Invalid):
    """The instant of this usage lies ahead: check the sender's clock."""

    code = "usage-in-the-future"


class UsageHasNoSubscription(Conflict):
    """The account has no subscription that this usage could belong to, or more than one."""

    code = "usage-has-no-subscription"


class UsageNotCounted(Conflict):
    """Nothing that the subscription held at that instant counts this meter."""

    code = "usage-not-counted"


class UsageEventNotFound(NotFound):
    """The account has no usage event with this id."""

    code = "usage-event-not-found"


class UsageValueInvalid(Invalid):
    """The price that counts this usage cannot count it as it was sent."""

    code = "usage-value-invalid"


@dataclass(slots=True)
class UsageEvent:
    """`id` is the sender's, unique per account. `member` is what unique counts tell apart."""

    id: str
    meter_id: UUID
    subscription_id: UUID
    value: Decimal
    member: str | None
    at: datetime
    bucket_start: datetime
    received_at: datetime
    voided: bool = False


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


@dataclass(frozen=True, slots=True)
class Window:
    """A stretch of time in which something counts a meter; `end` None: not known yet.

    `price` is what its usage costs; None where it costs nothing: in a trial, or where nothing but
    a feature's limit counts the meter.
    """

    meter_id: UUID
    start: datetime
    end: datetime | None
    price: Price | None = None
    #: It is over and was billed; usage for it is late.
    billed: bool = False

    def __contains__(self, instant: datetime) -> bool:
        return self.start <= instant and (self.end is None or instant < self.end)

    def takes(self, instant: datetime, *, now: datetime, grace: timedelta) -> bool:
        """Whether usage of this instant can still be told."""
        return instant in self and (not self.billed or now <= self.closes_at(grace))

    def closes_at(self, grace: timedelta) -> datetime:
        """When the time for late usage is over."""
        return (self.end or END_OF_TIME) + grace


BEGIN_OF_TIME = datetime.min.replace(tzinfo=UTC)
END_OF_TIME = datetime.max.replace(tzinfo=UTC) - LONGEST_GRACE


def open_windows(subscription: Subscription, terms: Terms) -> list[Window]:
    """What counts usage now and in the period to come, by the prices that are held."""
    if subscription.status not in SERVED:
        return []
    period = subscription.period
    is_free = subscription.status is Status.TRIALING
    found = []
    for item in subscription.items:
        price = terms.price(item)
        if price.meter_id is not None:
            start = item.metered_from or period.start
            paid = None if is_free else price
            found.append(Window(price.meter_id, start, period.end, paid))
    for item in subscription.next_items:
        price = terms.price(item)
        if price.meter_id is not None:
            found.append(Window(price.meter_id, period.end, None, price))
    return _until(ends_at(subscription), found)


def feature_window(subscription: Subscription, meter_id: UUID) -> list[Window]:
    """What a feature of the subscription counts, for its limit alone."""
    if subscription.status not in SERVED:
        return []
    return _until(ends_at(subscription), [Window(meter_id, subscription.period_start, None, None)])


def ends_at(subscription: Subscription) -> datetime | None:
    """From when on it takes no usage, as far as that waits; whoever is late in ending it."""
    ends = [] if subscription.cancel_at is None else [subscription.cancel_at]
    if subscription.cancel_at_period_end or subscription.pause_at_period_end:
        ends.append(subscription.period_end)
    return min(ends, default=None)


def _until(end: datetime | None, windows: list[Window]) -> list[Window]:
    if end is None:
        return windows
    return [
        Window(one.meter_id, one.start, min(one.end or end, end), one.price)
        for one in windows
        if one.start < end
    ]


def hour_of(at: datetime, time_zone: str) -> datetime:
    """When the hour of `at` began by the clock on the wall: days are whole hours everywhere."""
    # Clocks differ by quarters of an hour, so that each quarter lies within one hour.
    quarter = at.replace(minute=at.minute // 15 * 15, second=0, microsecond=0)
    return _hour_of(quarter, time_zone)


@lru_cache(maxsize=10_000)
def _hour_of(at: datetime, time_zone: str) -> datetime:
    wall = at.astimezone(zone_of(time_zone))
    return at - timedelta(minutes=wall.minute, seconds=wall.second)


@dataclass(frozen=True, slots=True)
class Buckets:
    """When the buckets of a subscription begin: with each hour by its clock, and with each cut.

    Cuts are where a period, a metered price, or a window that was billed before begins or ends: so
    each bucket lies within one window of each price, whatever is late and whatever goes.
    """

    cadence: Cadence
    period_end: datetime
    cuts: tuple[datetime, ...]
    #: A bucket that begins no later may have more cuts, of windows billed before.
    unsure_until: datetime

    @classmethod
    def of(cls, subscription: Subscription, billed: Sequence[Window] | None = None) -> "Buckets":
        """By what it holds, and all windows billed before where they are known."""
        cuts = [subscription.period_start]
        cuts += [item.metered_from for item in subscription.items if item.metered_from is not None]
        for window in billed or ():
            cuts += [window.start] if window.end is None else [window.start, window.end]
        # What ends a window changes the subscription: since then, nothing did.
        unsure = subscription.updated_at if billed is None else BEGIN_OF_TIME
        return cls(subscription.cadence, subscription.period_end, tuple(cuts), unsure)

    def start_of(self, at: datetime) -> datetime:
        """When the bucket began in which this instant is added up."""
        start = hour_of(at, self.cadence.time_zone)
        for cut in self.cuts:
            if start < cut <= at:
                start = cut
        if at >= self.period_end:
            start = max(start, self.cadence.period_at(at).start)
        return start


def not_taken(
    subscription: Subscription,
    billed: Iterable[Window],
    *,
    meter: str,
    at: datetime,
    now: datetime,
) -> DomainError:
    """Why usage at `at` is not taken; `billed` are the windows of its meter that it knows."""
    # What was held longer ago than any grace is not looked up.
    long_ago = at < min(now - LONGEST_GRACE, subscription.period_start)
    if long_ago or any(at in window for window in billed):
        return UsageTooLate(
            "Its period was billed, and the time for late usage is over.", field="at"
        )
    if subscription.status not in SERVED:
        return UsageHasNoSubscription(f"The subscription is {subscription.status}.")
    return UsageNotCounted(
        f"Nothing that the subscription held at {at.isoformat()} counts the meter {meter!r}.",
        field="meter",
    )


def require_member(event_id: str, member: str | None, windows: Sequence[Window]) -> None:
    """Refuse what no price would ever count: a unique count of nobody."""
    if member is not None or not windows:
        return
    for one in windows:
        if one.price is None or one.price.aggregation is not Aggregation.UNIQUE:
            return
    raise UsageValueInvalid(
        f"The price counts members, and the event {event_id!r} names none.", field="member"
    )


def bill_late_usage(subscription: Subscription, at: datetime) -> None:
    """Something changed of what was billed: see to the difference at `at`.

    Or earlier, when the next period opens; that is all that a running subscription waits for.
    """
    due = min(subscription.usage_due_at or at, at)
    subscription.usage_due_at = due
    if subscription.status not in RUNNING and subscription.parked_at is None:
        subscription.due_at = min(subscription.due_at or due, due)


def is_worth_a_look(price: Price, values: Sequence[Decimal], *, removed: bool = False) -> bool:
    """Whether these could make the window's usage cost more than can be billed.

    What they add to the cost is at most their quantity at the dearest rate, and each tier's flat
    amount; but where all units cost what the last one does, any change can reprice all of them.
    """
    if not price.tiers:
        rates, once = [price.unit_amount or Decimal(0)], Decimal(0)
    else:
        rates = [tier.unit_amount for tier in price.tiers]
        once = sum((tier.flat_amount for tier in price.tiers), start=Decimal(0))
        if price.tier_mode == PriceType.VOLUME:
            rises = rates != sorted(rates, reverse=True)
            falls = removed or price.aggregation is Aggregation.LATEST or min(values) < 0
            if rises or falls:
                return True
    match price.aggregation:
        case Aggregation.SUM:
            units = sum(map(abs, values), start=Decimal(0))
        case Aggregation.MAX | Aggregation.LATEST:
            units = max(map(abs, values))
        case _:
            units = Decimal(len(values))
    if price.package_size is not None:
        units = units / price.package_size + 1
    return units * max(rates) + once >= WORTH_A_LOOK


def can_be_billed(price: Price, used: Decimal) -> bool:
    """Whether so much usage of one window costs no more than the largest amount."""
    return price.quote(used).amount <= LARGEST_AMOUNT


def reached(used: Decimal, limit: int) -> list[int]:
    """The thresholds, in percent of the limit, that the use has reached."""
    if limit <= 0:
        return list(THRESHOLDS_PERCENT)
    return [percent for percent in THRESHOLDS_PERCENT if used * 100 >= percent * limit]
