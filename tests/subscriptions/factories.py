"""Things of the subscriptions domain, as tests need them: name only what the test is about."""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from fractions import Fraction
from typing import Any
from uuid import UUID

from services.subscriptions.domain.agenda import Addition, Change
from services.subscriptions.domain.charges import Item, Terms
from services.subscriptions.domain.period import IntervalUnit
from services.subscriptions.domain.plan import Plan
from services.subscriptions.domain.price import Price, PriceType, Tier
from services.subscriptions.domain.proration import round_exact
from services.subscriptions.domain.subscription import ChangeOrder, PaymentBehavior, Subscription
from shared.events.subscriptions import Charge, SubscriptionEvent, TakeBack
from shared.ids import new_id

BEGIN = datetime(2024, 1, 31, 9, 0, tzinfo=UTC)


def at(*when: int) -> datetime:
    """An instant in UTC."""
    return datetime(*when, tzinfo=UTC)  # type: ignore[arg-type,misc]


def a_price(amount: int | str | None = 1000, **more: Any) -> Price:
    """A monthly flat price in euro of a plan of its own."""
    return Price(
        **{
            "id": new_id(),
            "plan_id": new_id() if more.get("addon_id") is None else None,
            "currency": "EUR",
            "type": PriceType.FLAT,
            "interval_unit": IntervalUnit.MONTH,
            "unit_amount": None if amount is None else Decimal(amount),
            "created_at": BEGIN,
            **more,
        }
    )


def tiered(kind: PriceType, **more: Any) -> Price:
    """Units 1 to 5 at 7, 6 to 10 at 6.50, from 11 on at 6."""
    tiers = (Tier(5, Decimal(700)), Tier(10, Decimal(650)), Tier(None, Decimal(600)))
    return a_price(None, type=kind, tiers=tiers, **more)


def a_plan(**more: Any) -> Plan:
    return Plan(**{"id": new_id(), "code": "team", "name": "Team", "created_at": BEGIN, **more})


def terms_of(*prices: Price, plan: Plan | None = None) -> Terms:
    return Terms(
        plan or a_plan(),
        {price.id: price for price in prices},
        {price.id: "Team" for price in prices},
    )


def an_item(price: Price, quantity: int = 1) -> Item:
    return Item(id=new_id(), price_id=price.id, quantity=quantity, addon_id=price.addon_id)


def a_subscription(
    price: Price, *, start: datetime = BEGIN, quantity: int = 1, **more: Any
) -> Subscription:
    """An active subscription to one price."""
    terms = more.pop("terms", None) or terms_of(price)
    started, _ = Subscription.start(
        **{
            "id": new_id(),
            "account_id": new_id(),
            "items": (an_item(price, quantity),),
            "terms": terms,
            "time_zone": "UTC",
            "at": start,
            "now": start,
            **more,
        }
    )
    if started.status == "incomplete":
        started.activate(terms, now=start)
    return started


def to(price: Price, quantity: int | None = 1, **more: Any) -> Change:
    """What makes a price of a plan the main one. `more`: as `Change` has it."""
    return Change(**{"price_id": price.id, "plan_id": price.plan_id, "quantity": quantity, **more})


def beside(*addons: Price, quantity: int = 1) -> Change:
    """What makes exactly these add-ons held beside the main price."""
    return Change(addons=tuple(Addition(each.id, quantity, each.addon_id) for each in addons))


def an_order(change: Change, **more: Any) -> ChangeOrder:
    """What staff asks for, who may all. `more`: as `ChangeOrder` has it."""
    return ChangeOrder(change, **{"by": "staff", "payment": PaymentBehavior.AT_ONCE, **more})


def charges_of(events: Iterable[SubscriptionEvent]) -> dict[UUID, Charge]:
    return {charge.id: charge for event in events for charge in getattr(event, "charges", ())}


def take_backs_of(events: Iterable[SubscriptionEvent]) -> list[TakeBack]:
    return [take_back for event in events for take_back in getattr(event, "take_backs", ())]


def worth(take_back: TakeBack, charges: Mapping[UUID, Charge]) -> int:
    """What invoicing makes of it where the charge was not discounted: its amount by time."""
    charge = charges[take_back.charge_id]
    rest = charge.period_end - take_back.starts_at
    whole = charge.period_end - charge.period_start
    share = Fraction(int(rest.total_seconds()), int(whole.total_seconds()))
    return round_exact(charge.amount * share)


def net(*events: SubscriptionEvent) -> int:
    """What events come to together, which must hold the charges that they take back of."""
    charges = charges_of(events)
    back = sum(worth(take_back, charges) for take_back in take_backs_of(events))
    return sum(charge.amount for charge in charges.values()) - back


def uuid(number: int) -> UUID:
    return UUID(int=number)
