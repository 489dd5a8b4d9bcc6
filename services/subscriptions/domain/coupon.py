"""Coupons and the codes they are given out under, within limits that hold."""

from collections.abc import Collection
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from uuid import UUID

from services.subscriptions.domain.catalog import Editable
from services.subscriptions.domain.price import plain
from shared.errors import Conflict, Invalid, NotFound
from shared.events.subscriptions import Discount
from shared.money import Money, require_billable, round_half_away


class CouponDuration(StrEnum):
    ONCE = "once"
    REPEATING = "repeating"
    FOREVER = "forever"


class CouponNotFound(NotFound):
    code = "coupon-not-found"


class CouponCodeTaken(Conflict):
    code = "coupon-code-taken"


class CouponInvalid(Invalid):
    code = "coupon-invalid"


class CouponExhausted(Conflict):
    code = "coupon-exhausted"


class CouponExpired(Conflict):
    code = "coupon-expired"


class CouponNotForPlan(Invalid):
    code = "coupon-not-for-plan"


class PromotionCodeNotFound(NotFound):
    code = "promotion-code-not-found"


class CouponForFirstTime(Conflict):
    code = "coupon-for-first-subscription"


WHOLE = 100


@dataclass(frozen=True, slots=True)
class AppliedDiscount:
    """A coupon on a subscription. `periods_left` None: for ever."""

    coupon_id: UUID
    code: str
    description: str
    percent: Decimal | None
    amount: int | None
    currency: str | None
    periods_left: int | None
    #: Whether it counts for the running period; what is prorated in it is discounted too.
    current: bool = False
    #: For these plans and prices; for all where none is named. An earlier release kept neither.
    plan_ids: tuple[UUID, ...] | None = None
    price_ids: tuple[UUID, ...] | None = None
    #: What of a fixed amount the running period has not been given yet; None: all of it, or none
    #: where an earlier release gave it.
    amount_left: int | None = None

    def for_new_period(self, plan_id: UUID, price_ids: Collection[UUID]) -> "AppliedDiscount":
        """As it is once another period was opened: in scope it counts, and uses a period."""
        counts = self.covers_plan(plan_id) and any(map(self.covers_price, price_ids))
        if not counts or self.periods_left == 0:
            return replace(self, current=False, amount_left=None)
        left = None if self.periods_left is None else self.periods_left - 1
        return replace(self, current=True, periods_left=left, amount_left=self.amount)

    def covers_plan(self, plan_id: UUID) -> bool:
        return not self.plan_ids or plan_id in self.plan_ids

    def covers_price(self, price_id: UUID) -> bool:
        return not self.price_ids or price_id in self.price_ids

    @property
    def is_spent(self) -> bool:
        return self.periods_left == 0 and not self.current

    @property
    def has_something_left(self) -> bool:
        """Whether it takes anything off what else is billed in the running period."""
        return self.current and (self.percent is not None or bool(self.amount_left))

    def take_off(self, whole: int) -> tuple["AppliedDiscount", int]:
        """What it takes off a sum in the running period, and the coupon after that."""
        if self.percent is not None:
            return self, round_half_away(whole * self.percent / WHOLE)
        part = min(self.amount_left or 0, whole)
        return replace(self, amount_left=(self.amount_left or 0) - part), part

    def published(
        self, charge_ids: tuple[UUID, ...] | None = None, amount: int | None = None
    ) -> Discount:
        """As an event says it: what it takes off these charges, or off all of them."""
        return Discount(
            coupon_id=self.coupon_id,
            code=self.code,
            description=self.description,
            percent=None if self.percent is None else plain(self.percent),
            amount=self.amount if amount is None else amount,
            currency=self.currency,
            charge_ids=charge_ids,
        )


