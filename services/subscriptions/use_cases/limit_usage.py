"""Keep what a window's usage costs within what can be billed."""

from collections.abc import Iterable, Sequence
from copy import copy
from dataclasses import dataclass
from decimal import Decimal
from uuid import UUID

from services.subscriptions.domain.period import BillingPeriod
from services.subscriptions.domain.price import Aggregation, Price
from services.subscriptions.domain.usage import (
    END_OF_TIME,
    Bucket,
    UsageEvent,
    Window,
    can_be_billed,
    is_worth_a_look,
)
from services.subscriptions.repository import SubscriptionsUnitOfWork
from services.subscriptions.use_cases.count_usage import CountedUsage
from shared.money import LARGEST_AMOUNT, AmountTooLarge


async def limit_usage(
    uow: SubscriptionsUnitOfWork, account_id: UUID, counted: Iterable[CountedUsage]
) -> dict[str, AmountTooLarge]:
    """Refuse the events with which a window would cost more than the largest amount.

    Batches at one moment do not see each other, so that a window may pass it once for each of
    them. There are as many as there are connections, some hundreds, and an integer of the database
    holds thousands of the largest amount: what was taken can always be billed.

    Quantities need no look: a value has at most 15 digits before its point and a sum has 26, so
    that it would take 10^11 events in one window.
    """
    refused: dict[str, AmountTooLarge] = {}
    for one in counted:
        window, price, new = one.window, one.window.price, one.events
        if price is None or not is_worth_a_look(price, [event.value for event in new]):
            continue
        used = await _used(uow, new[0].subscription_id, window, price)
        if can_be_billed(price, used.with_these(new)):
            continue
        # A repeat adds nothing: it must not make the events beside it too large.
        known = await uow.usage.find(account_id, [event.id for event in new])
        for event in new:
            if event.id in known or event.id in refused:
                continue
            if can_be_billed(price, used.with_these([event])):
                used.add(event)
            else:
                refused[event.id] = _cannot_be_billed()
    return refused


async def require_billable_usage(
    uow: SubscriptionsUnitOfWork, event: UsageEvent, windows: Sequence[Window]
) -> None:
    """Refuse that an event is gone where the rest costs too much: it may have been negative."""
    for window in windows:
        price = window.price
        if price is None or not is_worth_a_look(price, [event.value], removed=True):
            continue
        used = await _used(uow, event.subscription_id, window, price)
        if not can_be_billed(price, used.with_these([])):
            raise _cannot_be_billed()


@dataclass(slots=True)
class _Used:
    """What a window has, and what it comes to with more."""

    aggregation: Aggregation
    whole: Bucket
    members: int = 0

    def with_these(self, events: Sequence[UsageEvent]) -> Decimal:
        if self.aggregation is Aggregation.UNIQUE:
            # One that was seen before counts again here: a refusal may come a little early.
            return Decimal(self.members + len({event.member for event in events}))
        together = copy(self.whole)
        for event in events:
            together.add(event.value, event.at)
        return together.read(self.aggregation)

    def add(self, event: UsageEvent) -> None:
        self.members += 1
        self.whole.add(event.value, event.at)


async def _used(
    uow: SubscriptionsUnitOfWork, subscription_id: UUID, window: Window, price: Price
) -> _Used:
    if price.aggregation is None:
        raise ValueError("only a metered price counts usage")
    of = (subscription_id, window.meter_id, BillingPeriod(window.start, window.end or END_OF_TIME))
    if price.aggregation is Aggregation.UNIQUE:
        return _Used(price.aggregation, Bucket(), await uow.usage.members(*of))
    return _Used(price.aggregation, await uow.usage.whole(*of))


def _cannot_be_billed() -> AmountTooLarge:
    return AmountTooLarge(
        f"Usage of one period would cost more than {LARGEST_AMOUNT} minor units with it.",
        field="value",
    )
