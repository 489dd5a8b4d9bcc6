"""Build the catalog: plans and their prices, published, replaced and archived."""

from datetime import datetime
from uuid import UUID

from services.subscriptions.domain.catalog import Addon, AddonNotFound
from services.subscriptions.domain.plan import Plan, PlanCodeTaken, PlanNotFound
from services.subscriptions.domain.price import Price
from services.subscriptions.repository import SubscriptionsUnitOfWork


async def add_plan(uow: SubscriptionsUnitOfWork, plan: Plan) -> Plan:
    """A draft that nobody can subscribe to yet."""
    if await uow.catalog.is_taken(Plan, plan.code):
        raise PlanCodeTaken(f"There is a plan {plan.code!r} already.")
    uow.catalog.add(plan)
    uow.audit("plan.create", plan.id, after={"code": plan.code})
    return plan


async def add_price(uow: SubscriptionsUnitOfWork, price: Price) -> Price:
    """A price; one that sells the same thing in the same rhythm is replaced by it.

    Subscriptions keep the price that they hold until somebody moves them.
    """
    # The owner's lock makes versions contiguous.
    if price.plan_id is not None:
        await uow.catalog.get(Plan, price.plan_id, PlanNotFound)
    else:
        await uow.catalog.get(Addon, price.addon_id or price.id, AddonNotFound)
    versions = [
        other
        for other in await uow.catalog.prices_of(plan_id=price.plan_id, addon_id=price.addon_id)
        if same_offer(other, price)
    ]
    for other in versions:
        other.active = False
    price.version = max((other.version for other in versions), default=0) + 1
    uow.catalog.add(price)
    uow.audit(
        "price.create", price.id, after={"amount": str(price.amount), "version": price.version}
    )
    return price


def same_offer(one: Price, other: Price) -> bool:
    """Whether two prices are versions of each other."""
    return (one.currency, one.interval, one.type, one.meter_id, one.account_id) == (
        other.currency,
        other.interval,
        other.type,
        other.meter_id,
        other.account_id,
    )


async def publish_plan(uow: SubscriptionsUnitOfWork, plan_id: UUID, *, now: datetime) -> Plan:
    """Open a plan to subscribers."""
    plan = await uow.catalog.get(Plan, plan_id, PlanNotFound)
    prices = await uow.catalog.prices_of(plan_id=plan_id)
    uow.emit(plan.publish(has_price=any(price.active for price in prices), at=now))
    uow.audit("plan.publish", plan.id)
    return plan


async def archive_plan(uow: SubscriptionsUnitOfWork, plan_id: UUID, *, now: datetime) -> Plan:
    """Close a plan to new subscribers."""
    plan = await uow.catalog.get(Plan, plan_id, PlanNotFound)
    uow.emit(plan.archive(at=now))
    uow.audit("plan.archive", plan.id)
    return plan
