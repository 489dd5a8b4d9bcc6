"""What answers look like."""

from datetime import datetime
from typing import Any, Literal, Self
from uuid import UUID

from pydantic import BaseModel

from services.subscriptions.domain.agenda import EntryKind
from services.subscriptions.domain.period import Billing, IntervalUnit
from services.subscriptions.domain.plan import Plan, PlanStatus, TrialEndBehavior
from services.subscriptions.domain.price import Aggregation, Price, PriceType, TaxBehavior, plain
from services.subscriptions.domain.self_service import (
    CancelTime,
    ChangeKind,
    ProrationChoice,
    SelfService,
)
from services.subscriptions.domain.subscription import FINAL, Status, Subscription
from services.subscriptions.domain.testclock import ClockStatus, SimulatedClock
from services.subscriptions.tables import TimelineEntry
from shared.events.subscriptions import Discount, DunningPolicy


class TierView(BaseModel):
    up_to: int | None
    unit_amount_decimal: str
    flat_amount: str


class PriceView(BaseModel):
    """`unit_amount` is there when it is whole minor units. All but `active` is immutable.

    A `component` comes with each other price of its plan in the same currency and rhythm.
    """

    id: UUID
    plan_id: UUID | None
    addon_id: UUID | None
    currency: str
    type: PriceType
    interval: IntervalUnit | None
    interval_count: int
    unit_amount: int | None
    unit_amount_decimal: str | None
    tiers: list[TierView]
    tier_mode: str | None
    package_size: int | None
    free_units: int
    meter_id: UUID | None
    aggregation: Aggregation | None
    tax_behavior: TaxBehavior
    tax_category: str
    account_id: UUID | None
    component: bool
    version: int
    revision: int
    active: bool
    created_at: datetime

    @classmethod
    def of(cls, price: Price, **more: Any) -> Self:
        """`more`: what a view that says more than this one has besides."""
        unit = price.unit_amount
        return cls(
            id=price.id,
            plan_id=price.plan_id,
            addon_id=price.addon_id,
            currency=price.currency,
            type=price.type,
            interval=price.interval_unit,
            interval_count=price.interval_count,
            unit_amount=int(unit) if unit is not None and unit == int(unit) else None,
            unit_amount_decimal=None if unit is None else plain(unit),
            tiers=[
                TierView(
                    up_to=tier.up_to,
                    unit_amount_decimal=plain(tier.unit_amount),
                    flat_amount=plain(tier.flat_amount),
                )
                for tier in price.tiers
            ],
            tier_mode=price.tier_mode,
            package_size=price.package_size,
            free_units=price.free_units,
            meter_id=price.meter_id,
            aggregation=price.aggregation,
            tax_behavior=price.tax_behavior,
            tax_category=price.tax_category,
            account_id=price.account_id,
            component=price.component,
            version=price.version,
            revision=price.revision,
            active=price.active,
            created_at=price.created_at,
            **more,
        )


class NewPriceView(PriceView):
    """`warnings`: what is not refused, but should be known."""

    warnings: list[str]


class GrantView(BaseModel):
    feature: str
    limit: int | None = None


class SelfServiceView(BaseModel):
    """What subscribers of a plan may do themselves."""

    changes: list[ChangeKind]
    proration: list[ProrationChoice]
    cancel: list[CancelTime]
    credit: bool
    pause: bool
    coupons: bool

    @classmethod
    def of(cls, policy: SelfService) -> "Literal['all'] | SelfServiceView":
        if policy.everything:
            return "all"
        return cls(**{name: getattr(policy, name) for name in cls.model_fields})


class PlanView(BaseModel):
    """`revision` counts the edits, its prices' among them."""

    id: UUID
    code: str
    name: str
    description: str
    product_id: UUID | None
    features: list[GrantView]
    trial_days: int
    trial_end_behavior: TrialEndBehavior
    trial_requires_payment_method: bool
    dunning: DunningPolicy
    self_service: Literal["all"] | SelfServiceView
    status: PlanStatus
    revision: int
    prices: list[PriceView]
    created_at: datetime

    @classmethod
    def of(cls, plan: Plan, prices: list[Price]) -> Self:
        return cls(
            id=plan.id,
            code=plan.code,
            name=plan.name,
            description=plan.description,
            product_id=plan.product_id,
            features=[GrantView(feature=g.feature, limit=g.limit) for g in plan.features],
            trial_days=plan.trial_days,
            trial_end_behavior=plan.trial_end_behavior,
            trial_requires_payment_method=plan.trial_requires_payment_method,
            dunning=plan.dunning,
            self_service=SelfServiceView.of(plan.self_service),
            status=plan.status,
            revision=plan.revision,
            prices=[PriceView.of(price) for price in prices],
            created_at=plan.created_at,
        )


class ItemView(BaseModel):
    id: UUID
    price_id: UUID
    addon_id: UUID | None
    quantity: int


class ScheduledChangeView(BaseModel):
    price_id: UUID
    quantity: int
    items: list[ItemView]
    effective_at: datetime


class AgendaEntryView(BaseModel):
    """Something that waits: for `at`, or (None) for the running period's end."""

    kind: EntryKind
    at: datetime | None
    by: str
    since: datetime
    price_id: UUID | None
    quantity: int | None
    from_price_id: UUID | None


class PendingChangeView(BaseModel):
    """A change that counts once its invoice is paid, and lapses at `expires_at` else."""

    id: UUID
    price_id: UUID | None
    quantity: int | None
    asked_at: datetime
    expires_at: datetime


