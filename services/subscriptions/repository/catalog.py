"""Plans, prices, add-ons and coupons."""

from collections.abc import Hashable, Iterable, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, TypeVar
from uuid import UUID

from sqlalchemy import ARRAY, Select, Uuid, any_, bindparam, or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from services.subscriptions import tables
from services.subscriptions.domain.catalog import (
    Addon,
    AddonNotFound,
    Meter,
    MeterNotFound,
    NotOnSale,
)
from services.subscriptions.domain.charges import Terms
from services.subscriptions.domain.period import Interval
from services.subscriptions.domain.plan import Plan, PlanNotFound
from services.subscriptions.domain.price import Price, PriceNotFound
from services.subscriptions.domain.subscription import Subscription
from shared.errors import NotFound

T = TypeVar("T")

prices = tables.prices.c
subscriptions = tables.subscriptions.c
invoice_states = tables.invoice_states.c

#: Built once, each with one array, so that it is the same for any number.
BY_IDS: dict[type[Any], Select[Any]] = {
    kind: select(kind).where(table.c.id == any_(bindparam("ids", type_=ARRAY(Uuid))))
    for kind, table in (
        (Price, tables.prices),
        (Plan, tables.plans),
        (Addon, tables.addons),
        (Meter, tables.meters),
    )
}
#: Built once: every change of a price asks.
COMPONENTS = (
    select(Price)
    .where(
        prices.plan_id == bindparam("plan_id"),
        prices.component,
        prices.active,
        prices.currency == bindparam("currency"),
        prices.interval_unit == bindparam("interval_unit"),
        prices.interval_count == bindparam("interval_count"),
        or_(prices.account_id.is_(None), prices.account_id == bindparam("account_id")),
    )
    .order_by(prices.account_id.is_not(None), prices.id)
)


class Catalog:
    """Plans, prices and add-ons. Prices never change, so that reading them takes no lock."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session
        self._prices: dict[UUID, Price] = {}
        self._plans: dict[UUID, Plan] = {}
        self._addons: dict[UUID, Addon] = {}
        self._meters: dict[UUID, Meter] = {}
        #: Whoever holds the same prices by the same clock has the same terms.
        self._terms: dict[tuple[Hashable, ...], Terms] = {}

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
        asked = {
            "plan_id": plan_id,
            "currency": currency,
            "interval_unit": interval.unit,
            "interval_count": interval.count,
            "account_id": account_id,
        }
        found = await self._session.scalars(COMPONENTS, asked)
        by_meter = {price.meter_id: price for price in found}
        self._prices.update({price.id: price for price in by_meter.values()})
        return sorted(by_meter.values(), key=lambda price: price.id)

    async def addon(self, addon_id: UUID) -> Addon:
        await self._load(Addon, self._addons, {addon_id})
        try:
            return self._addons[addon_id]
        except KeyError:
            raise AddonNotFound(f"There is no add-on {addon_id}.") from None

    async def load(self, loaded: Iterable[Subscription], *, besides: Iterable[UUID] = ()) -> None:
        """Read at once what many subscriptions refer to, and prices `besides` these."""
        prices, plans = set(besides), set[UUID]()
        for each in loaded:
            of_prices, of_plans = each.referenced
            prices |= of_prices
            plans |= of_plans
        await self._load_prices(prices, plans)

    async def _load_prices(
        self, price_ids: AbstractSet[UUID], plan_ids: AbstractSet[UUID]
    ) -> list[Price]:
        """Prices with what they belong to."""
        await self._load(Price, self._prices, price_ids)
        found = [await self.price(price_id) for price_id in price_ids]
        addons = {price.addon_id for price in found if price.addon_id}
        plans = {price.plan_id for price in found if price.plan_id} | plan_ids
        meters = {price.meter_id for price in found if price.meter_id}
        await self._load(Addon, self._addons, addons)
        await self._load(Plan, self._plans, plans)
        await self._load(Meter, self._meters, meters)
        return found

    async def terms(
        self,
        plan_id: UUID,
        price_ids: Iterable[UUID],
        *,
        time_zone: str,
        plans: Iterable[UUID] = (),
    ) -> Terms:
        """What these prices are, under this plan, for an account in this zone."""
        wanted, held = frozenset(price_ids), frozenset({plan_id, *plans})
        key = (plan_id, wanted, held, time_zone)
        if key not in self._terms:
            found = await self._load_prices(wanted, held)
            self._terms[key] = Terms(
                plan=await self.plan(plan_id),
                prices={price.id: price for price in found},
                names={price.id: self._name(price) for price in found},
                time_zone=time_zone,
                plans=self._plans,
                units={price.id: self._unit(price) for price in found},
            )
        return self._terms[key]

    async def terms_of(self, subscription: Subscription, *, besides: Iterable[UUID] = ()) -> Terms:
        """What a subscription holds now, will hold by what waits, and prices `besides` these."""
        prices, plans = subscription.referenced
        return await self.terms(
            subscription.plan_id,
            {*prices, *besides},
            time_zone=subscription.time_zone,
            plans=plans,
        )

    def _name(self, price: Price) -> str:
        if price.addon_id is not None:
            return self._addons[price.addon_id].name
        name = self._plans[price.plan_id].name if price.plan_id else ""
        if price.component and price.meter_id is not None:
            return f"{name}, {self._meters[price.meter_id].name}"
        return name

    def _unit(self, price: Price) -> str:
        return self._meters[price.meter_id].unit if price.meter_id is not None else ""

    async def _load(
        self, kind: type[Any], known: dict[UUID, Any], wanted: AbstractSet[UUID]
    ) -> None:
        missing = wanted - known.keys()
        if missing:
            found = await self._session.scalars(BY_IDS[kind], {"ids": list(missing)})
            known.update({entity.id: entity for entity in found})


def _found(found: T | None, kind: type[T], entity_id: UUID, refusal: type[NotFound]) -> T:
    if found is None:
        raise refusal(f"There is no {kind.__name__.lower()} {entity_id}.")
    return found
