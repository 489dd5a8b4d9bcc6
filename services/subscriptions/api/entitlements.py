"""Whether an account may do something, and how much of it is left."""

from decimal import Decimal
from typing import Any
from uuid import UUID

from pydantic import BaseModel

from services.subscriptions.api.edge import Query
from services.subscriptions.domain.price import plain
from services.subscriptions.entitlement_cache import cache_of
from services.subscriptions.use_cases.read_entitlements import Entitlement, read_entitlements
from shared.errors import BadRequest
from shared.runtime import Runtime
from shared.web import Router, problems

router = Router(prefix="/v1/entitlements", tags=["entitlements"])


class EntitlementView(BaseModel):
    """`limit` and `remaining` are null where there is none; a decimal is text."""

    feature: str
    allowed: bool
    limit: int | None
    used: str | None
    remaining: str | None


class EntitlementsView(BaseModel):
    data: list[EntitlementView]


@router.get("", responses=problems(BadRequest))
async def list_entitlements(query: Query) -> EntitlementsView:
    """Everything that the account's plans and add-ons give it."""
    found = await _cached(query.runtime, query.account_id)
    return EntitlementsView(data=[EntitlementView(**found[code]) for code in sorted(found)])


@router.get("/{feature}", responses=problems(BadRequest))
async def check(feature: str, query: Query) -> EntitlementView:
    """One feature; what nobody gave the account is not allowed."""
    found = (await _cached(query.runtime, query.account_id)).get(feature)
    if found is None:
        return EntitlementView(
            feature=feature, allowed=False, limit=None, used=None, remaining=None
        )
    return EntitlementView(**found)


async def _cached(runtime: Runtime[Any, Any], account_id: UUID) -> dict[str, Any]:
    async def refill() -> dict[str, Any]:
        async with runtime.begin() as uow:
            found = await read_entitlements(uow, account_id)
        return {code: _plain(entitlement) for code, entitlement in found.items()}

    return await cache_of(runtime.own).get(account_id, refill)


def _plain(entitlement: Entitlement) -> dict[str, Any]:
    def written(number: Decimal | None) -> str | None:
        return None if number is None else plain(number)

    return {
        "feature": entitlement.feature,
        "allowed": entitlement.allowed,
        "limit": entitlement.limit,
        "used": written(entitlement.used),
        "remaining": written(entitlement.remaining),
    }