class PauseView(BaseModel):
    at_period_end: bool
    paused_at: datetime | None
    resumes_at: datetime | None


class SubscriptionView(BaseModel):
    id: UUID
    account_id: UUID
    project_id: UUID | None
    status: Status
    plan_id: UUID
    price_id: UUID
    quantity: int
    items: list[ItemView]
    currency: str
    billing: Billing
    time_zone: str
    current_period_start: datetime
    current_period_end: datetime
    anchor: datetime
    trial_end: datetime | None
    expires_at: datetime | None
    cancel_at: datetime | None
    cancel_at_period_end: bool
    canceled_at: datetime | None
    cancel_reason: str | None
    pause: PauseView | None
    scheduled_change: ScheduledChangeView | None
    pending_change: PendingChangeView | None
    agenda: list[AgendaEntryView]
    discounts: list[Discount]
    payment_method_id: UUID | None
    latest_invoice_id: UUID | None
    version: int
    created_at: datetime
    updated_at: datetime

    @classmethod
    def of(cls, subscription: Subscription) -> Self:
        known = {name: getattr(subscription, name) for name in _PLAIN}
        return cls(
            **known,
            items=_items(subscription.items),
            current_period_start=subscription.period_start,
            current_period_end=subscription.period_end,
            pause=_pause(subscription),
            scheduled_change=_change(subscription),
            pending_change=_pending(subscription),
            agenda=_agenda(subscription),
            discounts=[discount.published() for discount in subscription.discounts],
        )


_PLAIN = (
    *("id", "account_id", "project_id", "status", "plan_id", "price_id", "quantity", "currency"),
    *("billing", "time_zone", "anchor", "trial_end", "expires_at", "cancel_at", "version"),
    *("cancel_at_period_end", "canceled_at", "cancel_reason", "payment_method_id"),
    *("latest_invoice_id", "created_at", "updated_at"),
)


def _items(items: Any) -> list[ItemView]:
    return [
        ItemView(id=item.id, price_id=item.price_id, addon_id=item.addon_id, quantity=item.quantity)
        for item in items
    ]


def _pause(subscription: Subscription) -> PauseView | None:
    if not subscription.pause_at_period_end and subscription.status is not Status.PAUSED:
        return None
    return PauseView(
        at_period_end=subscription.pause_at_period_end,
        paused_at=subscription.paused_at,
        resumes_at=subscription.resumes_at,
    )


def _agenda(subscription: Subscription) -> list[AgendaEntryView]:
    return [
        AgendaEntryView(
            kind=entry.kind,
            at=entry.at,
            by=entry.by,
            since=entry.since,
            price_id=entry.change.price_id,
            quantity=entry.change.quantity,
            from_price_id=entry.from_price_id,
        )
        for entry in subscription.agenda
    ]


def _pending(subscription: Subscription) -> PendingChangeView | None:
    pending = subscription.pending_change
    if pending is None:
        return None
    return PendingChangeView(
        id=pending.id,
        price_id=pending.change.price_id,
        quantity=pending.change.quantity,
        asked_at=pending.asked_at,
        expires_at=pending.expires_at,
    )


def _change(subscription: Subscription) -> ScheduledChangeView | None:
    change = subscription.scheduled_change
    if change is None or subscription.status in FINAL:
        return None
    return ScheduledChangeView(
        price_id=change.items[0].price_id,
        quantity=change.items[0].quantity,
        items=_items(change.items),
        effective_at=min(
            entry.at or subscription.period_end
            for entry in subscription.agenda
            if entry.changes_what_is_held
        )
        if any(entry.changes_what_is_held for entry in subscription.agenda)
        else subscription.period_end,
    )


class TimelineEntryView(BaseModel):
    """One event; `caused_by` is the event that led to it, `request_id` the first cause of all."""

    id: UUID
    name: str
    service: str
    occurred_at: datetime
    sequence: int
    subject: UUID
    request_id: str
    caused_by: str | None
    data: dict[str, Any]

    @classmethod
    def of(cls, entry: TimelineEntry) -> Self:
        return cls(
            id=entry.event_id,
            name=entry.name,
            service=_publisher(entry.name),
            occurred_at=entry.occurred_at,
            sequence=entry.sequence,
            subject=entry.subject,
            request_id=entry.correlation_id,
            caused_by=entry.causation_id,
            data=entry.data,
        )


_PUBLISHERS = {
    "account": "auth",
    "user": "auth",
    "invoice": "invoicing",
    "credit_note": "invoicing",
    "payment": "payments",
    "payment_method": "payments",
    "dunning": "payments",
    "refund": "payments",
    "dispute": "payments",
}


def _publisher(name: str) -> str:
    return _PUBLISHERS.get(name.split(".", 1)[0], "subscriptions")


class ClockView(BaseModel):
    """`status` is `ready` once `now` is what was asked for and every service has come to rest."""

    id: UUID
    account_id: UUID
    now: datetime
    target: datetime
    status: ClockStatus
    rounds: int
    steps: int
    waiting_for: list[str]
    created_at: datetime

    @classmethod
    def of(cls, clock: SimulatedClock) -> Self:
        return cls(
            id=clock.id,
            account_id=clock.account_id,
            now=clock.now,
            target=clock.target,
            status=clock.status,
            rounds=clock.revision,
            steps=clock.steps,
            waiting_for=list(clock.waiting_for),
            created_at=clock.created_at,
        )
