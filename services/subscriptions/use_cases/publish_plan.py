"""Build the catalog: plans and their prices, published, replaced and archived."""

from datetime import datetime

from services.subscriptions.domain.catalog import (
    NotOnSale,
    Product,
    ProductNotFound,
)
from services.subscriptions.domain.plan import Plan, PlanCodeTaken
from services.subscriptions.domain.price import Price
from services.subscriptions.repository import SubscriptionsUnitOfWork


async def add_plan(uow: SubscriptionsUnitOfWork, plan: Plan) -> Plan:
    """A draft that nobody can subscribe to yet."""
    if await uow.catalog.is_taken(Plan, plan.code):
        raise PlanCodeTaken(f"There is a plan {plan.code!r} already.")
    if plan.product_id is not None:
        product = await uow.catalog.peek(Product, plan.product_id, ProductNotFound)
        if not product.active:
            raise NotOnSale(f"The product {product.code} is archived; it takes no new plans.")
    uow.catalog.add(plan)
    uow.audit("plan.create", plan.id, after={"code": plan.code})
    return plan


async def add_price(uow: SubscriptionsUnitOfWork, price: Price) -> Price:
    """A price; one that sells the same thing in the same rhythm is replaced by it.

    Subscriptions keep the price that they hold until somebody moves them.
    """
    if price.meter_id is not None:
        await uow.catalog.require_meter(price.meter_id)
    versions = await _reprice(uow, price)
    for other in versions:
        other.edit({"active": False})
    price.version = max((other.version for other in versions), default=0) + 1
    uow.catalog.add(price)
    uow.audit(
        "price.create", price.id, after={"amount": str(price.amount), "version": price.version}
    )
    return price


async def archive_price(uow: SubscriptionsUnitOfWork, price: Price) -> Price:
    """Take it off sale; who holds it keeps it."""
    if price.active:
        await _reprice(uow, price)
        price.edit({"active": False})
        uow.audit("price.archive", price.id, before={"active": True}, after={"active": False})
    return price


async def unarchive_price(uow: SubscriptionsUnitOfWork, price: Price) -> Price:
    """Sell it again, in the place of the version that is on sale now."""
    if price.active:
        return price
    versions = await _reprice(uow, price)
    replaced = [str(other.id) for other in versions if other.edit({"active": False})]
    price.edit({"active": True})
    uow.audit(
        "price.unarchive",
        price.id,
        before={"active": False, "on_sale": replaced},
        after={"active": True},
    )
    return price


async def _reprice(uow: SubscriptionsUnitOfWork, price: Price) -> list[Price]:
    """The others that sell the same, under the owner's lock: their numbers have no gap.

    The owner counts it as an edit, since a plan is shown with its prices.
    """
    owner = await uow.catalog.lock_owner(price)
    owner.revision += 1
    others = await uow.catalog.prices_of(plan_id=price.plan_id, addon_id=price.addon_id)
    return [other for other in others if other is not price and other.sells_what(price)]


async def publish_plan(uow: SubscriptionsUnitOfWork, plan: Plan, *, now: datetime) -> Plan:
    """Open a plan to subscribers."""
    uow.emit(plan.publish(has_price=await _has_price(uow, plan), at=now))
    uow.audit("plan.publish", plan.id, before={"status": "draft"}, after={"status": plan.status})
    return plan


async def archive_plan(uow: SubscriptionsUnitOfWork, plan: Plan, *, now: datetime) -> Plan:
    """Close a plan to new subscribers."""
    before = plan.status
    uow.emit(plan.archive(at=now))
    uow.audit("plan.archive", plan.id, before={"status": before}, after={"status": plan.status})
    return plan


async def unarchive_plan(uow: SubscriptionsUnitOfWork, plan: Plan, *, now: datetime) -> Plan:
    """Open it to new subscribers again."""
    uow.emit(plan.unarchive(has_price=await _has_price(uow, plan), at=now))
    uow.audit(
        "plan.unarchive", plan.id, before={"status": "archived"}, after={"status": plan.status}
    )
    return plan


async def _has_price(uow: SubscriptionsUnitOfWork, plan: Plan) -> bool:
    """Whether one of its prices can be subscribed to: components only come with others."""
    prices = await uow.catalog.prices_of(plan_id=plan.id)
    return any(price.active and not price.component for price in prices)
