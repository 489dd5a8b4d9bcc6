"""The life of a subscription: its moves, and what each of them bills."""

from datetime import datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.subscriptions.domain.agenda import Change
from services.subscriptions.domain.charges import Item
from services.subscriptions.domain.coupon import (
    Coupon,
    CouponDuration,
    CouponExhausted,
    CouponExpired,
    CouponInvalid,
    CouponNotForPlan,
)
from services.subscriptions.domain.period import Billing, BillingPeriod, IntervalUnit
from services.subscriptions.domain.plan import TrialEndBehavior
from services.subscriptions.domain.price import Price, PriceType, Tier
from services.subscriptions.domain.proration import Factor, prorated
from services.subscriptions.domain.subscription import (
    FINAL,
    MOVES,
    Act,
    CurrencyMismatch,
    DateInvalid,
    IllegalTransition,
    IntervalMismatch,
    NothingChanges,
    NothingScheduled,
    PaymentBehavior,
    Proration,
    Status,
    Subscription,
)
from shared.events.subscriptions import (
    SubscriptionActivated,
    SubscriptionCanceled,
    SubscriptionChanged,
    SubscriptionChangeLapsed,
    SubscriptionChangePending,
    SubscriptionChangeScheduled,
    SubscriptionChangeWithdrawn,
    SubscriptionEvent,
    SubscriptionPaused,
    SubscriptionRenewed,
    SubscriptionStarted,
    SubscriptionTrialEnded,
)
from shared.ids import new_id
from tests.subscriptions.factories import (
    BEGIN,
    a_plan,
    a_price,
    a_subscription,
    an_item,
    an_order,
    at,
    beside,
    charges_of,
    net,
    take_backs_of,
    terms_of,
    tiered,
    to,
)

APRIL = BillingPeriod(at(2024, 4, 1), at(2024, 5, 1))


def amounts(event: SubscriptionEvent) -> list[int]:
    return [charge.amount for charge in getattr(event, "charges", ())]


def change(
    subscription: Subscription, old: Price, new: Price, when: datetime, **more: Any
) -> SubscriptionEvent:
    """Hold another price; the one event of that."""
    order = an_order(to(new, more.pop("quantity", 1)), **more)
    (event,) = subscription.change(order, terms_of(old, new), at=when)
    return event


def started(price: Price, when: datetime, **more: Any) -> tuple[Subscription, SubscriptionEvent]:
    """A subscription that is active, and the event that billed its first period."""
    terms = terms_of(price)
    subscription, (event,) = Subscription.start(
        **{
            "id": new_id(),
            "account_id": new_id(),
            "items": (an_item(price, more.pop("quantity", 1)),),
            "terms": terms,
            "time_zone": "UTC",
            "at": when,
            "now": when,
            **more,
        }
    )
    if subscription.status is Status.INCOMPLETE:
        subscription.activate(terms, now=when)
    return subscription, event


def taken_back(event: SubscriptionEvent) -> list[tuple[UUID, datetime]]:
    """Which charges are not owed any more, and from when on."""
    return [(one.charge_id, one.starts_at) for one in take_backs_of([event])]


def ids(event: SubscriptionEvent) -> list[UUID]:
    return list(charges_of([event]))


# --- proration ---------------------------------------------------------------------------------


def test_half_way_from_10_to_20() -> None:
    old, new = a_price(1000), a_price(2000)
    subscription, first = started(old, at(2024, 4, 1))

    event = change(subscription, old, new, at(2024, 4, 16))

    assert isinstance(event, SubscriptionChanged)
    assert event.invoice_now
    assert amounts(event) == [1000]
    assert taken_back(event) == [(ids(first)[0], at(2024, 4, 16))]
    half = {
        "rule": "remaining seconds / seconds of the period",
        "remaining_seconds": 15 * 86400,
        "period_seconds": 30 * 86400,
        "fraction": "1/2",
        "currency": "EUR",
        "kind": "proration",
    }
    assert event.charges[0].why["steps"][1] == {**half, "sense": "charge"}
    assert event.take_backs[0].why["steps"] == [{**half, "sense": "take_back"}]
    assert net(first, event) == 1000 - 500 + 1000


def test_from_5_to_20_after_one_of_30_days() -> None:
    old, new = a_price(500), a_price(2000)
    subscription, first = started(old, at(2024, 4, 1))

    event = change(subscription, old, new, at(2024, 4, 2))

    assert amounts(event) == [1933]  # 2000 x 29/30
    assert taken_back(event) == [(ids(first)[0], at(2024, 4, 2))]
    assert net(first, event) == 500 - 483 + 1933  # 500 x 29/30


def test_the_credit_is_whole_at_the_first_instant_and_nothing_at_the_last() -> None:
    first = Factor.of_rest(APRIL, APRIL.start)
    last = Factor.of_rest(APRIL, APRIL.end)

    assert prorated(Fraction(1999), first) == 1999
    assert prorated(Fraction(1999), last) == 0


every_price = st.one_of(
    st.integers(0, 10**7).map(a_price),
    st.integers(0, 10**5).map(lambda amount: a_price(amount, type=PriceType.PER_UNIT)),
    st.integers(0, 10**5).map(
        lambda amount: a_price(amount, type=PriceType.PACKAGE, package_size=7)
    ),
    st.sampled_from([PriceType.GRADUATED, PriceType.VOLUME]).map(tiered),
    st.decimals(0, 1000, places=9, allow_nan=False).map(
        lambda amount: a_price(
            None,
            type=PriceType.GRADUATED,
            tiers=(Tier(3, amount), Tier(None, amount / 3, Decimal(99))),
        )
    ),
)


