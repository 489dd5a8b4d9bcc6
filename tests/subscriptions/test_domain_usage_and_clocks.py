"""Usage adds up in any cut, and a test clock moves only when everything rests."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.subscriptions.domain.price import Aggregation
from services.subscriptions.domain.testclock import (
    PATIENCE,
    SERVICES,
    ClockInvalid,
    ClockStatus,
    SimulatedClock,
    behind,
    matches,
)
from services.subscriptions.domain.usage import Bucket, Buckets, merged, reached
from shared.errors import TestClockBusy
from shared.events.clocks import TestClockReported
from shared.ids import new_id
from tests.subscriptions.factories import BEGIN, a_price, a_subscription, at

values = st.decimals(-1000, 1000, places=6, allow_nan=False)
moments = st.datetimes(
    datetime(2024, 1, 1),  # noqa: DTZ001
    datetime(2024, 2, 1),  # noqa: DTZ001
    timezones=st.just(UTC),
)


@given(st.lists(st.tuples(values, moments), max_size=40), st.integers(1, 6))
def test_the_sum_of_the_buckets_is_the_whole(
    events: list[tuple[Decimal, datetime]], cuts: int
) -> None:
    whole = Bucket()
    parts = [Bucket() for _ in range(cuts)]
    for number, (value, moment) in enumerate(events):
        whole.add(value, moment)
        parts[number % cuts].add(value, moment)

    together = merged(parts)

    for aggregation in (Aggregation.SUM, Aggregation.COUNT, Aggregation.MAX):
        assert together.read(aggregation) == whole.read(aggregation)
    assert together.latest_at == whole.latest_at


@given(moments)
def test_a_bucket_never_reaches_over_a_periods_start(moment: datetime) -> None:
    subscription = a_subscription(a_price(100), start=at(2024, 1, 1, 10, 17))
    if moment < subscription.period_start:
        return

    start = Buckets.of(subscription).start_of(moment)

    assert start <= moment < start + timedelta(hours=1)
    assert start >= subscription.period_start


def test_usage_after_an_overdue_renewal_goes_to_the_period_to_come() -> None:
    subscription = a_subscription(a_price(100), start=at(2024, 1, 1, 10, 17))

    assert Buckets.of(subscription).start_of(at(2024, 2, 1, 10, 30)) == at(2024, 2, 1, 10, 17)


@pytest.mark.parametrize(
    ("used", "percents"), [(79, []), (80, [80]), (99, [80]), (100, [80, 100]), (500, [80, 100])]
)
def test_thresholds(used: int, percents: list[int]) -> None:
    assert reached(Decimal(used), 100) == percents


# --- test clocks -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "name", "taken"),
    [
        ("#", "invoice.paid", True),
        ("invoice.paid", "invoice.paid", True),
        ("invoice.*", "invoice.paid", True),
        ("invoice.*", "invoice.paid.twice", False),
        ("invoice.*", "payment.failed", False),
    ],
)
def test_bindings_match_as_topics_do(pattern: str, name: str, *, taken: bool) -> None:
    assert matches(pattern, name) is taken


def a_clock() -> SimulatedClock:
    clock = SimulatedClock(
        id=new_id(), account_id=new_id(), now=BEGIN, target=BEGIN, created_at=BEGIN
    )
    clock.begin()
    return clock


def reports(clock: SimulatedClock, **of: Any) -> list[TestClockReported]:
    return [
        TestClockReported.model_validate(
            {
                "occurred_at": clock.now,
                "account_id": clock.account_id,
                "sequence": 1,
                "report_id": new_id(),
                "clock_id": clock.id,
                "service": service,
                "revision": clock.revision,
                "busy": False,
                "emitted": {},
                "handled": {},
                "bindings": {},
                **of.get(service, {}),
            }
        )
        for service in sorted(SERVICES)
    ]


def test_two_equal_rounds_in_which_all_is_taken_let_time_move() -> None:
    clock = a_clock()
    assert clock.hear(reports(clock)[:3], real_now=BEGIN) is None
    clock.hear(reports(clock), real_now=BEGIN)
    clock.hear(reports(clock), real_now=BEGIN)
    assert clock.status is ClockStatus.READY

    clock.advance(at(2024, 3, 1))
    due = {"payments": {"next_due": at(2024, 2, 3)}, "auth": {"next_due": at(2024, 2, 9)}}
    clock.hear(reports(clock, **due), real_now=BEGIN)
    moved = clock.hear(reports(clock, **due), real_now=BEGIN)

    assert moved is not None
    assert moved.now == clock.now == at(2024, 2, 3)


def test_an_event_on_its_way_and_a_busy_service_hold_the_clock() -> None:
    clock = a_clock()
    sent = {
        "subscriptions": {"emitted": {"subscription.started": 1}},
        "invoicing": {"bindings": {"invoicing.bill": ("subscription.*",)}},
    }
    assert behind(reports(clock, **sent)) == {"invoicing.bill": (0, 1)}
    for _ in range(2):
        assert clock.hear(reports(clock, **sent), real_now=BEGIN) is None
        assert clock.looks_again
        clock.look_again()
    busy = {"payments": {"busy": True}}
    for _ in range(3):
        clock.hear(reports(clock, **busy), real_now=BEGIN)
        clock.look_again()
    assert clock.status is ClockStatus.ADVANCING
    assert clock.waiting_for == ("payments is busy",)


def test_patience_ends_with_an_event_that_is_never_taken() -> None:
    clock = a_clock()
    lost = {
        "subscriptions": {"emitted": {"subscription.started": 1}},
        "invoicing": {"bindings": {"invoicing.bill": ("subscription.*",)}},
    }
    clock.hear(reports(clock, **lost), real_now=BEGIN)
    clock.look_again()

    clock.hear(reports(clock, **lost), real_now=BEGIN + PATIENCE * 2)

    assert clock.status is ClockStatus.READY


def test_a_clock_moves_forward_one_errand_at_a_time() -> None:
    clock = a_clock()
    with pytest.raises(TestClockBusy):
        clock.advance(at(2024, 3, 1))
    clock.status = ClockStatus.READY
    with pytest.raises(ClockInvalid):
        clock.advance(BEGIN)
    with pytest.raises(ClockInvalid):
        clock.advance(at(2034, 3, 1))
