"""What needs a person: subscriptions that could not be billed."""

from uuid import UUID

from fastapi import Response
from pydantic import BaseModel, Field
from sqlalchemy import select

from services.subscriptions import tables
from services.subscriptions.api.edge import Command, Paging, Query
from services.subscriptions.api.views import SubscriptionView
from services.subscriptions.domain.subscription import Subscription, SubscriptionNotFound
from services.subscriptions.entitlement_cache import NAMESPACE, cache_of
from shared.stuck import StuckView
from shared.web import Page, RequestModel, Router, for_staff, problems

router = Router(prefix="/v1/ops/subscriptions", tags=["operations"])


class CacheView(BaseModel):
    """Checks since this process started, by where the answer was found."""

    hits: int
    misses: int
    from_memory: int
    keys: dict[str, int | None]


class InvalidateRequest(RequestModel):
    """A glob over this service's cached keys, such as `of:*`."""

    pattern: str = Field("*", min_length=1, max_length=200)


class InvalidatedView(BaseModel):
    dropped: int


def _stuck(subscription: Subscription) -> StuckView:
    return StuckView(
        kind="subscription",
        id=subscription.id,
        account_id=subscription.account_id,
        since=subscription.parked_at or subscription.updated_at,
        reason=subscription.parked_reason or "",
        next_step=(
            "Mend the cause, then POST "
            f"/v1/ops/subscriptions/stuck/{subscription.id}/release: what is due is billed."
        ),
    )


@router.get("/stuck", dependencies=[for_staff()])
async def list_stuck(query: Query, page: Paging) -> Page[StuckView]:
    """Subscriptions that could not be billed and wait for a person (staff)."""
    async with query.begin() as uow:
        parked = select(Subscription).where(tables.subscriptions.c.parked_at.is_not(None))
        found = (await uow.session.scalars(page.narrow(parked, tables.subscriptions.c.id))).all()
        return page.page(found, _stuck, lambda subscription: subscription.id)


@router.post(
    "/stuck/{subscription_id}/release",
    response_model=SubscriptionView,
    responses=problems(SubscriptionNotFound),
    dependencies=[for_staff("finance")],
)
async def release(subscription_id: UUID, command: Command) -> Response:
    """Take a parked subscription up again (staff)."""
    async with command.begin() as uow:
        subscription = await uow.subscriptions.get(subscription_id)
        await uow.require_clock_at_rest(subscription.account_id)
        subscription.release()
        uow.audit("subscription.release", subscription_id)
        uow.wake("advance_due_subscriptions")
        return await command.answer(uow, SubscriptionView.of(subscription))


@router.get("/cache", dependencies=[for_staff()])
async def read_cache(query: Query) -> CacheView:
    """How well the entitlement cache does (staff)."""
    cache = cache_of(query.runtime.own)
    return CacheView(
        hits=cache.counts["hit"],
        misses=cache.counts["miss"],
        from_memory=cache.counts["memory"],
        keys={NAMESPACE: await cache.size()},
    )


@router.post("/cache/invalidate", dependencies=[for_staff("support")])
async def invalidate_cache(body: InvalidateRequest, command: Command) -> InvalidatedView:
    """Drop cached entitlements by pattern (staff); they are read again when asked for."""
    return InvalidatedView(dropped=await cache_of(command.runtime.own).clear(body.pattern))