@given(every_price, every_price, st.integers(0, 31 * 86400), st.integers(1, 50))
@settings(max_examples=50)
def test_a_change_and_its_reverse_at_one_instant_net_to_zero(
    old: Price, new: Price, seconds: int, quantity: int
) -> None:
    subscription, first = started(old, at(2024, 1, 1))
    when = at(2024, 1, 1) + timedelta(seconds=seconds)

    there = change(subscription, old, new, when, quantity=quantity, proration=Proration.NOW)
    back = change(subscription, new, old, when, proration=Proration.NOW)

    # What comes back is a share of what was billed, what is billed anew one of the exact price:
    # where that has no fraction of a minor unit they are the same.
    exact = old.quote(1).amount
    assert abs(net(first, there, back) - amounts(first)[0]) <= (exact.denominator != 1)
    assert {of for of, _ in taken_back(back)} == set(ids(there))


@given(every_price, st.integers(1, 50))
@settings(max_examples=50)
def test_all_that_was_charged_comes_back_at_the_first_instant(price: Price, quantity: int) -> None:
    subscription, first = started(
        price, BEGIN, quantity=quantity, time_zone="Europe/Berlin", billing=Billing.CALENDAR
    )

    (canceled,) = subscription.cancel(terms_of(price), at=BEGIN, now=BEGIN, credit=True)

    assert taken_back(canceled) == [(ids(first)[0], BEGIN)]
    assert net(first, canceled) == 0


@given(st.integers(1, 10**9), st.integers(0, 31 * 86400))
def test_what_is_used_and_what_comes_back_add_up(amount: int, seconds: int) -> None:
    period = BillingPeriod(at(2024, 1, 1), at(2024, 2, 1))
    rest = Factor.of_rest(period, period.start + timedelta(seconds=seconds))
    used = Factor(rest.whole - rest.remaining, rest.whole)

    together = prorated(Fraction(amount), rest) + prorated(Fraction(amount), used)

    assert abs(together - amount) <= 1


# --- renewals ----------------------------------------------------------------------------------


def test_renewals_tile_from_the_anchor() -> None:
    price = a_price(1000)
    subscription = a_subscription(price)
    ends = []
    for _ in range(4):
        event = subscription.renew(terms_of(price), now=subscription.period_end)
        assert amounts(event) == [1000]
        assert event.period_start == subscription.period_start
        ends.append(f"{event.period_end:%m-%d}")

    assert ends == ["03-31", "04-30", "05-31", "06-30"]


def test_a_late_run_bills_what_a_punctual_one_would_have() -> None:
    price = a_price(1000)
    punctual, late = a_subscription(price), a_subscription(price)
    months = [punctual.renew(terms_of(price), now=punctual.period_end) for _ in range(6)]
    now = at(2024, 7, 15)

    caught_up = []
    while (upcoming := late.next_act()) and upcoming[0] <= now:
        caught_up += late.act(upcoming[1], terms_of(price), at=upcoming[0], now=now)

    billed = [event for event in caught_up if isinstance(event, SubscriptionRenewed)]
    assert [(e.period_start, amounts(e)) for e in billed] == [
        (e.period_start, amounts(e)) for e in months[: len(billed)]
    ]
    assert len(billed) == 5


def test_a_new_time_zone_counts_from_where_the_last_period_ended() -> None:
    price = a_price(1000)
    subscription = a_subscription(price, start=at(2024, 1, 14, 23), time_zone="Europe/Berlin")
    end = subscription.period_end

    event = subscription.renew(terms_of(price), now=end, time_zone="America/New_York")

    assert event.period_start == end
    assert event.period_end == at(2024, 3, 15, 4)  # midnight in New York
    again = subscription.renew(terms_of(price), now=event.period_end, time_zone="America/New_York")
    assert again.period_end == at(2024, 4, 15, 4)


def test_the_first_calendar_period_pays_its_part() -> None:
    price = a_price(3000)
    subscription, (started,) = Subscription.start(
        id=new_id(),
        account_id=new_id(),
        items=(an_item(price),),
        terms=terms_of(price),
        time_zone="UTC",
        at=at(2024, 4, 11),
        now=at(2024, 4, 11),
        billing=Billing.CALENDAR,
    )

    assert isinstance(started, SubscriptionStarted)
    assert amounts(started) == [2000]
    assert subscription.period == BillingPeriod(at(2024, 4, 11), at(2024, 5, 1))
    subscription.activate(terms_of(price), now=at(2024, 4, 11))
    renewed = subscription.renew(terms_of(price), now=at(2024, 5, 1))
    assert amounts(renewed) == [3000]
    assert renewed.period_end == at(2024, 6, 1)


# --- starting ----------------------------------------------------------------------------------


def test_a_start_waits_for_its_first_payment_and_then_expires() -> None:
    price = a_price(1000)
    subscription, (started,) = Subscription.start(
        id=new_id(),
        account_id=new_id(),
        items=(an_item(price, 1),),
        terms=terms_of(price),
        time_zone="UTC",
        at=BEGIN,
        now=BEGIN,
    )

    assert started.sequence == 1
    assert subscription.status is Status.INCOMPLETE
    assert subscription.next_act() == (BEGIN + timedelta(hours=23), Act.EXPIRE)
    subscription.expire(now=BEGIN + timedelta(hours=23))
    expired = Status.INCOMPLETE_EXPIRED
    assert subscription.status == expired
    assert subscription.due_at is None


def test_a_free_start_is_active_at_once_only_without_anything_to_invoice() -> None:
    assert a_subscription(a_price(0)).status is Status.ACTIVE


