"""What tests of invoicing are made of; a test names only what it is about."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from services.invoicing.domain.tax import TaxCode, TaxDecision
from services.invoicing.domain.totals import Bundle
from shared.events.subscriptions import (
    Charge,
    Discount,
    SubscriptionRenewed,
    SubscriptionStarted,
)
from shared.ids import new_id

START = datetime(2026, 3, 1, tzinfo=UTC)
END = datetime(2026, 4, 1, tzinfo=UTC)


def a_charge(amount: int = 1000, **fields: Any) -> Charge:
    usual: dict[str, Any] = {
        "id": new_id(),
        "kind": "recurring",
        "description": "Pro, March",
        "unit_amount": str(amount),
        "amount": amount,
        "currency": "EUR",
        "period_start": START,
        "period_end": END,
        "why": {"rule": "flat"},
    }
    return Charge(**{**usual, **fields})


def a_discount(**fields: Any) -> Discount:
    usual: dict[str, Any] = {"coupon_id": new_id(), "code": "SAVE", "description": "Saves"}
    return Discount(**{**usual, **fields})


def a_bundle(*amounts: int, discounts: tuple[Discount, ...] = (), **fields: Any) -> Bundle:
    return Bundle(tuple(a_charge(amount, **fields) for amount in amounts), discounts)


def taxed_at(rate: str) -> TaxDecision:
    percent = Decimal(rate)
    return TaxDecision(
        code=TaxCode.STANDARD if percent else TaxCode.ZERO, rate=percent, country="DE", why="test"
    )


def _billable(fields: dict[str, Any]) -> dict[str, Any]:
    usual: dict[str, Any] = {
        "occurred_at": START,
        "account_id": new_id(),
        "sequence": 1,
        "subscription_id": new_id(),
        "currency": "EUR",
        "plan_name": "Pro",
        "price_id": new_id(),
        "period_start": START,
        "period_end": END,
        "charges": (a_charge(),),
    }
    return {**usual, **fields}


def a_started(account_id: UUID, **fields: Any) -> SubscriptionStarted:
    more = {"status": "incomplete", "plan_id": new_id(), "account_id": account_id, **fields}
    return SubscriptionStarted(**_billable(more))


def a_renewed(account_id: UUID, subscription_id: UUID, **fields: Any) -> SubscriptionRenewed:
    more = {"account_id": account_id, "subscription_id": subscription_id, **fields}
    return SubscriptionRenewed(**_billable(more))
