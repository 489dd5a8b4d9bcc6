"""Billing periods: bounds counted from an anchor in the account's time zone."""

from calendar import monthrange
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from shared.errors import Invalid

LONGEST_INTERVAL_YEARS = 5
LONGEST_INTERVAL_DAYS = 366 * LONGEST_INTERVAL_YEARS


class IntervalUnit(StrEnum):
    DAY = "day"
    WEEK = "week"
    MONTH = "month"
    QUARTER = "quarter"
    YEAR = "year"


DAYS = {IntervalUnit.DAY: 1, IntervalUnit.WEEK: 7}
MONTHS = {IntervalUnit.MONTH: 1, IntervalUnit.QUARTER: 3, IntervalUnit.YEAR: 12}


class Billing(StrEnum):
    """Where periods are anchored: at the start, or at the 1st (Monday, midnight)."""

    ANNIVERSARY = "anniversary"
    CALENDAR = "calendar"


class TimeZoneUnknown(Invalid):
    code = "time-zone-unknown"


class IntervalTooLong(Invalid):
    code = "interval-too-long"


@cache
def zone_of(name: str) -> ZoneInfo:
    """The IANA zone of this name."""
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise TimeZoneUnknown(f"{name!r} is not an IANA time zone.", field="time_zone") from None


def instant_of(wall: datetime, zone: ZoneInfo) -> datetime:
    """The UTC instant of a wall time.

    A wall time that a clock change skips moves forward by the gap; one that happens twice
    is the first.
    """
    return wall.replace(tzinfo=zone, fold=0).astimezone(UTC)


def wall_of(instant: datetime, zone: ZoneInfo) -> datetime:
    return instant.astimezone(zone).replace(tzinfo=None)


def days_after(instant: datetime, days: int, time_zone: str) -> datetime:
    """So many days later by the clock on the wall, whatever clock changes lie between."""
    zone = zone_of(time_zone)
    return instant_of(wall_of(instant, zone) + timedelta(days=days), zone)


def whole_second(instant: datetime) -> datetime:
    """Bounds and factors are whole seconds, so that a person can check them."""
    return instant.replace(microsecond=0)


def counted_until(at: datetime) -> datetime:
    """Up to where usage counts of what ends at `at`: the second in which it does included."""
    return whole_second(at) + timedelta(seconds=1)


@dataclass(frozen=True, slots=True)
class Interval:
    """Every `count` units."""

    unit: IntervalUnit
    count: int = 1

    def __post_init__(self) -> None:
        if self.count < 1 or self.nominal_days > LONGEST_INTERVAL_DAYS:
            raise IntervalTooLong(
                f"An interval is at least one unit and at most {LONGEST_INTERVAL_YEARS} years.",
                field="interval_count",
            )

    @property
    def nominal_days(self) -> int:
        """About how long it is; only for comparing prices of different intervals."""
        if self.unit in DAYS:
            return DAYS[self.unit] * self.count
        return (MONTHS[self.unit] * self.count * 365) // 12

    def shift(self, wall: datetime, times: int) -> datetime:
        """`wall` moved by so many intervals; the day is clamped to the month's last."""
        if self.unit in DAYS:
            return wall + timedelta(days=DAYS[self.unit] * self.count * times)
        months = wall.year * 12 + wall.month - 1 + MONTHS[self.unit] * self.count * times
        year, month = months // 12, months % 12 + 1
        return wall.replace(year=year, month=month, day=min(wall.day, monthrange(year, month)[1]))

    def __str__(self) -> str:
        return f"every {self.count} {self.unit}s" if self.count > 1 else f"every {self.unit}"


@dataclass(frozen=True, slots=True)
class BillingPeriod:
    """Half-open: `start` belongs to it, `end` to the next."""

    start: datetime
    end: datetime

    def __post_init__(self) -> None:
        if self.start >= self.end:
            raise ValueError(f"a period cannot run from {self.start} to {self.end}")

    @property
    def seconds(self) -> int:
        return int((self.end - self.start).total_seconds())

    def __contains__(self, instant: datetime) -> bool:
        return self.start <= instant < self.end


@dataclass(frozen=True, slots=True)
class Cadence:
    """All bounds of a subscription: bound n is the anchor and n intervals, in the zone."""

    anchor: datetime
    time_zone: str
    interval: Interval

    @classmethod
    def begin(cls, at: datetime, time_zone: str, interval: Interval, billing: Billing) -> "Cadence":
        """The cadence of what starts at `at`: anchored there, or at the calendar's start."""
        at = whole_second(at)
        if billing is Billing.CALENDAR:
            zone = zone_of(time_zone)
            at = instant_of(calendar_start(wall_of(at, zone), interval.unit), zone)
        return cls(at, time_zone, interval)

    def bound(self, n: int) -> datetime:
        if n == 0:
            return self.anchor  # also where its wall time happens twice
        zone = zone_of(self.time_zone)
        return instant_of(self.interval.shift(wall_of(self.anchor, zone), n), zone)

    def index_at(self, instant: datetime) -> int:
        """The n of the period that the instant lies in."""
        n = int((instant - self.anchor).total_seconds() // (self.interval.nominal_days * 86400))
        while self.bound(n) > instant:
            n -= 1
        while self.bound(n + 1) <= instant:
            n += 1
        return n

    def next_bound(self, after: datetime, n: int) -> tuple[int, datetime]:
        """The first m > n whose bound lies after `after`, and that bound.

        It is n + 1 but where a zone drops a whole day, or was changed for one far ahead.
        """
        n += 1
        while (bound := self.bound(n)) <= after:
            n += 1
        return n, bound

    def period(self, n: int) -> BillingPeriod:
        return BillingPeriod(self.bound(n), self.bound(n + 1))

    def period_at(self, instant: datetime) -> BillingPeriod:
        return self.period(self.index_at(instant))

    def moved_to(self, time_zone: str) -> "Cadence":
        """The same wall times in another zone."""
        anchor = instant_of(wall_of(self.anchor, zone_of(self.time_zone)), zone_of(time_zone))
        return Cadence(anchor, time_zone, self.interval)


def calendar_start(wall: datetime, unit: IntervalUnit) -> datetime:
    """The start of the day, week, month, quarter or year that a wall time lies in."""
    day = wall.replace(hour=0, minute=0, second=0, microsecond=0)
    match unit:
        case IntervalUnit.DAY:
            return day
        case IntervalUnit.WEEK:
            return day - timedelta(days=day.weekday())
        case IntervalUnit.MONTH:
            return day.replace(day=1)
        case IntervalUnit.QUARTER:
            return day.replace(month=day.month - (day.month - 1) % 3, day=1)
        case IntervalUnit.YEAR:
            return day.replace(month=1, day=1)