def test_an_imported_subscription_is_billed_from_the_next_period_on() -> None:
    price = a_price(1000)
    now = at(2024, 7, 15)
    subscription, (started,) = Subscription.start(
        id=new_id(),
        account_id=new_id(),
        items=(an_item(price),),
        terms=terms_of(price),
        time_zone="UTC",
        at=BEGIN,
        now=now,
        imported=True,
    )

    assert subscription.status is Status.ACTIVE
    assert amounts(started) == []
    assert subscription.period == BillingPeriod(at(2024, 6, 30, 9), at(2024, 7, 31, 9))
    renewed = subscription.renew(terms_of(price), now=at(2024, 7, 31, 9))
    assert renewed.period_end == at(2024, 8, 31, 9)


# --- trials ------------------------------------------------------------------------------------


def a_trial(behavior: TrialEndBehavior = TrialEndBehavior.CANCEL) -> tuple[Subscription, Any]:
    price = a_price(1000)
    terms = terms_of(price, plan=a_plan(trial_end_behavior=behavior))
    return a_subscription(price, terms=terms, trial_days=14), terms


def test_a_trial_costs_nothing_and_reminds_before_it_ends() -> None:
    subscription, terms = a_trial()

    assert subscription.status is Status.TRIALING
    assert subscription.trial_end == at(2024, 2, 14, 9)
    assert subscription.next_act() == (at(2024, 2, 11, 9), Act.REMIND_TRIAL)
    subscription.act(Act.REMIND_TRIAL, terms, at=at(2024, 2, 11, 9), now=at(2024, 2, 11, 9))
    assert subscription.next_act() == (at(2024, 2, 14, 9), Act.END_TRIAL)


def test_a_trial_that_ends_with_a_method_begins_the_first_paid_period() -> None:
    subscription, terms = a_trial()

    ended, activated = subscription.end_trial(terms, can_pay=True, now=at(2024, 2, 14, 9))

    assert isinstance(ended, SubscriptionTrialEnded)
    assert amounts(ended) == [1000]
    assert isinstance(activated, SubscriptionActivated)
    assert subscription.period == BillingPeriod(at(2024, 2, 14, 9), at(2024, 3, 14, 9))


@pytest.mark.parametrize(
    ("behavior", "status"),
    [
        (TrialEndBehavior.CANCEL, Status.CANCELED),
        (TrialEndBehavior.PAUSE, Status.PAUSED),
        (TrialEndBehavior.INVOICE, Status.ACTIVE),
    ],
)
def test_a_trial_that_ends_without_a_method_follows_the_plan(
    behavior: TrialEndBehavior, status: Status
) -> None:
    subscription, terms = a_trial(behavior)

    subscription.end_trial(terms, can_pay=False, now=at(2024, 2, 14, 9))

    assert subscription.status is status


# --- changes -----------------------------------------------------------------------------------


def test_a_downgrade_waits_for_the_periods_end() -> None:
    old, new = a_price(2000), a_price(1000)
    subscription = a_subscription(old)

    event = change(subscription, old, new, BEGIN + timedelta(days=3))

    assert isinstance(event, SubscriptionChangeScheduled)
    assert event.effective_at == subscription.period_end
    assert subscription.price_id == old.id
    renewed = subscription.renew(terms_of(old, new), now=subscription.period_end)
    assert amounts(renewed) == [1000]
    assert subscription.price_id == new.id


def test_a_scheduled_change_can_be_taken_back_once() -> None:
    old, new = a_price(2000), a_price(1000)
    subscription = a_subscription(old)
    change(subscription, old, new, BEGIN)

    subscription.withdraw_change(terms_of(old), at=BEGIN)

    with pytest.raises(NothingScheduled):
        subscription.withdraw_change(terms_of(old), at=BEGIN)
    assert amounts(subscription.renew(terms_of(old), now=subscription.period_end)) == [2000]


def test_prorate_next_waits_for_the_next_invoice_and_none_bills_nothing() -> None:
    old, new = a_price(1000), a_price(2000)
    subscription, first = started(old, at(2024, 4, 1))
    next_time = change(subscription, old, new, at(2024, 4, 16), proration=Proration.NEXT)
    nothing = change(
        a_subscription(old, start=at(2024, 4, 1)),
        old,
        new,
        at(2024, 4, 16),
        proration=Proration.NONE,
    )

    assert isinstance(next_time, SubscriptionChanged)
    assert not next_time.invoice_now
    assert amounts(next_time) == [1000]
    assert taken_back(next_time) == [(ids(first)[0], at(2024, 4, 16))]
    assert amounts(nothing) == []
    assert taken_back(nothing) == []


def test_another_rhythm_begins_at_once_with_a_period_of_its_own() -> None:
    old, new = a_price(1000), a_price(10_000, interval_unit=IntervalUnit.YEAR)
    subscription, first = started(old, at(2024, 4, 1))

    event = change(subscription, old, new, at(2024, 4, 16), proration=Proration.NOW)

    assert amounts(event) == [10_000]
    assert taken_back(event) == [(ids(first)[0], at(2024, 4, 16))]
    assert net(first, event) == 1000 - 500 + 10_000
    assert subscription.period == BillingPeriod(at(2024, 4, 16), at(2025, 4, 16))


def test_only_what_differs_is_prorated() -> None:
    main, addon = a_price(1000), a_price(600, addon_id=new_id())
    terms = terms_of(main, addon)
    subscription = a_subscription(main, start=at(2024, 4, 1))

    (added,) = subscription.change(an_order(beside(addon)), terms, at=at(2024, 4, 16))
    (gone,) = subscription.change(
        an_order(beside(), proration=Proration.NOW), terms, at=at(2024, 4, 21)
    )

    assert amounts(added) == [300]
    assert taken_back(added) == []
    assert amounts(gone) == []
    assert taken_back(gone) == [(ids(added)[0], at(2024, 4, 21))]
    assert net(added, gone) == 300 - 200  # 10 of the 15 days


