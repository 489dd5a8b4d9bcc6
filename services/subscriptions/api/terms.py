"""What a running subscription has beside its prices: its trial and its coupons."""

from typing import Literal
from uuid import UUID

from fastapi import Response
from pydantic import AwareDatetime, Field

from services.subscriptions.api.edge import PAYER, Command, KeyedCommand
from services.subscriptions.api.subscriptions import asker_of, locked
from services.subscriptions.api.views import SubscriptionView
from services.subscriptions.domain.coupon import (
    CouponExhausted,
    CouponExpired,
    CouponForFirstTime,
    CouponNotForPlan,
    CouponNotFound,
)
from services.subscriptions.domain.self_service import NotSelfService
from services.subscriptions.domain.subscription import (
    CouponHeld,
    DateInvalid,
    IllegalTransition,
    SubscriptionNotFound,
)
from services.subscriptions.use_cases.change_coupons import add_coupon, remove_coupon
from services.subscriptions.use_cases.change_trial import change_trial
from shared.errors import PreconditionFailed
from shared.web import RequestModel, Router, for_staff, problems

router = Router(prefix="/v1/subscriptions", tags=["subscriptions"])


class TrialRequest(RequestModel):
    """When the trial is to end."""

    trial_end: AwareDatetime | Literal["now"]


class CouponRequest(RequestModel):
    """A coupon's own code, or one that it is given out under."""

    coupon: str = Field(min_length=1, max_length=100)


@router.post(
    "/{subscription_id}/trial",
    response_model=SubscriptionView,
    responses=problems(SubscriptionNotFound, IllegalTransition, DateInvalid, PreconditionFailed),
    dependencies=[for_staff("finance")],
)
async def set_trial(subscription_id: UUID, body: TrialRequest, command: KeyedCommand) -> Response:
    """Make a trial longer or shorter, or end it now (staff)."""
    trial_end = None if body.trial_end == "now" else body.trial_end
    async with command.begin() as uow:
        subscription, now = await locked(uow, command, subscription_id)
        await change_trial(uow, subscription, trial_end=trial_end, now=now)
        return await command.answer(uow, SubscriptionView.of(subscription))


@router.post(
    "/{subscription_id}/coupons",
    response_model=SubscriptionView,
    responses=problems(
        SubscriptionNotFound,
        IllegalTransition,
        CouponHeld,
        CouponNotFound,
        CouponExhausted,
        CouponExpired,
        CouponForFirstTime,
        CouponNotForPlan,
        NotSelfService,
        PreconditionFailed,
    ),
    dependencies=[PAYER],
)
async def put_coupon(subscription_id: UUID, body: CouponRequest, command: KeyedCommand) -> Response:
    """Put a coupon on it, after those that it has; it counts from the next period on."""
    async with command.begin() as uow:
        subscription, now = await locked(uow, command, subscription_id)
        await add_coupon(uow, subscription, body.coupon, asker=asker_of(command), now=now)
        return await command.answer(uow, SubscriptionView.of(subscription))


@router.delete(
    "/{subscription_id}/coupons/{coupon_id}",
    response_model=SubscriptionView,
    responses=problems(
        SubscriptionNotFound, IllegalTransition, CouponNotFound, NotSelfService, PreconditionFailed
    ),
    dependencies=[PAYER],
)
async def take_coupon_off(subscription_id: UUID, coupon_id: UUID, command: Command) -> Response:
    """Take a coupon off it: what is billed from now on is without it."""
    async with command.begin() as uow:
        subscription, now = await locked(uow, command, subscription_id)
        await remove_coupon(uow, subscription, coupon_id, asker=asker_of(command), now=now)
        return await command.answer(uow, SubscriptionView.of(subscription))