@dataclass(eq=False, kw_only=True)
class Coupon(Editable):
    """`redeemed` counts accounts' uses; the row is locked while one more is taken."""

    id: UUID
    code: str
    name: str
    percent: Decimal | None = None
    amount: int | None = None
    currency: str | None = None
    duration: CouponDuration = CouponDuration.ONCE
    periods: int | None = None
    plan_ids: tuple[UUID, ...] = ()
    price_ids: tuple[UUID, ...] = ()
    max_redemptions: int | None = None
    max_per_account: int = 1
    redeemed: int = 0
    redeem_by: datetime | None = None
    active: bool = True
    revision: int = 1
    created_at: datetime

    def __post_init__(self) -> None:
        if (self.percent is None) == (self.amount is None):
            raise CouponInvalid("A coupon is either percent or a fixed amount.", field="percent")
        if self.percent is not None and not 0 < self.percent <= WHOLE:
            raise CouponInvalid("A percentage is above 0 and at most 100.", field="percent")
        if self.amount is not None and (self.amount <= 0 or self.currency is None):
            raise CouponInvalid("A fixed amount is positive and has a currency.", field="amount")
        if self.amount is not None:
            require_billable(self.amount, field="amount")
        if (self.duration is CouponDuration.REPEATING) != (self.periods is not None):
            raise CouponInvalid(
                "A repeating coupon, and no other, says for how many periods.", field="periods"
            )
        if self.periods is not None and self.periods < 1:
            raise CouponInvalid("A coupon lasts at least one period.", field="periods")

    def check_edit(self) -> None:
        check_limit(self.max_redemptions, self.redeemed)

    def redeem(
        self,
        *,
        plan_id: UUID,
        price_ids: Collection[UUID],
        currency: str,
        used_by_account: int,
        at: datetime,
        code: str | None = None,
    ) -> AppliedDiscount:
        """Take one use of it for a subscription, under `code`. The caller holds the row's lock."""
        self.require_usable(plan_id=plan_id, price_ids=price_ids, currency=currency, at=at)
        if self.max_redemptions is not None and self.redeemed >= self.max_redemptions:
            raise CouponExhausted(f"The coupon {self.code} has been used up.")
        if used_by_account >= self.max_per_account:
            raise CouponExhausted(f"This account has used the coupon {self.code} already.")
        self.redeemed += 1
        self.revision += 1
        periods = {
            CouponDuration.ONCE: 1,
            CouponDuration.REPEATING: self.periods,
            CouponDuration.FOREVER: None,
        }
        return self.applied(code or self.code, periods_left=periods[self.duration])

    def require_usable(
        self, *, plan_id: UUID, price_ids: Collection[UUID], currency: str, at: datetime
    ) -> None:
        """Refuse it where it is over, or for something else."""
        if not self.active or (self.redeem_by is not None and at >= self.redeem_by):
            raise CouponExpired(f"The coupon {self.code} is not valid any more.")
        if self.plan_ids and plan_id not in self.plan_ids:
            raise CouponNotForPlan(f"The coupon {self.code} is for other plans.", field="coupon")
        if self.price_ids and not set(self.price_ids) & set(price_ids):
            raise CouponNotForPlan(f"The coupon {self.code} is for other prices.", field="coupon")
        if self.currency is not None and self.currency != currency:
            raise CouponNotForPlan(
                f"The coupon {self.code} is in {self.currency}, the price in {currency}.",
                field="coupon",
            )

    def applied(self, code: str, *, periods_left: int | None) -> AppliedDiscount:
        """As a subscription has it."""
        return AppliedDiscount(
            coupon_id=self.id,
            code=code,
            description=self.describe(),
            percent=self.percent,
            amount=self.amount,
            currency=self.currency,
            periods_left=periods_left,
            plan_ids=self.plan_ids,
            price_ids=self.price_ids,
        )

    def describe(self) -> str:
        off = (
            f"{plain(self.percent)} % off"
            if self.percent is not None
            else f"{Money(self.amount or 0, self.currency or '')} off"
        )
        return f"{self.name}: {off}"


@dataclass(eq=False, kw_only=True)
class PromotionCode(Editable):
    """A word under which a coupon is given out; a coupon has any number, each with its limits.

    What the coupon itself allows (how often in all and per account, until when, for which plans)
    holds over all its codes.
    """

    id: UUID
    coupon_id: UUID
    code: str
    #: For this account alone; nobody else is told that it exists.
    account_id: UUID | None = None
    #: Only for an account's first subscription.
    first_time_only: bool = False
    max_redemptions: int | None = None
    redeemed: int = 0
    expires_at: datetime | None = None
    active: bool = True
    revision: int = 1
    created_at: datetime

    def __post_init__(self) -> None:
        self.code = normalized(self.code)

    def check_edit(self) -> None:
        check_limit(self.max_redemptions, self.redeemed)

    def redeem(self, *, account_id: UUID, had_one_before: bool, at: datetime) -> None:
        """Take one use of it. The caller holds the row's lock."""
        self.require_usable(account_id=account_id, at=at)
        if self.first_time_only and had_one_before:
            raise CouponForFirstTime(f"The code {self.code} is for a first subscription.")
        if self.max_redemptions is not None and self.redeemed >= self.max_redemptions:
            raise CouponExhausted(f"The code {self.code} has been used up.")
        self.redeemed += 1
        self.revision += 1

    def require_usable(self, *, account_id: UUID, at: datetime) -> None:
        """Refuse it where it is over, or another account's."""
        if self.account_id not in {None, account_id}:
            raise CouponNotFound(f"There is no coupon {self.code!r}.")
        if not self.active or (self.expires_at is not None and at >= self.expires_at):
            raise CouponExpired(f"The code {self.code} is not valid any more.")


def check_limit(limit: int | None, redeemed: int) -> None:
    """What was redeemed stays: a limit is not set below it."""
    if limit is not None and limit < redeemed:
        raise CouponInvalid(
            f"It was redeemed {redeemed} times already; its limit cannot be lower.",
            field="max_redemptions",
        )


def normalized(code: str) -> str:
    """Codes are typed from mails and posters: upper and lower case are the same."""
    return code.strip().upper()