def test_seats_are_prorated_as_old_against_new() -> None:
    price = a_price(1000, type=PriceType.PER_UNIT)
    subscription, first = started(price, at(2024, 4, 1), quantity=3)

    event = change(subscription, price, price, at(2024, 4, 16), quantity=5)

    assert amounts(event) == [2500]
    assert taken_back(event) == [(ids(first)[0], at(2024, 4, 16))]
    assert net(first, event) == 3000 - 1500 + 2500
    assert subscription.quantity == 5


def test_what_none_let_be_is_not_given_back_and_not_billed_again() -> None:
    cheap, dear = a_price(100), a_price(100_000)
    terms = terms_of(cheap, dear)
    subscription, first = started(cheap, at(2024, 4, 1))
    change(subscription, cheap, dear, at(2024, 4, 2), proration=Proration.NONE)

    (canceled,) = subscription.cancel(terms, at=at(2024, 4, 16), now=at(2024, 4, 16), credit=True)

    assert taken_back(canceled) == [(ids(first)[0], at(2024, 4, 16))]
    assert net(first, canceled) == 100 - 50


def test_back_to_what_was_billed_before_a_waiver_bills_nothing() -> None:
    dear, cheap = a_price(2000), a_price(100)
    subscription, _ = started(dear, at(2024, 4, 1))
    change(subscription, dear, cheap, at(2024, 4, 6), proration=Proration.NONE)

    back = change(subscription, cheap, dear, at(2024, 4, 16), proration=Proration.NOW)

    assert amounts(back) == []
    assert taken_back(back) == []


def test_changes_of_different_things_that_wait_compose() -> None:
    old, new = a_price(1000, type=PriceType.PER_UNIT), a_price(700, type=PriceType.PER_UNIT)
    terms = terms_of(old, new)
    subscription = a_subscription(old, start=at(2024, 4, 1), quantity=5)
    change(subscription, old, new, at(2024, 4, 2), quantity=None)

    (fewer,) = subscription.change(an_order(Change(quantity=3)), terms, at=at(2024, 4, 3))

    assert isinstance(fewer, SubscriptionChangeScheduled)
    assert (fewer.price_id, fewer.quantity) == (new.id, 3)
    assert amounts(subscription.renew(terms, now=at(2024, 5, 1))) == [2100]


def test_a_change_that_waits_stands_when_something_else_changes_now() -> None:
    old, new = a_price(1000, type=PriceType.PER_UNIT), a_price(700, type=PriceType.PER_UNIT)
    terms = terms_of(old, new)
    subscription = a_subscription(old, start=at(2024, 4, 1), quantity=2)
    change(subscription, old, new, at(2024, 4, 2), quantity=None)

    (more,) = subscription.change(an_order(Change(quantity=4)), terms, at=at(2024, 4, 16))

    assert amounts(more) == [2000]
    assert amounts(subscription.renew(terms, now=at(2024, 5, 1))) == [2800]


def test_what_contradicts_a_change_that_waits_replaces_it_and_says_so() -> None:
    old, new, other = a_price(1000), a_price(700), a_price(1500)
    terms = terms_of(old, new, other)
    subscription = a_subscription(old, start=at(2024, 4, 1))
    change(subscription, old, new, at(2024, 4, 2))

    withdrawn, changed = subscription.change(an_order(to(other)), terms, at=at(2024, 4, 16))

    assert isinstance(withdrawn, SubscriptionChangeWithdrawn)
    assert amounts(changed) == [750]
    assert amounts(subscription.renew(terms, now=at(2024, 5, 1))) == [1500]


def test_a_change_at_a_date_happens_then_and_is_prorated() -> None:
    old, new = a_price(1000), a_price(2000)
    terms = terms_of(old, new)
    subscription, first = started(old, at(2024, 4, 1))
    scheduled = change(subscription, old, new, at(2024, 4, 2), effective_at=at(2024, 4, 16))

    assert isinstance(scheduled, SubscriptionChangeScheduled)
    assert scheduled.effective_at == at(2024, 4, 16)
    assert subscription.next_act() == (at(2024, 4, 16), Act.CHANGE)
    (event,) = subscription.act(Act.CHANGE, terms, at=at(2024, 4, 16), now=at(2024, 4, 20))
    assert amounts(event) == [1000]
    assert taken_back(event) == [(ids(first)[0], at(2024, 4, 16))]


def test_a_change_that_waits_for_its_payment_counts_from_when_it_was_asked_for() -> None:
    old, new = a_price(1000), a_price(2000)
    terms = terms_of(old, new)
    subscription, first = started(old, at(2024, 4, 1))
    asked = change(
        subscription, old, new, at(2024, 4, 16), payment=PaymentBehavior.PENDING_IF_UNPAID
    )

    assert isinstance(asked, SubscriptionChangePending)
    assert asked.expires_at == at(2024, 4, 16, 23)
    assert amounts(asked) == [1000]
    assert taken_back(asked) == [(ids(first)[0], at(2024, 4, 16))]
    assert subscription.price_id == old.id
    (paid,) = subscription.apply_pending(terms, now=at(2024, 4, 16, 5))
    assert isinstance(paid, SubscriptionChanged)
    assert (amounts(paid), taken_back(paid)) == ([], [])
    assert subscription.price_id == new.id
    (canceled,) = subscription.cancel(terms, at=at(2024, 4, 21), now=at(2024, 4, 21), credit=True)
    assert taken_back(canceled) == [(ids(asked)[0], at(2024, 4, 21))]


