"""Plans, prices, add-ons and coupons."""

from collections.abc import Iterable, Sequence
from typing import Any, TypeVar
from uuid import UUID

from sqlalchemy import or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from services.subscriptions import tables
from services.subscriptions.domain.catalog import (
    Addon,
    AddonNotFound,
    Meter,
    MeterNotFound,
    NotOnSale,
)
from services.subscriptions.domain.charges import Item, Terms
from services.subscriptions.domain.period import Interval
from services.subscriptions.domain.plan import Plan, PlanNotFound
from services.subscriptions.domain.price import Price, PriceNotFound
from services.subscriptions.domain.subscription import Subscription
from shared.errors import NotFound

T = TypeVar("T")

prices = tables.prices.c
subscriptions = tables.subscriptions.c
invoice_states = tables.invoice_states.c


class Catalog:
    """Plans, prices and add-ons. Prices never change, so that reading them takes no lock."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session
        self._prices: dict[UUID, Price] = {}
        self._plans: dict[UUID, Plan] = {}
        self._addons: dict[UUID, Addon] = {}

    def add(self, entity: object) -> None:
        self._session.add(entity)

    async def get(self, kind: type[T], entity_id: UUID, refusal: type[NotFound]) -> T:
        """One thing of the catalog, locked for a change.

        Whoever only refers to it, as every usage event does to its meter, does not wait.
        """
        found = await self._session.get(
            kind, entity_id, with_for_update={"key_share": True}, populate_existing=True
        )
        return _found(found, kind, entity_id, refusal)

    async def peek(self, kind: type[T], entity_id: UUID, refusal: type[NotFound]) -> T:
        """One thing of the catalog, as it is now."""
        return _found(await self._session.get(kind, entity_id), kind, entity_id, refusal)

    async def require_all(
        self, kind: type[Any], entity_ids: Sequence[UUID], refusal: type[NotFound]
    ) -> None:
        """Refuse the first of these that does not exist."""
        statement = select(kind.id).where(kind.id.in_(entity_ids))
        known = set(await self._session.scalars(statement)) if entity_ids else set()
        for entity_id in entity_ids:
            _found(entity_id if entity_id in known else None, kind, entity_id, refusal)

    async def get_price(self, price_id: UUID) -> Price:
        """A price, locked for a change after its owner, under whose lock prices are replaced."""
        price = await self.peek(Price, price_id, PriceNotFound)
        await self.lock_owner(price)
        return await self.get(Price, price_id, PriceNotFound)

    async def lock_owner(self, price: Price) -> Plan | Addon:
        """The plan or the add-on that a price belongs to, locked."""
        if price.plan_id is not None:
            return await self.get(Plan, price.plan_id, PlanNotFound)
        return await self.get(Addon, price.addon_id or price.id, AddonNotFound)

    async def require_meter(self, meter_id: UUID) -> None:
        """Refuse a new price or feature on a meter that takes none any more."""
        meter = await self.peek(Meter, meter_id, MeterNotFound)
        if not meter.active:
            raise NotOnSale(f"The meter {meter.code} is archived; nothing new is counted by it.")

    async def is_taken(self, kind: type[Any], code: str) -> bool:
        found = await self._session.scalar(select(kind.id).where(kind.code == code))
        return found is not None

    async def plan(self, plan_id: UUID) -> Plan:
        await self._load(Plan, self._plans, {plan_id})
        try:
            return self._plans[plan_id]
        except KeyError:
            raise PlanNotFound(f"There is no plan {plan_id}.") from None

    async def price(self, price_id: UUID) -> Price:
        await self._load(Price, self._prices, {price_id})
        try:
            return self._prices[price_id]
        except KeyError:
            raise PriceNotFound(f"There is no price {price_id}.") from None

    async def prices_of(
        self, *, plan_id: UUID | None = None, addon_id: UUID | None = None
    ) -> Sequence[Price]:
        """All versions of an owner's prices, newest first."""
        owner = prices.plan_id == plan_id if plan_id else prices.addon_id == addon_id
        statement = select(Price).where(owner).order_by(prices.id.desc())
        return (await self._session.scalars(statement)).all()

    async def components_of(
        self, plan_id: UUID, currency: str, interval: Interval, *, account_id: UUID
    ) -> Sequence[Price]:
        """What comes with the plan's other prices in this currency and rhythm, one per meter.

        The account's own goes before the public one.
        """
        statement = (
            select(Price)
            .where(
                prices.plan_id == plan_id,
                prices.component,
                prices.active,
                prices.currency == currency,
                prices.interval_unit == interval.unit,
                prices.interval_count == interval.count,
                or_(prices.account_id.is_(None), prices.account_id == account_id),
            )
            .order_by(prices.account_id.is_not(None), prices.id)
        )
        by_meter = {price.meter_id: price for price in await self._session.scalars(statement)}
        self._prices.update({price.id: price for price in by_meter.values()})
        return sorted(by_meter.values(), key=lambda price: price.id)

    async def addon(self, addon_id: UUID) -> Addon:
        await self._load(Addon, self._addons, {addon_id})
        try:
            return self._addons[addon_id]
        except KeyError:
            raise AddonNotFound(f"There is no add-on {addon_id}.") from None

    async def load(self, loaded: Iterable[Subscription]) -> None:
        """Read at once what many subscriptions refer to."""
        held = list(loaded)
        items = [item for each in held for item in (*each.items, *each.next_items)]
        plans = {each.plan_id for each in held}
        plans |= {each.scheduled_change.plan_id for each in held if each.scheduled_change}
        await self._load(Plan, self._plans, plans)
        await self._load(Price, self._prices, {item.price_id for item in items})
        await self._load(Addon, self._addons, {i.addon_id for i in items if i.addon_id})

    async def terms(self, plan_id: UUID, items: Iterable[Item], *, time_zone: str) -> Terms:
        """What these items refer to, under this plan, for an account in this zone."""
        items = list(items)
        await self._load(Price, self._prices, {item.price_id for item in items})
        await self._load(Addon, self._addons, {i.addon_id for i in items if i.addon_id})
        held = {item.price_id: await self.price(item.price_id) for item in items}
        owners = {price.plan_id for price in held.values() if price.plan_id} | {plan_id}
        await self._load(Plan, self._plans, owners)
        return Terms(
            plan=await self.plan(plan_id),
            prices=held,
            names={price.id: self._name(price) for price in held.values()},
            time_zone=time_zone,
        )

    async def terms_of(self, subscription: Subscription) -> Terms:
        """What a subscription holds now, and will hold when its scheduled change comes."""
        return await self.terms(
            subscription.plan_id,
            (*subscription.items, *subscription.next_items),
            time_zone=subscription.time_zone,
        )

    def _name(self, price: Price) -> str:
        if price.addon_id is not None:
            return self._addons[price.addon_id].name
        return self._plans[price.plan_id].name if price.plan_id else ""

    async def _load(self, kind: type[Any], known: dict[UUID, Any], wanted: set[UUID]) -> None:
        missing = wanted - known.keys()
        if missing:
            found = await self._session.scalars(select(kind).where(kind.id.in_(missing)))
            known.update({entity.id: entity for entity in found})


def _found(found: T | None, kind: type[T], entity_id: UUID, refusal: type[NotFound]) -> T:
    if found is None:
        raise refusal(f"There is no {kind.__name__.lower()} {entity_id}.")
    return found
