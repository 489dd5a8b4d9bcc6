"""Reading for a response: no lock, within the caller's scope."""

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any, TypeVar
from uuid import UUID

from sqlalchemy import Text, and_, cast, exists, func, literal_column, or_, select

from services.subscriptions import tables
from services.subscriptions.domain.coupon import PromotionCode
from services.subscriptions.domain.period import IntervalUnit
from services.subscriptions.domain.plan import Plan, PlanNotFound, PlanStatus
from services.subscriptions.domain.price import Price, PriceNotFound
from services.subscriptions.domain.subscription import Status, Subscription, SubscriptionNotFound
from services.subscriptions.domain.testclock import ClockNotFound, SimulatedClock
from services.subscriptions.domain.tokens import TokenGrant, TokenOrder
from services.subscriptions.repository import SubscriptionsUnitOfWork
from services.subscriptions.tables import TimelineEntry
from shared.errors import NotFound
from shared.events.subscriptions import SubscriptionChanged
from shared.pages import PageRequest

T = TypeVar("T")

ENTRY_COLUMNS = ("id", "grant_id", "kind", "amount", "reason", "debit_id", "created_at")

prices = tables.prices.c
plans = tables.plans.c
subscriptions = tables.subscriptions.c


async def read(
    uow: SubscriptionsUnitOfWork, kind: type[T], entity_id: UUID, refusal: type[NotFound]
) -> T:
    found = await uow.session.get(kind, entity_id)
    if found is None:
        raise refusal(f"There is no such thing: {entity_id}.")
    return found


async def read_subscription(uow: SubscriptionsUnitOfWork, subscription_id: UUID) -> Subscription:
    return await read(uow, Subscription, subscription_id, SubscriptionNotFound)


async def list_subscriptions(
    uow: SubscriptionsUnitOfWork,
    page: PageRequest,
    *,
    status: Status | None,
    price_id: UUID | None,
    project_id: UUID | None,
) -> Sequence[Subscription]:
    statement = select(Subscription)
    if status is not None:
        statement = statement.where(subscriptions.status == status)
    if price_id is not None:
        statement = statement.where(subscriptions.price_id == price_id)
    if project_id is not None:
        statement = statement.where(subscriptions.project_id == project_id)
    return (await uow.session.scalars(page.narrow(statement, subscriptions.id))).all()


async def due_before(
    uow: SubscriptionsUnitOfWork, account_id: UUID, end: datetime, *, besides: UUID, most: int
) -> Sequence[Subscription]:
    """The account's other subscriptions to which time alone does something before `end`."""
    statement = (
        select(Subscription)
        .where(
            subscriptions.account_id == account_id,
            subscriptions.due_at < end,
            subscriptions.id != besides,
        )
        .order_by(subscriptions.due_at, subscriptions.id)
        .limit(most)
    )
    return (await uow.session.scalars(statement)).all()


async def list_all(
    uow: SubscriptionsUnitOfWork, page: PageRequest, kind: type[T], table: Any
) -> Sequence[T]:
    """A list of the catalog."""
    return (await uow.session.scalars(page.narrow(select(kind), table.c.id))).all()


async def list_promotion_codes(
    uow: SubscriptionsUnitOfWork, page: PageRequest, *, coupon_id: UUID | None
) -> Sequence[PromotionCode]:
    codes = tables.promotion_codes.c
    statement = select(PromotionCode)
    if coupon_id is not None:
        statement = statement.where(codes.coupon_id == coupon_id)
    return (await uow.session.scalars(page.narrow(statement, codes.id))).all()


async def list_prices(
    uow: SubscriptionsUnitOfWork,
    page: PageRequest,
    *,
    public: bool,
    drafts: bool,
    plan_id: UUID | None = None,
    currency: str | None = None,
    interval: IntervalUnit | None = None,
    min_amount: Decimal | None = None,
    max_amount: Decimal | None = None,
) -> Sequence[Price]:
    statement = select(Price).where(prices.active, *_seen_by(public=public, drafts=drafts))
    if plan_id is not None:
        statement = statement.where(prices.plan_id == plan_id)
    statement = statement.where(*_priced(currency, interval, min_amount, max_amount))
    return (await uow.session.scalars(page.narrow(statement, prices.id))).all()


async def list_plans(
    uow: SubscriptionsUnitOfWork,
    page: PageRequest,
    *,
    drafts: bool,
    currency: str | None = None,
    interval: IntervalUnit | None = None,
    min_amount: Decimal | None = None,
    max_amount: Decimal | None = None,
) -> Sequence[Plan]:
    """Plans that are on sale (for staff all of them), by what one of their prices costs."""
    statement = select(Plan)
    if not drafts:
        statement = statement.where(plans.status == PlanStatus.PUBLISHED)
    narrowed = _priced(currency, interval, min_amount, max_amount)
    if narrowed:
        statement = statement.where(
            exists().where(
                prices.plan_id == plans.id,
                prices.active,
                prices.account_id.is_(None),
                # What a plan costs is what it is subscribed to for, not what comes with that.
                ~prices.component,
                *narrowed,
            )
        )
    return (await uow.session.scalars(page.narrow(statement, plans.id))).all()


def _priced(
    currency: str | None,
    interval: IntervalUnit | None,
    min_amount: Decimal | None,
    max_amount: Decimal | None,
) -> list[Any]:
    narrowed: list[Any] = []
    if currency is not None:
        narrowed.append(prices.currency == currency)
    if interval is not None:
        narrowed.append(prices.interval_unit == interval)
    if min_amount is not None:
        narrowed.append(prices.amount >= min_amount)
    if max_amount is not None:
        narrowed.append(prices.amount <= max_amount)
    return narrowed


