"""Things of the subscriptions domain, as tests need them: name only what the test is about."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from services.subscriptions.domain.charges import Item, Terms
from services.subscriptions.domain.period import IntervalUnit
from services.subscriptions.domain.plan import Plan
from services.subscriptions.domain.price import Price, PriceType, Tier
from services.subscriptions.domain.subscription import Subscription
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


def uuid(number: int) -> UUID:
    return UUID(int=number)
