"""Subscribe an account to a price."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from services.subscriptions.domain.period import Billing
from services.subscriptions.domain.plan import Plan
from services.subscriptions.domain.subscription import (
    DateInvalid,
    PaymentMethodNeeded,
    Subscription,
    TrialTooLong,
    TrialUsed,
)
from services.subscriptions.repository import SubscriptionsUnitOfWork
from services.subscriptions.use_cases.bill import bill
from services.subscriptions.use_cases.choose_items import (
    AddonChoice,
    check_amounts,
    choose_change,
)
from services.subscriptions.use_cases.redeem_coupon import redeem_coupon
from shared.ids import new_id


@dataclass(frozen=True, kw_only=True)
class RequestedStart:
    """How an account wants to subscribe."""

    price_id: UUID
    quantity: int = 1
    addons: Sequence[AddonChoice] = ()
    coupon: str | None = None
    project_id: UUID | None = None
    trial_days: int | None = None
    payment_method_id: UUID | None = None
    billing: Billing = Billing.ANNIVERSARY
    start_at: datetime | None = None
    #: It runs elsewhere and is paid for: bill from the next period on.
    imported: bool = False


async def start_subscription(
    uow: SubscriptionsUnitOfWork,
    account_id: UUID,
    request: RequestedStart,
    *,
    by_staff: bool,
    now: datetime,
) -> Subscription:
    """Start it: `trialing`, `incomplete` until the first payment, or `active` when it is free."""
    account = await uow.accounts.get(account_id)
    if request.project_id is not None:
        await uow.accounts.require_active_project(account_id, request.project_id)
    if request.payment_method_id is not None:
        await uow.accounts.require_payment_method(account_id, request.payment_method_id)
    change = await choose_change(
        uow,
        account_id,
        price_id=request.price_id,
        quantity=request.quantity,
        addons=request.addons,
    )
    items = change.apply(())
    await check_amounts(uow, items)
    price = await uow.catalog.price(request.price_id)
    plan = await uow.catalog.plan(price.plan_id or request.price_id)
    plan.require_published()
    at = request.start_at or now
    if at > now:
        raise DateInvalid("A subscription starts now or lies in the past.", field="start_at")
    subscription_id = new_id()
    trial_days = await _trial_days(
        uow, account_id, subscription_id, plan, request, by_staff=by_staff
    )
    redeemed = None
    if request.coupon is not None:
        redeemed = await redeem_coupon(
            uow,
            account_id,
            request.coupon,
            plan_id=plan.id,
            price_ids=[item.price_id for item in items],
            currency=price.currency,
            now=now,
        )
    subscription, events = Subscription.start(
        id=subscription_id,
        account_id=account_id,
        items=items,
        terms=await uow.catalog.terms(
            plan.id, [item.price_id for item in items], time_zone=account.time_zone
        ),
        time_zone=account.time_zone,
        at=at,
        now=now,
        billing=request.billing,
        trial_days=trial_days,
        discounts=(redeemed.discount,) if redeemed else (),
        project_id=request.project_id,
        payment_method_id=request.payment_method_id,
        imported=request.imported,
    )
    uow.subscriptions.add(subscription)
    await bill(uow, events)
    if redeemed:
        await redeemed.record(uow, account_id, subscription_id, at=now)
    uow.audit(
        "subscription.start",
        subscription_id,
        account_id=account_id,
        after={"status": subscription.status, "price_id": str(price.id)},
    )
    return subscription


async def _trial_days(
    uow: SubscriptionsUnitOfWork,
    account_id: UUID,
    subscription_id: UUID,
    plan: Plan,
    request: RequestedStart,
    *,
    by_staff: bool,
) -> int:
    """How long the trial is. An account has one per plan, and the plan says how long at most."""
    days = plan.trial_days if request.trial_days is None else request.trial_days
    if request.imported or not days:
        return 0
    if days > plan.trial_days and not by_staff:
        raise TrialTooLong(f"A trial of this plan has {plan.trial_days} days.", field="trial_days")
    # To name a method proves nothing: it has to be one that the account attached.
    if plan.trial_requires_payment_method and not await uow.accounts.can_pay(account_id):
        raise PaymentMethodNeeded("Attach a payment method before the trial.")
    if not await uow.subscriptions.claim_trial(account_id, plan.id, subscription_id):
        if request.trial_days is not None and not by_staff:
            raise TrialUsed("This account has had its trial of the plan.")
        return days if by_staff and request.trial_days is not None else 0
    return days