async def prices_of(
    uow: SubscriptionsUnitOfWork, plan_ids: Sequence[UUID], *, public: bool = False
) -> dict[UUID, list[Price]]:
    """The active prices of plans, in the caller's scope."""
    statement = (
        select(Price)
        .where(prices.plan_id.in_(plan_ids), prices.active, *_seen_by(public=public, drafts=True))
        .order_by(prices.id)
    )
    found: dict[UUID, list[Price]] = {plan_id: [] for plan_id in plan_ids}
    for price in await uow.session.scalars(statement):
        if price.plan_id is not None:
            found[price.plan_id].append(price)
    return found


async def read_plan(uow: SubscriptionsUnitOfWork, plan_id: UUID, *, drafts: bool) -> Plan:
    """One plan. A draft is nobody's business but the operator's."""
    plan = await read(uow, Plan, plan_id, PlanNotFound)
    if plan.status is PlanStatus.DRAFT and not drafts:
        raise PlanNotFound(f"There is no such thing: {plan_id}.")
    return plan


def _seen_by(*, public: bool, drafts: bool) -> list[Any]:
    """Who is not signed in sees no account's own prices, and only the operator sees drafts'."""
    seen: list[Any] = [prices.account_id.is_(None)] if public else []
    if not drafts:
        draft = exists().where(plans.id == prices.plan_id, plans.status == PlanStatus.DRAFT)
        seen.append(~draft)
    return seen


async def read_price(
    uow: SubscriptionsUnitOfWork, price_id: UUID, *, public: bool, drafts: bool
) -> Price:
    # A query and not `get`, so that another account's own price is not found.
    statement = select(Price).where(prices.id == price_id, *_seen_by(public=public, drafts=drafts))
    found = (await uow.session.scalars(statement)).one_or_none()
    if found is None:
        raise PriceNotFound(f"There is no price {price_id}.")
    return found


async def read_clock(uow: SubscriptionsUnitOfWork, clock_id: UUID) -> SimulatedClock:
    return await read(uow, SimulatedClock, clock_id, ClockNotFound)


async def timeline(
    uow: SubscriptionsUnitOfWork, subscription_id: UUID, *, after: UUID | None, limit: int
) -> Sequence[TimelineEntry]:
    """Everything that happened to a subscription, oldest first."""
    entries = tables.timeline.c
    states = tables.invoice_states.c
    together = select(cast(states.invoice_id, Text)).where(
        states.subscription_ids.contains([subscription_id])
    )
    statement = select(TimelineEntry).where(
        or_(
            entries.subscription_id == subscription_id,
            # What became of an invoice that it shares with others.
            and_(
                entries.subscription_id.is_(None),
                literal_column("data ->> 'invoice_id'").in_(together),
            ),
        )
    )
    if after is not None:
        statement = statement.where(entries.event_id > after)
    statement = statement.order_by(entries.event_id).limit(limit)
    return (await uow.session.scalars(statement)).all()


#: Events that take in what waits for their subscription's next invoice.
TAKES_IN = (
    "subscription.trial_ended",
    "subscription.renewed",
    "subscription.resumed",
    "subscription.canceled",
)


async def bills_of_changes(
    uow: SubscriptionsUnitOfWork, subscription_id: UUID
) -> Sequence[SubscriptionChanged]:
    """What changes billed since the last event that took in what waited, oldest first."""
    entries = tables.timeline.c
    of_this = entries.subscription_id == subscription_id
    last = (
        select(func.coalesce(func.max(entries.sequence), 0))
        .where(of_this, entries.name.in_(TAKES_IN))
        .scalar_subquery()
    )
    statement = (
        select(TimelineEntry)
        .where(of_this, entries.name == SubscriptionChanged.name, entries.sequence > last)
        .order_by(entries.sequence)
    )
    return [
        SubscriptionChanged.model_validate(
            {
                **entry.data,
                "id": entry.event_id,
                "occurred_at": entry.occurred_at,
                "account_id": entry.account_id,
                "sequence": entry.sequence,
            }
        )
        for entry in await uow.session.scalars(statement)
    ]


async def token_grants(
    uow: SubscriptionsUnitOfWork, account_id: UUID, *, now: datetime
) -> Sequence[TokenGrant]:
    """What an account can still spend."""
    grants = tables.token_grants.c
    statement = select(TokenGrant).where(
        grants.account_id == account_id,
        grants.remaining > 0,
        grants.expires_at.is_(None) | (grants.expires_at > now),
    )
    return (await uow.session.scalars(statement)).all()


async def token_orders(uow: SubscriptionsUnitOfWork, page: PageRequest) -> Sequence[TokenOrder]:
    statement = page.narrow(select(TokenOrder), tables.token_orders.c.id)
    return (await uow.session.scalars(statement)).all()


async def token_entries(
    uow: SubscriptionsUnitOfWork, page: PageRequest, account_id: UUID
) -> Sequence[Any]:
    entries = tables.token_entries
    columns = [entries.c[name] for name in ENTRY_COLUMNS]
    statement = select(*columns).where(entries.c.account_id == account_id)
    rows: Sequence[Any] = (await uow.session.execute(page.narrow(statement, entries.c.id))).all()
    return rows
