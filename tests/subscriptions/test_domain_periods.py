"""Periods are counted from the anchor in the account's zone, and tile."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.subscriptions.domain.period import (
    Billing,
    BillingPeriod,
    Cadence,
    Interval,
    IntervalTooLong,
    IntervalUnit,
    TimeZoneUnknown,
    days_after,
    zone_of,
)
from tests.subscriptions.factories import at

MONTH, YEAR = Interval(IntervalUnit.MONTH), Interval(IntervalUnit.YEAR)
ZONES = [
    "UTC",
    "Europe/Berlin",
    "America/Los_Angeles",
    "America/Sao_Paulo",
    "Asia/Kathmandu",
    "Australia/Lord_Howe",
    "Pacific/Apia",
    "Pacific/Chatham",
    "Africa/Casablanca",
    "America/St_Johns",
]


def days(cadence: Cadence, count: int) -> list[str]:
    zone = ZoneInfo(cadence.time_zone)
    return [f"{cadence.bound(n).astimezone(zone):%Y-%m-%d}" for n in range(1, count + 1)]


def test_a_month_is_clamped_to_its_last_day_and_the_clamp_never_sticks() -> None:
    cadence = Cadence(at(2024, 1, 31), "UTC", MONTH)

    assert days(cadence, 3) == ["2024-02-29", "2024-03-31", "2024-04-30"]


def test_a_leap_day_comes_back_in_the_next_leap_year() -> None:
    cadence = Cadence(at(2024, 2, 29), "UTC", YEAR)

    assert days(cadence, 4) == ["2025-02-28", "2026-02-28", "2027-02-28", "2028-02-29"]


def test_days_are_wall_time_across_a_clock_change() -> None:
    los_angeles = ZoneInfo("America/Los_Angeles")
    start = datetime(2017, 3, 1, 23, 30, tzinfo=los_angeles).astimezone(UTC)

    end = days_after(start, 30, "America/Los_Angeles")

    assert end.astimezone(los_angeles) == datetime(2017, 3, 31, 23, 30, tzinfo=los_angeles)
    assert end - start == timedelta(days=30) - timedelta(hours=1)


def test_a_wall_time_that_is_skipped_moves_forward_by_the_gap() -> None:
    berlin = ZoneInfo("Europe/Berlin")
    start = datetime(2024, 2, 29, 2, 30, tzinfo=berlin).astimezone(UTC)
    cadence = Cadence(start, "Europe/Berlin", Interval(IntervalUnit.DAY, 31))

    assert cadence.bound(1).astimezone(berlin).hour == 3
    assert cadence.bound(2).astimezone(berlin).hour == 2


def test_a_day_that_a_zone_drops_makes_no_empty_period() -> None:
    cadence = Cadence(at(2011, 12, 28, 12), "Pacific/Apia", Interval(IntervalUnit.DAY))
    index = cadence.index_at(at(2011, 12, 30))

    assert cadence.next_bound(cadence.bound(index), index)[1] > cadence.bound(index)


@pytest.mark.parametrize(
    ("unit", "expected"),
    [
        (IntervalUnit.DAY, "2024-05-16"),
        (IntervalUnit.WEEK, "2024-05-13"),
        (IntervalUnit.MONTH, "2024-05-01"),
        (IntervalUnit.QUARTER, "2024-04-01"),
        (IntervalUnit.YEAR, "2024-01-01"),
    ],
)
def test_calendar_billing_is_anchored_at_the_calendars_start(
    unit: IntervalUnit, expected: str
) -> None:
    berlin = "Europe/Berlin"
    cadence = Cadence.begin(at(2024, 5, 16, 10), berlin, Interval(unit), Billing.CALENDAR)

    assert f"{cadence.anchor.astimezone(ZoneInfo(berlin)):%Y-%m-%d %H:%M}" == f"{expected} 00:00"


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(TimeZoneUnknown):
        zone_of("Europe/Atlantis")
    with pytest.raises(IntervalTooLong):
        Interval(IntervalUnit.YEAR, 6)
    with pytest.raises(IntervalTooLong):
        Interval(IntervalUnit.MONTH, 0)
    with pytest.raises(ValueError, match="cannot run"):
        BillingPeriod(at(2024, 1, 2), at(2024, 1, 1))


intervals = st.one_of(
    st.builds(Interval, st.just(IntervalUnit.DAY), st.integers(1, 90)),
    st.builds(Interval, st.just(IntervalUnit.WEEK), st.integers(1, 12)),
    st.builds(Interval, st.just(IntervalUnit.MONTH), st.integers(1, 18)),
    st.builds(Interval, st.just(IntervalUnit.QUARTER), st.integers(1, 8)),
    st.builds(Interval, st.just(IntervalUnit.YEAR), st.integers(1, 4)),
)
instants = st.datetimes(
    datetime(1995, 6, 1),  # noqa: DTZ001
    datetime(2045, 1, 1),  # noqa: DTZ001
    timezones=st.just(UTC),
)
cadences = st.builds(Cadence, instants, st.sampled_from(ZONES), intervals)


@given(cadences, st.integers(-20, 60))
@settings(max_examples=150)
def test_bounds_never_go_back(cadence: Cadence, n: int) -> None:
    assert cadence.bound(n) <= cadence.bound(n + 1)


@given(cadences, st.timedeltas(timedelta(days=-900), timedelta(days=3000)))
@settings(max_examples=150)
def test_every_instant_lies_in_exactly_one_period(cadence: Cadence, away: timedelta) -> None:
    instant = cadence.anchor + away
    n = cadence.index_at(instant)
    period = cadence.period(n)

    assert instant in period
    following, _ = cadence.next_bound(period.end, n)
    assert cadence.bound(following - 1) == period.end
    assert instant < cadence.bound(following)
    assert cadence.bound(n) <= instant


@given(cadences, st.integers(1, 40))
@settings(max_examples=60)
def test_walking_bound_by_bound_leaves_no_gap_and_no_overlap(cadence: Cadence, steps: int) -> None:
    n, start = 0, cadence.anchor
    for _ in range(steps):
        n, _ = cadence.next_bound(start, n)
        end = cadence.bound(n)
        assert start < end
        assert start in BillingPeriod(start, end)
        assert end not in BillingPeriod(start, end)
        start = end


@given(cadences)
def test_the_same_wall_times_hold_in_another_zone(cadence: Cadence) -> None:
    moved = cadence.moved_to("Asia/Tokyo")

    assert moved.time_zone == "Asia/Tokyo"
    assert abs(moved.anchor - cadence.anchor) <= timedelta(hours=26)
