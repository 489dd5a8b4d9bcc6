"""A believable catalog to try things with: `python -m services.subscriptions seed`."""

import sys
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from services.subscriptions.domain.catalog import (
    Addon,
    Bundle,
    Feature,
    FeatureType,
    Grant,
    Meter,
    Product,
)
from services.subscriptions.domain.coupon import Coupon, CouponDuration, PromotionCode
from services.subscriptions.domain.period import IntervalUnit
from services.subscriptions.domain.plan import Plan, TrialEndBehavior
from services.subscriptions.domain.price import Aggregation, Price, PriceType, Tier
from services.subscriptions.domain.self_service import (
    EVERYTHING,
    CancelTime,
    ChangeKind,
    ProrationChoice,
    SelfService,
)
from services.subscriptions.repository import SubscriptionsUnitOfWork
from services.subscriptions.settings import SubscriptionsSettings
from services.subscriptions.use_cases.publish_plan import add_plan, add_price, publish_plan
from shared.clock import utc_now
from shared.ids import new_id
from shared.runtime import Runtime

MONTH, YEAR = IntervalUnit.MONTH, IntervalUnit.YEAR
#: Prices in dollar and yen for one euro, roughly; a catalog, not an exchange.
ELSEWHERE = {"EUR": Decimal(1), "USD": Decimal("1.1"), "JPY": Decimal("1.6")}


async def seed(
    runtime: Runtime[SubscriptionsUnitOfWork, SubscriptionsSettings], rest: list[str]
) -> int:
    """Load it once; running it again changes nothing."""
    del rest
    async with runtime.begin() as uow:
        if await uow.catalog.is_taken(Plan, "starter"):
            sys.stdout.write("The catalog is there already.\n")
            return 0
        await _Seeding(uow, utc_now()).run()
    sys.stdout.write(
        "Loaded 5 plans, 2 add-ons, 2 bundles, 2 coupons and a promotion code: GET /v1/plans.\n"
    )
    return 0