def test_a_change_that_is_not_paid_lapses() -> None:
    old, new = a_price(1000), a_price(2000)
    terms = terms_of(old, new)
    subscription, first = started(old, at(2024, 4, 1))
    change(subscription, old, new, at(2024, 4, 16), payment=PaymentBehavior.PENDING_IF_UNPAID)

    assert subscription.next_act() == (at(2024, 4, 16, 23), Act.LAPSE_CHANGE)
    (lapsed,) = subscription.act(
        Act.LAPSE_CHANGE, terms, at=at(2024, 4, 16, 23), now=at(2024, 4, 17)
    )
    assert isinstance(lapsed, SubscriptionChangeLapsed)
    assert subscription.apply_pending(terms, now=at(2024, 4, 18)) == []
    (canceled,) = subscription.cancel(terms, at=at(2024, 4, 21), now=at(2024, 4, 21), credit=True)
    assert taken_back(canceled) == [(ids(first)[0], at(2024, 4, 21))]


def test_a_change_at_a_date_that_is_done_late_takes_nothing_back_twice() -> None:
    """Something else changed between that date and now."""
    seats, dear = a_price(1000, type=PriceType.PER_UNIT), a_price(3000)
    terms = terms_of(seats, dear)
    subscription, first = started(seats, at(2024, 4, 1))
    change(subscription, seats, dear, at(2024, 4, 2), effective_at=at(2024, 4, 11))
    (two,) = subscription.change(an_order(Change(quantity=2)), terms, at=at(2024, 4, 16))

    (event,) = subscription.act(Act.CHANGE, terms, at=at(2024, 4, 11), now=at(2024, 4, 17))

    assert taken_back(two) == [(ids(first)[0], at(2024, 4, 16))]
    assert taken_back(event) == [(ids(two)[0], at(2024, 4, 16))]
    assert net(first, two, event) == 500 + 1500


def test_a_change_that_waits_for_its_payment_lapses_when_another_comes() -> None:
    old, new, other = a_price(1000), a_price(2000), a_price(3000)
    subscription = a_subscription(old, start=at(2024, 4, 1))
    change(subscription, old, other, at(2024, 4, 2), effective_at=at(2024, 4, 16, 3))

    asked = subscription.change(
        an_order(to(new), payment=PaymentBehavior.PENDING_IF_UNPAID),
        terms_of(old, new, other),
        at=at(2024, 4, 16),
    )

    assert isinstance(asked[-1], SubscriptionChangePending)
    assert asked[-1].expires_at == at(2024, 4, 16, 3)
    assert subscription.next_act() == (at(2024, 4, 16, 3), Act.LAPSE_CHANGE)


def test_a_change_that_waits_for_its_payment_does_not_outlive_its_period() -> None:
    old, new = a_price(1000), a_price(2000)
    terms = terms_of(old, new)
    subscription = a_subscription(old, start=at(2024, 4, 1))
    change(subscription, old, new, at(2024, 4, 30, 12), payment=PaymentBehavior.PENDING_IF_UNPAID)
    subscription.mark_past_due(now=at(2024, 4, 30, 13))
    subscription.mark_unpaid(terms, now=at(2024, 4, 30, 14))

    lapsed, resumed, _ = subscription.activate(terms, now=at(2024, 5, 1, 1))

    assert isinstance(lapsed, SubscriptionChangeLapsed)
    assert amounts(resumed) == [1000]
    assert subscription.apply_pending(terms, now=at(2024, 5, 1, 2)) == []


def test_one_off_units_are_billed_once_each() -> None:
    main = a_price(1000)
    setup = a_price(250, addon_id=new_id(), type=PriceType.ONE_OFF, interval_unit=None)
    terms = terms_of(main, setup)
    subscription = a_subscription(main, start=at(2024, 4, 1))

    (two,) = subscription.change(an_order(beside(setup, quantity=2)), terms, at=at(2024, 4, 2))
    (three,) = subscription.change(an_order(beside(setup, quantity=3)), terms, at=at(2024, 4, 3))

    assert amounts(two) == [500]
    assert amounts(three) == [250]
    assert amounts(subscription.renew(terms, now=at(2024, 5, 1))) == [1000]


def test_a_trial_changes_without_a_bill() -> None:
    subscription, _ = a_trial()
    other = a_price(5000)

    event = change(subscription, other, other, BEGIN, proration=Proration.NOW)

    assert amounts(event) == []
    assert taken_back(event) == []


def test_a_yearly_price_that_waits_behind_a_trial_is_billed_by_the_year() -> None:
    monthly, yearly = a_price(1000), a_price(9000, interval_unit=IntervalUnit.YEAR)
    subscription = a_subscription(monthly, trial_days=14)
    change(subscription, monthly, yearly, BEGIN, proration=Proration.AT_PERIOD_END)

    ended, _ = subscription.end_trial(
        terms_of(monthly, yearly), can_pay=True, now=at(2024, 2, 14, 9)
    )

    assert amounts(ended) == [9000]
    assert subscription.period == BillingPeriod(at(2024, 2, 14, 9), at(2025, 2, 14, 9))


def test_changes_that_make_no_sense_are_refused() -> None:
    euro, dollar = a_price(1000), a_price(1000, currency="USD")
    yearly = a_price(1000, interval_unit=IntervalUnit.YEAR, addon_id=new_id())
    subscription = a_subscription(euro)
    terms = terms_of(euro, dollar, yearly)

    with pytest.raises(NothingChanges):
        subscription.change(an_order(to(euro)), terms, at=BEGIN)
    with pytest.raises(CurrencyMismatch):
        subscription.change(an_order(to(dollar)), terms, at=BEGIN)
    with pytest.raises(IntervalMismatch):
        subscription.change(an_order(beside(yearly)), terms, at=BEGIN)
    with pytest.raises(DateInvalid):
        subscription.change(an_order(to(euro, 2), effective_at=BEGIN), terms, at=BEGIN)


