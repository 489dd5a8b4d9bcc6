"""Where usage counts: by what was held when it happened, for as long as that can be billed."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.subscriptions.domain.charges import Terms
from services.subscriptions.domain.price import Aggregation, Price, PriceType, Tier
from services.subscriptions.domain.subscription import Act, Status, Subscription
from services.subscriptions.domain.usage import (
    Buckets,
    UsageHasNoSubscription,
    UsageNotCounted,
    UsageTooLate,
    UsageValueInvalid,
    Window,
    bill_late_usage,
    hour_of,
    is_worth_a_look,
    not_taken,
    open_windows,
    require_member,
)
from shared.errors import DomainError
from shared.ids import new_id
from tests.subscriptions.factories import a_price, a_subscription, an_item, at, terms_of

METER = new_id()
GRACE = timedelta(hours=72)
JANUARY, FEBRUARY, MARCH = at(2024, 1, 1), at(2024, 2, 1), at(2024, 3, 1)


def metered(amount: int | None = 10, **more: Any) -> Price:
    usual: dict[str, Any] = {
        "type": PriceType.METERED,
        "meter_id": METER,
        "aggregation": Aggregation.SUM,
    }
    return a_price(amount, **{**usual, **more})


def one_that_holds(*prices: Price, start: datetime = FEBRUARY) -> tuple[Subscription, Terms]:
    terms = terms_of(*prices)
    subscription = a_subscription(prices[0], start=start, terms=terms)
    subscription.items = tuple(an_item(price) for price in prices)
    return subscription, terms


def test_a_held_price_counts_the_running_period_and_the_next() -> None:
    price = metered()
    subscription, terms = one_that_holds(price)

    now, then = open_windows(subscription, terms)

    assert (now.start, now.end, now.price) == (FEBRUARY, MARCH, price)
    assert (then.start, then.end, then.price) == (MARCH, None, price)


def test_what_began_within_the_period_counts_from_then_on() -> None:
    subscription, terms = one_that_holds(metered())
    since = at(2024, 2, 16)
    subscription.items = tuple(replace(one, metered_from=since) for one in subscription.items)

    window = open_windows(subscription, terms)[0]

    assert at(2024, 2, 15) not in window
    assert since in window


def test_a_trial_counts_and_costs_nothing() -> None:
    price = metered()
    terms = terms_of(price)
    subscription = a_subscription(price, start=FEBRUARY, terms=terms, trial_days=14)

    trial, paid = open_windows(subscription, terms)

    assert (trial.start, trial.end, trial.price) == (FEBRUARY, at(2024, 2, 15), None)
    assert paid.price is price


@pytest.mark.parametrize("status", ["canceled", "paused", "unpaid", "incomplete"])
def test_what_is_not_served_counts_nothing_that_is_new(status: str) -> None:
    subscription, terms = one_that_holds(metered())
    subscription.status = Status(status)

    assert open_windows(subscription, terms) == []


def test_what_is_to_end_takes_nothing_that_happened_after_its_end() -> None:
    subscription, terms = one_that_holds(metered())
    subscription.cancel_later(at=at(2024, 2, 5), by="staff")

    assert [one.end for one in open_windows(subscription, terms)] == [MARCH]

    subscription.uncancel(at=at(2024, 2, 5))
    subscription.cancel_later(at=at(2024, 2, 5), by="staff", on=at(2024, 2, 20))

    assert [one.end for one in open_windows(subscription, terms)] == [at(2024, 2, 20)]


def test_late_usage_is_taken_within_the_grace_of_its_window_and_not_after() -> None:
    january = Window(METER, JANUARY, FEBRUARY, metered(), billed=True)

    def takes(moment: datetime, now: datetime) -> bool:
        return january.takes(moment, now=now, grace=GRACE)

    assert takes(at(2024, 1, 20), at(2024, 2, 4))
    assert not takes(at(2024, 1, 20), at(2024, 2, 4, 0, 0, 1))
    assert not takes(FEBRUARY, at(2024, 2, 2))
    assert not takes(at(2023, 12, 31), at(2024, 2, 2))


@pytest.mark.parametrize(
    ("moment", "now", "status", "refusal"),
    [
        # Its window is known, and closed.
        (at(2024, 1, 20), at(2024, 2, 20), "active", UsageTooLate),
        # So long ago that no window would be open.
        (at(2023, 12, 1), at(2024, 2, 2), "active", UsageTooLate),
        # It was not held then.
        (at(2023, 12, 31), at(2024, 1, 20), "active", UsageNotCounted),
        (at(2024, 2, 10), at(2024, 2, 10), "active", UsageNotCounted),
        (at(2024, 2, 10), at(2024, 2, 10), "paused", UsageHasNoSubscription),
    ],
)
def test_a_refusal_tells_why(
    moment: datetime, now: datetime, status: str, refusal: type[DomainError]
) -> None:
    subscription, _ = one_that_holds(a_price())
    subscription.status = Status(status)
    billed = [Window(METER, JANUARY, FEBRUARY, metered(), billed=True)]

    told = not_taken(subscription, billed, meter="calls", at=moment, now=now)

    assert type(told) is refusal


def test_a_bucket_is_cut_where_a_window_ended_within_its_hour() -> None:
    subscription, _ = one_that_holds(metered())
    gone = Window(METER, FEBRUARY, at(2024, 2, 16, 10, 20), metered(), billed=True)

    def bucket(minute: int) -> datetime:
        return Buckets.of(subscription, [gone]).start_of(at(2024, 2, 16, 10, minute))

    assert bucket(10) == at(2024, 2, 16, 10)
    assert bucket(20) == bucket(50) == at(2024, 2, 16, 10, 20)


def test_hours_are_those_of_the_wall_so_that_days_are_whole_hours() -> None:
    assert hour_of(at(2024, 2, 16, 18, 29, 59), "Asia/Kolkata") == at(2024, 2, 16, 17, 30)
    assert hour_of(at(2024, 2, 16, 18, 30), "Asia/Kolkata") == at(2024, 2, 16, 18, 30)
    assert hour_of(at(2024, 2, 16, 18, 30), "Europe/Berlin") == at(2024, 2, 16, 18)


@given(
    st.datetimes(datetime(2024, 2, 1), datetime(2024, 4, 1), timezones=st.just(UTC)),  # noqa: DTZ001
    st.sampled_from(["UTC", "Asia/Kathmandu", "America/St_Johns", "Australia/Lord_Howe"]),
)
def test_a_bucket_is_at_most_an_hour_and_holds_its_instant(moment: datetime, zone: str) -> None:
    subscription, _ = one_that_holds(metered())
    subscription.time_zone = zone

    start = Buckets.of(subscription).start_of(moment)

    assert start <= moment < start + timedelta(hours=1)


def test_a_unique_count_of_nobody_is_refused_where_nothing_else_counts_it() -> None:
    unique = Window(METER, FEBRUARY, MARCH, metered(aggregation=Aggregation.UNIQUE))
    also = Window(METER, FEBRUARY, MARCH, metered())

    require_member("a", "ann", [unique])
    require_member("a", None, [unique, also])
    with pytest.raises(UsageValueInvalid):
        require_member("a", None, [unique])


@pytest.mark.parametrize(
    ("price", "values", "looks"),
    [
        (metered(10), [99_999], False),
        (metered(10), [100_000], True),
        (metered(10), [50_000, -50_000], True),
        (metered(10, aggregation=Aggregation.COUNT), [10**14], False),
        (metered(10, aggregation=Aggregation.MAX), [60_000, 60_000], False),
        (metered(10, package_size=1000), [10**7], False),
        (metered(10, free_units=10**6), [100_000], True),
        (metered(0), [10**15], False),
    ],
)
def test_only_what_could_cost_much_is_looked_at(
    price: Price, values: list[int], *, looks: bool
) -> None:
    assert is_worth_a_look(price, [Decimal(value) for value in values]) is looks


def test_where_the_last_unit_prices_all_any_change_is_looked_at_that_could_cost_more() -> None:
    def volume(*amounts: int) -> Price:
        tiers = (Tier(10, Decimal(amounts[0])), Tier(None, Decimal(amounts[1])))
        return metered(None, tiers=tiers, tier_mode="volume")

    assert not is_worth_a_look(volume(7, 6), [Decimal(1)])
    assert is_worth_a_look(volume(7, 6), [Decimal(-1)])
    assert is_worth_a_look(volume(7, 6), [Decimal(1)], removed=True)
    assert is_worth_a_look(volume(6, 7), [Decimal(1)])


def test_what_came_late_for_what_ended_is_due_when_its_grace_is_over() -> None:
    subscription, _ = one_that_holds(metered())
    subscription.status = Status.CANCELED

    bill_late_usage(subscription, at(2024, 2, 20))
    bill_late_usage(subscription, at(2024, 2, 21))

    assert subscription.usage_due_at == at(2024, 2, 20)
    assert subscription.next_act() == (at(2024, 2, 20), Act.BILL_USAGE)


def test_what_came_late_for_what_runs_waits_for_its_next_period() -> None:
    subscription, _ = one_that_holds(metered())

    bill_late_usage(subscription, at(2024, 2, 20))

    assert subscription.due_at == MARCH
