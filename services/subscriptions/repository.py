"""Loading for a change: locked, in the caller's scope. And the unit of work that holds it all."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, TypeVar
from uuid import UUID

from sqlalchemy import and_, func, insert, select
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.ext.asyncio import AsyncSession

from services.subscriptions import tables
from services.subscriptions.domain.account import (
    Account,
    AccountNotReady,
    InvoiceState,
    PaymentMethod,
)
from services.subscriptions.domain.catalog import Addon, AddonNotFound
from services.subscriptions.domain.charges import Item, Terms
from services.subscriptions.domain.coupon import Coupon, CouponNotFound
from services.subscriptions.domain.plan import Plan, PlanNotFound
from services.subscriptions.domain.price import Price, PriceNotFound
from services.subscriptions.domain.subscription import Subscription, SubscriptionNotFound
from services.subscriptions.domain.testclock import ClockNotFound, SimulatedClock
from shared.db import Platform, Scope, UnitOfWork
from shared.errors import NotFound
from shared.events.clocks import TestClockReported
from shared.events.subscriptions import Billable
from shared.ids import new_id
from shared.schedule import Due

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
        """One thing of the catalog, locked for a change."""
        found = await self._session.get(kind, entity_id, with_for_update=True)
        if found is None:
            raise refusal(f"There is no {kind.__name__.lower()} {entity_id}.")
        return found

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

    async def terms(self, plan_id: UUID, items: Iterable[Item]) -> Terms:
        """What these items refer to, under this plan."""
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
        )

    async def terms_of(self, subscription: Subscription) -> Terms:
        """What a subscription holds now, and will hold when its scheduled change comes."""
        return await self.terms(
            subscription.plan_id, (*subscription.items, *subscription.next_items)
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


class Subscriptions:
    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    def add(self, subscription: Subscription) -> None:
        self._session.add(subscription)

    async def get(self, subscription_id: UUID) -> Subscription:
        """The subscription, locked until the commit."""
        found = await self.find(subscription_id)
        if found is None:
            raise SubscriptionNotFound(f"There is no subscription {subscription_id}.")
        return found

    async def find(self, subscription_id: UUID) -> Subscription | None:
        return await self._session.get(Subscription, subscription_id, with_for_update=True)

    async def list_open_of(self, account_id: UUID) -> Sequence[Subscription]:
        """All of an account's that have not ended, locked in one order."""
        statement = (
            select(Subscription)
            .where(
                subscriptions.account_id == account_id,
                subscriptions.status.not_in(("canceled", "incomplete_expired")),
            )
            .order_by(subscriptions.id)
            .with_for_update()
        )
        return (await self._session.scalars(statement)).all()

    async def claim_due(
        self, due: Due, *, most: int, only: UUID | None = None
    ) -> Sequence[Subscription]:
        """What is due, oldest first, that no other worker has in hand."""
        statement = (
            select(Subscription)
            .where(due.matches(subscriptions.due_at, subscriptions.account_id))
            .order_by(subscriptions.due_at)
            .limit(most)
            .with_for_update(skip_locked=True)
        )
        if only is not None:
            statement = statement.where(subscriptions.id == only)
        return (await self._session.scalars(statement)).all()

    async def next_due(self, account_id: UUID) -> datetime | None:
        statement = select(func.min(subscriptions.due_at)).where(
            subscriptions.account_id == account_id
        )
        found: datetime | None = await self._session.scalar(statement)
        return found

    async def claim_periods(self, events: Sequence[tuple[str, Billable]]) -> set[UUID]:
        """Record periods as billed; returns the events that were first to bill theirs."""
        if not events:
            return set()
        billed = tables.billed_periods
        statement = (
            upsert(billed)
            .values(
                [
                    {
                        "subscription_id": event.subscription_id,
                        "reason": reason,
                        "period_start": event.period_start,
                        "period_end": event.period_end,
                        "event_id": event.id,
                    }
                    for reason, event in events
                ]
            )
            .on_conflict_do_nothing()
            .returning(billed.c.event_id)
        )
        return set((await self._session.scalars(statement)).all())

    async def invoice_state(self, invoice_id: UUID) -> InvoiceState | None:
        return await self._session.get(InvoiceState, invoice_id, with_for_update=True)

    def add_invoice_state(self, state: InvoiceState) -> None:
        self._session.add(state)

    async def invoice_states(self, subscription_id: UUID) -> Sequence[InvoiceState]:
        """How far all its invoices have come."""
        await self._session.flush()
        statement = select(InvoiceState).where(invoice_states.subscription_id == subscription_id)
        return (await self._session.scalars(statement)).all()

    async def claim_trial(self, account_id: UUID, plan_id: UUID, subscription_id: UUID) -> bool:
        """Use up the account's trial of a plan; whether it was still there."""
        uses = tables.trial_uses
        statement = (
            upsert(uses)
            .values(account_id=account_id, plan_id=plan_id, subscription_id=subscription_id)
            .on_conflict_do_nothing()
            .returning(uses.c.account_id)
        )
        return (await self._session.scalar(statement)) is not None