def test_a_price_move_that_is_refused_leaves_nothing_waiting() -> None:
    """The bulk move goes on with the next subscriber and keeps what it has done to this one."""
    main, addon = a_price(1000), a_price(600, addon_id=new_id())
    yearly = a_price(9000, interval_unit=IntervalUnit.YEAR)
    terms = terms_of(main, addon, yearly)
    subscription = a_subscription(main, start=at(2024, 4, 1))
    subscription.change(an_order(beside(addon)), terms, at=at(2024, 4, 2))

    with pytest.raises(IntervalMismatch):
        subscription.move_price(main.id, to(yearly), terms, at=at(2024, 4, 3))

    assert subscription.agenda == ()
    assert amounts(subscription.renew(terms, now=at(2024, 5, 1))) == [1000, 600]


def test_what_would_make_something_that_waits_impossible_is_refused() -> None:
    main, addon = a_price(1000), a_price(600, addon_id=new_id())
    yearly = a_price(9000, interval_unit=IntervalUnit.YEAR)
    terms = terms_of(main, addon, yearly)
    subscription = a_subscription(main, start=at(2024, 4, 1))
    subscription.move_price(main.id, to(yearly), terms, at=at(2024, 4, 2))
    before = dict(vars(subscription))

    for on in (None, at(2024, 4, 20), at(2024, 5, 20)):
        with pytest.raises(IntervalMismatch):
            subscription.change(an_order(beside(addon), effective_at=on), terms, at=at(2024, 4, 3))

    assert vars(subscription) == before
    assert amounts(subscription.renew(terms, now=at(2024, 5, 1))) == [9000]


def test_a_price_move_goes_with_the_change_that_made_it_possible() -> None:
    main, addon = a_price(1000), a_price(600, addon_id=new_id())
    yearly = a_price(9000, interval_unit=IntervalUnit.YEAR)
    terms = terms_of(main, addon, yearly)
    subscription = a_subscription(main, start=at(2024, 4, 1))
    subscription.change(an_order(beside(addon)), terms, at=at(2024, 4, 2))
    subscription.change(an_order(beside()), terms, at=at(2024, 4, 3))
    subscription.move_price(main.id, to(yearly), terms, at=at(2024, 4, 4))

    subscription.withdraw_change(terms, at=at(2024, 4, 5))

    assert subscription.agenda == ()
    assert amounts(subscription.renew(terms, now=at(2024, 5, 1))) == [1000, 600]


def test_a_price_move_whose_price_is_held_no_more_is_reported() -> None:
    main, cheap, dearer = a_price(1000), a_price(500), a_price(1200)
    terms = terms_of(main, cheap, dearer)
    subscription = a_subscription(main, start=at(2024, 4, 1))
    subscription.move_price(main.id, to(dearer), terms, at=at(2024, 4, 2))
    subscription.change(an_order(to(cheap)), terms, at=at(2024, 4, 3))

    may = at(2024, 5, 1)
    renewed, withdrawn = subscription.act(Act.RENEW, terms, at=may, now=may)

    assert amounts(renewed) == [500]
    assert isinstance(withdrawn, SubscriptionChangeWithdrawn)
    assert (withdrawn.sequence, subscription.agenda) == (renewed.sequence + 1, ())


def test_a_price_move_is_made_moot_by_another_rhythm_now() -> None:
    main, yearly, dearer = a_price(1000), a_price(9000, interval_unit=IntervalUnit.YEAR), a_price(7)
    terms = terms_of(main, yearly, dearer)
    subscription = a_subscription(main, start=at(2024, 4, 1))
    subscription.move_price(main.id, to(dearer), terms, at=at(2024, 4, 2))

    now = an_order(to(yearly), proration=Proration.NOW)
    changed, withdrawn = subscription.change(now, terms, at=at(2024, 4, 16))

    assert isinstance(changed, SubscriptionChanged)
    assert isinstance(withdrawn, SubscriptionChangeWithdrawn)
    assert subscription.agenda == ()


def test_a_price_move_goes_with_a_change_that_waits_for_its_payment() -> None:
    """Paid for, that would leave a move behind which no period could open with."""
    main, addon = a_price(1000), a_price(600, addon_id=new_id())
    yearly = a_price(9000, interval_unit=IntervalUnit.YEAR)
    terms = terms_of(main, addon, yearly)
    subscription = a_subscription(main, start=at(2024, 4, 1))
    waits = an_order(beside(addon), payment=PaymentBehavior.PENDING_IF_UNPAID)
    subscription.change(waits, terms, at=at(2024, 4, 16))
    assert subscription.pending_change is not None

    with pytest.raises(IntervalMismatch):
        subscription.move_price(main.id, to(yearly), terms, at=at(2024, 4, 16))

    assert subscription.agenda == ()


def test_another_rhythm_now_brings_what_waits_for_the_periods_end() -> None:
    """It ends the period; an end is asked for whole periods, and waits for that of the new one."""
    main, yearly = a_price(1000), a_price(9000, interval_unit=IntervalUnit.YEAR)
    terms = terms_of(main, yearly)
    subscription = a_subscription(main, start=at(2024, 4, 1), quantity=3)
    fewer = an_order(Change(quantity=1), proration=Proration.AT_PERIOD_END)
    subscription.change(fewer, terms, at=at(2024, 4, 2))
    subscription.cancel_later(at=at(2024, 4, 3), by="test")

    now = an_order(Change(price_id=yearly.id), proration=Proration.NOW)
    (changed,) = subscription.change(now, terms, at=at(2024, 4, 16))

    assert amounts(changed) == [9000]
    assert (subscription.quantity, subscription.next_act()) == (
        1,
        (at(2025, 4, 16), Act.CANCEL),
    )


