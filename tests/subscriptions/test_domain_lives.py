"""Any sequence of allowed commands, at any time, keeps a subscription's invariants."""

from datetime import timedelta
from itertools import pairwise
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from services.subscriptions.domain.period import Billing
from services.subscriptions.domain.plan import TrialEndBehavior
from services.subscriptions.domain.price import PriceType
from services.subscriptions.domain.subscription import (
    FINAL,
    MOVES,
    RUNNING,
    Act,
    Proration,
    Status,
    Subscription,
)
from shared.errors import DomainError
from shared.events.subscriptions import (
    Billable,
    SubscriptionActivated,
    SubscriptionCanceled,
    SubscriptionEvent,
    SubscriptionExpired,
    SubscriptionResumed,
)
from shared.ids import new_id
from tests.subscriptions.factories import BEGIN, a_plan, a_price, an_item, terms_of, tiered

PRICES = [
    a_price(1000),
    a_price(2500),
    a_price(700, type=PriceType.PER_UNIT),
    tiered(PriceType.GRADUATED),
    tiered(PriceType.VOLUME),
]
AHEAD = {"recurring", "addon"}


class Life(RuleBasedStateMachine):
    """People, payments and time act in any order; refusals change nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.now = BEGIN
        self.events: list[SubscriptionEvent] = []
        self.statuses: list[Status] = []
        self.terms = terms_of(*PRICES)

    @initialize(
        trial=st.sampled_from([0, 14]),
        billing=st.sampled_from(Billing),
        behavior=st.sampled_from(TrialEndBehavior),
        zone=st.sampled_from(["UTC", "Europe/Berlin", "America/New_York"]),
    )
    def start(self, trial: int, billing: Billing, behavior: TrialEndBehavior, zone: str) -> None:
        self.terms = terms_of(*PRICES, plan=a_plan(trial_end_behavior=behavior))
        self.subscription, events = Subscription.start(
            id=new_id(),
            account_id=new_id(),
            items=(an_item(PRICES[0]),),
            terms=self.terms,
            time_zone=zone,
            at=self.now,
            now=self.now,
            billing=billing,
            trial_days=trial,
        )
        self._take(events)

    def _take(self, events: list[SubscriptionEvent]) -> None:
        self.events += events
        self.statuses.append(self.subscription.status)

    def _try(self, command: Any) -> None:
        before = dict(vars(self.subscription))
        try:
            found = command()
        except DomainError:
            after = dict(vars(self.subscription))
            assert after == before, "a refusal changed something"
            return
        self._take(found if isinstance(found, list) else [found])

    @rule(price=st.sampled_from(PRICES), quantity=st.integers(1, 9), how=st.sampled_from(Proration))
    def change(self, price: Any, quantity: int, how: Proration) -> None:
        items = (an_item(price, quantity),)
        self._try(
            lambda: self.subscription.change(
                self.terms, self.terms, items, at=self.now, proration=how
            )
        )

    @rule()
    def withdraw_change(self) -> None:
        self._try(lambda: self.subscription.withdraw_change(at=self.now))

    @rule(days=st.none() | st.integers(1, 90), credit=st.booleans())
    def cancel_later(self, days: int | None, *, credit: bool) -> None:
        on = None if days is None else self.now + timedelta(days=days)
        self._try(lambda: self.subscription.cancel_later(at=self.now, on=on, credit=credit))

    @rule(credit=st.booleans())
    def cancel_now(self, *, credit: bool) -> None:
        self._try(
            lambda: self.subscription.cancel(self.terms, at=self.now, now=self.now, credit=credit)
        )

    @rule()
    def uncancel(self) -> None:
        self._try(lambda: self.subscription.uncancel(at=self.now))

    @rule(days=st.none() | st.integers(1, 120))
    def pause(self, days: int | None) -> None:
        wakes = None if days is None else self.now + timedelta(days=days)
        self._try(lambda: self.subscription.pause_later(at=self.now, resumes_at=wakes))

    @rule()
    def resume(self) -> None:
        self._try(lambda: self.subscription.resume(self.terms, at=self.now, now=self.now))

    @rule()
    def pay(self) -> None:
        self._try(lambda: self.subscription.activate(self.terms, now=self.now))

    @rule()
    def fail_to_pay(self) -> None:
        self._try(lambda: self.subscription.mark_past_due(now=self.now))

    @rule()
    def give_up(self) -> None:
        self._try(lambda: self.subscription.mark_unpaid(now=self.now))

    @rule(then=st.sampled_from(["cancel", "pause"]))
    def lapse(self, then: str) -> None:
        """Dunning came to nothing."""
        act = self.subscription.cancel if then == "cancel" else self.subscription.pause
        self._try(lambda: act(self.terms, at=self.now, now=self.now, lapsed=True))

    @rule()
    def hear_of_money_that_had_come_in_time(self) -> None:
        self._try(lambda: self.subscription.reinstate(self.terms, now=self.now))

    @rule(days=st.integers(1, 70), can_pay=st.booleans())
    def let_time_pass(self, days: int, *, can_pay: bool) -> None:
        until = self.now + timedelta(days=days)
        while (upcoming := self.subscription.next_act()) and upcoming[0] <= until:
            at, act = upcoming
            self.now = max(self.now, at)
            assert act in Act
            self._take(self.subscription.act(act, self.terms, at=at, now=self.now, can_pay=can_pay))
        self.now = until

    @invariant()
    def every_move_is_in_the_table(self) -> None:
        for before, after in pairwise(self.statuses):
            reinstated = before in FINAL and after is Status.ACTIVE
            assert before == after or after in MOVES[before] or reinstated

    @invariant()
    def nothing_follows_an_end_but_money_that_had_come_in_time(self) -> None:
        for event, following in pairwise(self.events):
            if isinstance(event, SubscriptionCanceled | SubscriptionExpired):
                assert isinstance(following, SubscriptionActivated)
                assert following.previous_status in FINAL

    @invariant()
    def events_are_numbered_without_a_gap(self) -> None:
        assert [event.sequence for event in self.events] == list(range(1, len(self.events) + 1))

    @invariant()
    def no_instant_is_billed_ahead_twice(self) -> None:
        opened = sorted(
            {
                (charge.period_start, charge.period_end)
                for event in self.events
                if isinstance(event, Billable)
                for charge in event.charges
                if charge.kind in AHEAD
            }
        )
        for (_, end), (start, _) in pairwise(opened):
            assert end <= start or start == self._paused_until(start)

    def _paused_until(self, start: Any) -> Any:
        """A pause by dunning cuts a period short; the next one begins with the resume."""
        resumed = [e.period_start for e in self.events if isinstance(e, SubscriptionResumed)]
        return start if start in resumed else None

    @invariant()
    def what_has_ended_waits_for_nothing(self) -> None:
        if getattr(self, "subscription", None) is None:
            return
        ended = self.subscription.status in FINAL
        assert not ended or self.subscription.due_at is None
        if self.subscription.status in RUNNING:
            assert self.subscription.due_at is not None
        assert self.subscription.period_start < self.subscription.period_end


TestLives = Life.TestCase
TestLives.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