class _Seeding:
    def __init__(self, uow: SubscriptionsUnitOfWork, now: datetime) -> None:
        self.uow = uow
        self.now = now

    async def run(self) -> None:
        product = self._add(Product, code="workspace", name="Workspace")
        calls = self._add(Meter, code="api_calls", name="API calls", unit="call")
        storage = self._add(Meter, code="storage", name="Storage", unit="GB")
        await self.uow.session.flush()
        self._feature("projects", "Projects", FeatureType.LIMIT)
        self._feature("sso", "Single sign-on", FeatureType.BOOLEAN)
        self._feature("api_calls", "API calls", FeatureType.METERED, meter_id=calls.id)
        starter = await self._plan(
            product, "starter", "Starter", (Grant("projects", 3), Grant("api_calls", 10_000))
        )
        await self._prices(starter, 900, PriceType.FLAT)
        team = await self._plan(
            product,
            "team",
            "Team",
            (Grant("projects", 50), Grant("api_calls", 250_000)),
            trial_days=14,
            trial_end_behavior=TrialEndBehavior.PAUSE,
        )
        await self._prices(team, 1200, PriceType.PER_UNIT)
        business = await self._plan(
            product,
            "business",
            "Business",
            (Grant("projects"), Grant("sso"), Grant("api_calls")),
            # With contracts that are made smaller by talking to each other.
            self_service=SelfService(
                changes=(ChangeKind.UPGRADE, ChangeKind.QUANTITY, ChangeKind.ADDONS),
                proration=(ProrationChoice.PRORATE_NOW, ProrationChoice.PRORATE_NEXT),
                cancel=(CancelTime.PERIOD_END, CancelTime.DATE),
                pause=False,
            ),
        )
        await self._prices(business, None, PriceType.GRADUATED)
        metered = await self._plan(
            product,
            "pay-as-you-go",
            "Pay as you go",
            (Grant("projects"),),
            # Nothing is paid ahead, so that nothing is lost by ending it at once.
            self_service=EVERYTHING,
        )
        await self._price(
            metered,
            "EUR",
            MONTH,
            type=PriceType.METERED,
            unit_amount=Decimal("0.04"),
            free_units=1000,
            meter_id=calls.id,
            aggregation=Aggregation.SUM,
        )
        platform = await self._plan(
            product, "platform", "Platform", (Grant("projects"), Grant("sso"), Grant("api_calls"))
        )
        await self._base_and_components(platform, calls, storage)
        await self.uow.session.flush()
        for plan in (starter, team, business, metered, platform):
            await publish_plan(self.uow, plan, now=self.now)
        await self._addons()
        self._bundles()
        await self._coupons(team.id)

    def _add(self, kind: type[Any], **fields: Any) -> Any:
        entity = kind(id=new_id(), created_at=self.now, **fields)
        self.uow.catalog.add(entity)
        return entity

    def _feature(self, code: str, name: str, kind: FeatureType, **more: Any) -> None:
        self._add(Feature, code=code, name=name, type=kind, **more)

    async def _plan(
        self, product: Product, code: str, name: str, features: tuple[Grant, ...], **more: Any
    ) -> Plan:
        plan = Plan(
            id=new_id(),
            code=code,
            name=name,
            product_id=product.id,
            features=features,
            created_at=self.now,
            **more,
        )
        await add_plan(self.uow, plan)
        await self.uow.session.flush()
        return plan

    async def _prices(self, plan: Plan, amount: int | None, kind: PriceType) -> None:
        """Monthly and yearly in three currencies; a year costs ten months."""
        for currency, rate in ELSEWHERE.items():
            for interval, times in ((MONTH, 1), (YEAR, 10)):
                if amount is not None:
                    unit = (Decimal(amount) * rate * times).quantize(Decimal(1))
                    await self._price(plan, currency, interval, type=kind, unit_amount=unit)
                    continue
                tiers = tuple(
                    Tier(up_to, (Decimal(unit) * rate * times).quantize(Decimal(1)))
                    for up_to, unit in ((10, 2500), (50, 2200), (None, 1900))
                )
                await self._price(plan, currency, interval, type=kind, tiers=tiers)

    async def _base_and_components(self, plan: Plan, calls: Meter, storage: Meter) -> None:
        """A fee ahead; what is used comes with it, each by its own meter."""
        for currency, rate in ELSEWHERE.items():
            fee = (4900 * rate).quantize(Decimal(1))
            await self._price(plan, currency, MONTH, type=PriceType.FLAT, unit_amount=fee)
            parts: tuple[tuple[Meter, Aggregation, int, str], ...] = (
                (calls, Aggregation.SUM, 10_000, "0.02"),
                (storage, Aggregation.MAX, 5, "12"),
            )
            for meter, aggregation, free, unit in parts:
                await self._price(
                    plan,
                    currency,
                    MONTH,
                    type=PriceType.METERED,
                    unit_amount=Decimal(unit) * rate,
                    free_units=free,
                    meter_id=meter.id,
                    aggregation=aggregation,
                    component=True,
                )

    async def _price(self, plan: Plan, currency: str, interval: IntervalUnit, **more: Any) -> None:
        price = Price(
            id=new_id(),
            plan_id=plan.id,
            currency=currency,
            interval_unit=interval,
            created_at=self.now,
            **more,
        )
        await add_price(self.uow, price)

    async def _addons(self) -> None:
        for code, name, amount in (("sso", "Single sign-on", 4900), ("backup", "Backups", 900)):
            features = (Grant("sso"),) if code == "sso" else ()
            addon = self._add(Addon, code=code, name=name, features=features)
            await self.uow.session.flush()
            price = Price(
                id=new_id(),
                addon_id=addon.id,
                currency="EUR",
                type=PriceType.FLAT,
                interval_unit=MONTH,
                unit_amount=Decimal(amount),
                created_at=self.now,
            )
            await add_price(self.uow, price)

    def _bundles(self) -> None:
        for code, tokens, amount in (("tokens-1k", 1000, 1000), ("tokens-10k", 10_000, 9000)):
            self._add(
                Bundle,
                code=code,
                name=f"{tokens} tokens",
                tokens=tokens,
                amount=amount,
                currency="EUR",
                expires_after_days=365,
            )

    async def _coupons(self, plan_id: UUID) -> None:
        welcome = self._add(Coupon, code="WELCOME", name="Welcome", percent=Decimal(20))
        await self.uow.session.flush()
        self._add(PromotionCode, coupon_id=welcome.id, code="FIRST20", first_time_only=True)
        self._add(
            Coupon,
            code="TEAM3",
            name="Three months of Team",
            amount=500,
            currency="EUR",
            duration=CouponDuration.REPEATING,
            periods=3,
            plan_ids=(plan_id,),
            max_redemptions=100,
        )