# --- canceling, pausing, dunning ---------------------------------------------------------------


def test_a_cancellation_at_the_periods_end_can_be_taken_back() -> None:
    price = a_price(1000)
    subscription = a_subscription(price)

    subscription.cancel_later(at=BEGIN, by="staff", reason="too expensive")
    assert subscription.next_act() == (subscription.period_end, Act.CANCEL)
    subscription.uncancel(at=BEGIN)
    assert subscription.next_act() == (subscription.period_end, Act.RENEW)
    with pytest.raises(NothingScheduled):
        subscription.uncancel(at=BEGIN)


def test_a_date_may_end_it_with_a_credit() -> None:
    price = a_price(1000)
    subscription, first = started(price, at(2024, 4, 1))
    with pytest.raises(DateInvalid):
        subscription.cancel_later(at=at(2024, 4, 2), by="staff", on=at(2024, 4, 1))
    subscription.cancel_later(at=at(2024, 4, 2), by="staff", on=at(2024, 4, 16), credit=True)

    when, act = subscription.next_act() or (BEGIN, Act.RENEW)
    (event,) = subscription.act(act, terms_of(price), at=when, now=when)

    assert isinstance(event, SubscriptionCanceled)
    assert amounts(event) == []
    assert taken_back(event) == [(ids(first)[0], at(2024, 4, 16))]
    assert event.give_back == "credit"
    assert subscription.due_at is None


def test_a_pause_begins_at_the_periods_end_and_a_resume_bills_at_once() -> None:
    price = a_price(1000)
    subscription = a_subscription(price, start=at(2024, 4, 1))
    subscription.pause_later(at=at(2024, 4, 10), by="staff", resumes_at=at(2024, 8, 20))

    assert subscription.next_act() == (at(2024, 5, 1), Act.PAUSE)
    (paused,) = subscription.act(Act.PAUSE, terms_of(price), at=at(2024, 5, 1), now=at(2024, 5, 1))
    assert isinstance(paused, SubscriptionPaused)
    assert subscription.next_act() == (at(2024, 8, 20), Act.RESUME)
    (resumed,) = subscription.act(
        Act.RESUME, terms_of(price), at=at(2024, 8, 20), now=at(2024, 8, 20)
    )
    assert amounts(resumed) == [1000]
    assert subscription.period == BillingPeriod(at(2024, 8, 20), at(2024, 9, 20))


def test_what_is_paid_after_dunning_came_to_nothing_opens_a_new_period() -> None:
    price = a_price(1000)
    subscription = a_subscription(price, start=at(2024, 4, 1))
    subscription.mark_past_due(now=at(2024, 4, 2))
    subscription.mark_unpaid(terms_of(price), now=at(2024, 4, 20))
    assert subscription.next_act() is None

    resumed, _ = subscription.activate(terms_of(price), now=at(2024, 9, 9))

    assert amounts(resumed) == [1000]
    assert subscription.period_start == at(2024, 9, 9)


def test_a_pause_that_was_to_begin_meanwhile_begins_once_the_money_is_there() -> None:
    price = a_price(1000)
    subscription = a_subscription(price, start=at(2024, 4, 1))
    subscription.pause_later(at=at(2024, 4, 10), by="staff", resumes_at=at(2024, 8, 20))
    subscription.pause(terms_of(price), at=at(2024, 4, 12), now=at(2024, 4, 12), lapsed=True)

    (paused,) = subscription.activate(terms_of(price), now=at(2024, 6, 1))

    assert isinstance(paused, SubscriptionPaused)
    assert paused.resumes_at == at(2024, 8, 20)
    assert not subscription.pause_at_period_end
    assert subscription.next_act() == (at(2024, 8, 20), Act.RESUME)


def test_a_pause_that_would_be_over_is_none_and_no_time_without_service_is_billed() -> None:
    price = a_price(1000)
    subscription = a_subscription(price, start=at(2024, 4, 1))
    subscription.pause_later(at=at(2024, 4, 10), by="staff", resumes_at=at(2024, 5, 20))
    subscription.mark_past_due(now=at(2024, 4, 12))
    subscription.mark_unpaid(terms_of(price), now=at(2024, 4, 20))

    resumed, _ = subscription.activate(terms_of(price), now=at(2024, 6, 1))

    assert amounts(resumed) == [1000]
    assert subscription.period == BillingPeriod(at(2024, 6, 1), at(2024, 7, 1))
    assert subscription.agenda == ()


def test_a_pause_within_a_longer_period_is_none_and_bills_the_next_one() -> None:
    """Another rhythm opened a year, which ends long after the day on which it was to wake."""
    monthly, yearly = a_price(1000), a_price(9000, interval_unit=IntervalUnit.YEAR)
    terms = terms_of(monthly, yearly)
    subscription = a_subscription(monthly, start=at(2024, 4, 1))
    subscription.pause_later(at=at(2024, 4, 2), by="staff", resumes_at=at(2024, 5, 20))
    change(subscription, monthly, yearly, at(2024, 4, 16), proration=Proration.NOW)
    end = at(2025, 4, 16)

    subscription.act(Act.PAUSE, terms, at=end, now=end)
    assert subscription.next_act() == (end, Act.RESUME)
    (resumed,) = subscription.act(Act.RESUME, terms, at=end, now=end)

    assert amounts(resumed) == [9000]
    assert subscription.period == BillingPeriod(end, at(2026, 4, 16))