class Accounts:
    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    def add(self, entity: Account | PaymentMethod) -> None:
        self._session.add(entity)

    async def get(self, account_id: UUID) -> Account:
        account = await self._session.get(Account, account_id)
        if account is None:
            raise AccountNotReady("The account is being set up. Try again in a moment.")
        return account

    async def find(self, account_id: UUID) -> Account | None:
        return await self._session.get(Account, account_id, with_for_update=True)

    async def payment_method(self, payment_method_id: UUID) -> PaymentMethod | None:
        return await self._session.get(PaymentMethod, payment_method_id, with_for_update=True)

    async def zones(self, account_ids: Iterable[UUID]) -> dict[UUID, str]:
        rows = await self._session.execute(
            select(tables.accounts.c.id, tables.accounts.c.time_zone).where(
                tables.accounts.c.id.in_(set(account_ids))
            )
        )
        return {row.id: row.time_zone for row in rows}

    async def can_pay(self, account_id: UUID) -> bool:
        methods = tables.payment_methods
        statement = select(methods.c.id).where(
            and_(methods.c.account_id == account_id, methods.c.attached)
        )
        return (await self._session.scalar(statement.limit(1))) is not None


class Coupons:
    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def get_by_code(self, code: str) -> Coupon:
        """The coupon, locked, so that its limit holds however many ask at once."""
        statement = select(Coupon).where(tables.coupons.c.code == code).with_for_update()
        coupon = (await self._session.scalars(statement)).one_or_none()
        if coupon is None:
            raise CouponNotFound(f"There is no coupon {code!r}.")
        return coupon

    async def used_by(self, account_id: UUID, coupon_id: UUID) -> int:
        table = tables.redemptions
        statement = select(func.count()).where(
            table.c.account_id == account_id, table.c.coupon_id == coupon_id
        )
        return (await self._session.scalars(statement)).one()

    async def record(
        self, coupon_id: UUID, account_id: UUID, subscription_id: UUID, *, at: datetime
    ) -> None:
        """Who used it, and for what."""
        await self._session.execute(
            insert(tables.redemptions).values(
                id=new_id(),
                coupon_id=coupon_id,
                account_id=account_id,
                subscription_id=subscription_id,
                created_at=at,
            )
        )


class Clocks:
    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    def add(self, clock: SimulatedClock) -> None:
        self._session.add(clock)

    async def get(self, clock_id: UUID) -> SimulatedClock:
        clock = await self.find(clock_id)
        if clock is None:
            raise ClockNotFound(f"There is no test clock {clock_id}.")
        return clock

    async def find(self, clock_id: UUID) -> SimulatedClock | None:
        return await self._session.get(
            SimulatedClock, clock_id, with_for_update=True, populate_existing=True
        )

    async def exists_for(self, account_id: UUID) -> bool:
        found = await self._session.scalar(
            select(tables.test_clocks.c.id).where(tables.test_clocks.c.account_id == account_id)
        )
        return found is not None

    async def store_report(self, report: TestClockReported) -> None:
        """Keep a service's newest report of a clock."""
        statement = upsert(tables.test_clock_reports).values(
            clock_id=report.clock_id,
            service=report.service,
            revision=report.revision,
            body=report.model_dump(mode="json"),
        )
        await self._session.execute(
            statement.on_conflict_do_update(
                index_elements=["clock_id", "service"],
                set_={"revision": statement.excluded.revision, "body": statement.excluded.body},
                where=tables.test_clock_reports.c.revision < statement.excluded.revision,
            )
        )

    async def reports(self, clock: SimulatedClock) -> list[TestClockReported]:
        """Those of the running round."""
        table = tables.test_clock_reports
        statement = select(table.c.body).where(
            table.c.clock_id == clock.id, table.c.revision == clock.revision
        )
        found = (await self._session.scalars(statement)).all()
        return [TestClockReported.model_validate(body) for body in found]

    async def delete(self, clock: SimulatedClock) -> None:
        await self._session.delete(clock)


class SubscriptionsUnitOfWork(UnitOfWork):
    def __init__(self, session: AsyncSession, scope: Scope, platform: Platform) -> None:
        super().__init__(session, scope, platform)
        self.catalog = Catalog(session)
        self.subscriptions = Subscriptions(session)
        self.accounts = Accounts(session)
        self.coupons = Coupons(session)
        self.clocks = Clocks(session)
