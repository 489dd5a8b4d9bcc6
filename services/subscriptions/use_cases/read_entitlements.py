"""What an account may do: the features of its plans and add-ons, and how much of them is left."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from uuid import UUID

from sqlalchemy import select

from services.subscriptions import tables
from services.subscriptions.domain.catalog import Feature, FeatureType
from services.subscriptions.domain.price import Aggregation
from services.subscriptions.domain.subscription import Subscription
from services.subscriptions.repository import SubscriptionsUnitOfWork

#: Feature code to limit; None is without limit.
Grants = Mapping[str, int | None]


@dataclass(frozen=True)
class Entitlement:
    """Whether the account may use the feature, and how much of it is left."""

    feature: str
    type: FeatureType
    allowed: bool
    limit: int | None
    used: Decimal | None
    remaining: Decimal | None


async def grants_of(uow: SubscriptionsUnitOfWork, held: Sequence[Subscription]) -> Grants:
    """What subscriptions give together: limits add up, and no limit beats every limit."""
    await uow.catalog.load(held)
    given: dict[str, int | None] = {}
    for subscription in held:
        plan = await uow.catalog.plan(subscription.plan_id)
        features = [(grant, 1) for grant in plan.features]
        for item in subscription.items:
            if item.addon_id is not None:
                addon = await uow.catalog.addon(item.addon_id)
                features += [(grant, item.quantity) for grant in addon.features]
        for grant, times in features:
            before = given.get(grant.feature, 0)
            if grant.limit is None or before is None:
                given[grant.feature] = None
            else:
                given[grant.feature] = before + grant.limit * times
    return given


async def metered_features(uow: SubscriptionsUnitOfWork, grants: Grants) -> Sequence[Feature]:
    """Those of the granted features that a meter counts."""
    if not grants:
        return []
    statement = select(Feature).where(
        tables.features.c.code.in_(list(grants)), tables.features.c.meter_id.is_not(None)
    )
    return (await uow.session.scalars(statement)).all()


async def read_entitlements(
    uow: SubscriptionsUnitOfWork, account_id: UUID
) -> dict[str, Entitlement]:
    """Everything that the account may do, from the database."""
    held = await uow.subscriptions.served(account_id)
    grants = await grants_of(uow, held)
    features = await uow.session.scalars(
        select(Feature).where(tables.features.c.code.in_(list(grants)))
    )
    found = {}
    for feature in features:
        limit = grants[feature.code]
        used = None
        if feature.meter_id is not None:
            parts = [
                await uow.usage.used(
                    subscription.id, feature.meter_id, subscription.period, Aggregation.SUM
                )
                for subscription in held
            ]
            used = sum(parts, start=Decimal(0))
        found[feature.code] = _entitlement(feature, limit, used)
    return found


def _entitlement(feature: Feature, limit: int | None, used: Decimal | None) -> Entitlement:
    if feature.type is FeatureType.BOOLEAN:
        return Entitlement(feature.code, feature.type, True, None, None, None)
    remaining = None if limit is None else max(Decimal(limit) - (used or 0), Decimal(0))
    allowed = remaining is None or remaining > 0
    return Entitlement(feature.code, feature.type, allowed, limit, used, remaining)