def test_what_rested_when_it_was_ended_for_want_of_money_rests_on() -> None:
    price = a_price(1000)
    subscription = a_subscription(price, start=at(2024, 4, 1))
    subscription.pause_later(at=at(2024, 4, 10), by="staff")
    subscription.act(Act.PAUSE, terms_of(price), at=at(2024, 5, 1), now=at(2024, 5, 1))
    subscription.cancel(terms_of(price), at=at(2024, 5, 9), now=at(2024, 5, 9), lapsed=True)

    event = subscription.reinstate(terms_of(price), now=at(2024, 7, 1))

    assert isinstance(event, SubscriptionPaused)
    assert subscription.status is Status.PAUSED
    assert subscription.next_act() is None


def test_a_parked_subscription_rests_until_it_is_released() -> None:
    subscription = a_subscription(a_price(1000))

    subscription.park("its price cannot be billed", now=BEGIN)
    assert subscription.due_at is None
    subscription.release()
    assert subscription.due_at == subscription.period_end


@pytest.mark.parametrize("final", sorted(FINAL))
def test_what_has_ended_stays_ended(final: Status) -> None:
    price = a_price(1000)
    subscription = a_subscription(price)
    subscription.status = final

    assert MOVES[final] == frozenset()
    assert subscription.next_act() is None
    for move in (
        lambda: subscription.cancel(terms_of(price), at=BEGIN, now=BEGIN),
        lambda: subscription.renew(terms_of(price), now=BEGIN),
        lambda: subscription.mark_past_due(now=BEGIN),
        lambda: subscription.activate(terms_of(price), now=BEGIN),
        lambda: subscription.pause_later(at=BEGIN, by="staff"),
    ):
        with pytest.raises(IllegalTransition):
            move()


def test_every_status_is_in_the_table_of_moves() -> None:
    assert set(MOVES) == set(Status)


def test_every_event_counts_up_by_one() -> None:
    price = a_price(1000)
    subscription = a_subscription(price)
    events: list[SubscriptionEvent] = [
        subscription.renew(terms_of(price), now=subscription.period_end),
        subscription.mark_past_due(now=BEGIN),
        *subscription.activate(terms_of(price), now=BEGIN),
        *subscription.cancel(terms_of(price), at=BEGIN, now=BEGIN),
    ]

    assert [event.sequence for event in events] == [3, 4, 5, 6]


# --- coupons -----------------------------------------------------------------------------------


def a_coupon(**more: Any) -> Coupon:
    value = {} if "amount" in more else {"percent": Decimal(25)}
    return Coupon(
        **{"id": new_id(), "code": "SPRING", "name": "Spring", "created_at": BEGIN, **value, **more}
    )


def redeem(coupon: Coupon, **more: Any) -> Any:
    return coupon.redeem(
        **{
            "plan_id": new_id(),
            "price_ids": [new_id()],
            "currency": "EUR",
            "used_by_account": 0,
            "at": BEGIN,
            **more,
        }
    )


@pytest.mark.parametrize(
    ("duration", "periods", "discounted"),
    [
        (CouponDuration.ONCE, None, [True, False, False]),
        (CouponDuration.REPEATING, 2, [True, True, False]),
        (CouponDuration.FOREVER, None, [True, True, True]),
    ],
)
def test_a_coupon_lasts_as_long_as_it_says(
    duration: CouponDuration, periods: int | None, discounted: list[bool]
) -> None:
    price = a_price(1000)
    applied = redeem(a_coupon(duration=duration, periods=periods))
    subscription, (started,) = Subscription.start(
        id=new_id(),
        account_id=new_id(),
        items=(an_item(price),),
        terms=terms_of(price),
        time_zone="UTC",
        at=BEGIN,
        now=BEGIN,
        discounts=(applied,),
    )
    subscription.activate(terms_of(price), now=BEGIN)
    renewals = [subscription.renew(terms_of(price), now=subscription.period_end) for _ in "12"]

    assert [bool(getattr(e, "discounts", ())) for e in (started, *renewals)] == discounted


def test_what_is_prorated_in_a_discounted_period_is_discounted_too() -> None:
    old, new = a_price(1000), a_price(2000)
    applied = redeem(a_coupon())
    subscription = a_subscription(old, discounts=(applied,))

    event = change(subscription, old, new, BEGIN + timedelta(days=1))

    assert isinstance(event, SubscriptionChanged)
    assert [discount.percent for discount in event.discounts] == ["25"]


def test_a_coupon_has_limits() -> None:
    coupon = a_coupon(max_redemptions=1)
    redeem(coupon)
    with pytest.raises(CouponExhausted):
        redeem(coupon)
    with pytest.raises(CouponExhausted):
        redeem(a_coupon(), used_by_account=1)
    with pytest.raises(CouponExpired):
        redeem(a_coupon(redeem_by=BEGIN))
    with pytest.raises(CouponNotForPlan):
        redeem(a_coupon(plan_ids=(new_id(),)))
    with pytest.raises(CouponNotForPlan):
        redeem(a_coupon(amount=500, currency="USD"))


@pytest.mark.parametrize(
    "wrong",
    [
        {"amount": 5, "percent": Decimal(5)},
        {"amount": 0, "currency": "EUR"},
        {"amount": 5},
        {"percent": Decimal(101)},
        {"duration": CouponDuration.REPEATING},
        {"periods": 3},
        {"duration": CouponDuration.REPEATING, "periods": 0},
    ],
)
def test_a_coupon_that_makes_no_sense_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(CouponInvalid):
        a_coupon(**wrong)


def test_an_item_is_a_value() -> None:
    one = new_id()
    assert Item(id=one, price_id=one) == Item(id=one, price_id=one)
