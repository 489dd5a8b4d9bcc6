"""Charges that wait for the subscription's next invoice."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Self
from uuid import UUID

from services.invoicing.domain.totals import Bundle
from shared.events.subscriptions import Charge, Discount
from shared.ids import new_id


@dataclass(eq=False, kw_only=True)
class PendingCharges:
    """What one event said is owed later, with the discounts that apply to it."""

    id: UUID
    account_id: UUID
    subscription_id: UUID
    currency: str
    charges: list[dict[str, Any]]
    discounts: list[dict[str, Any]]
    created_at: datetime
    #: The invoice that took them in; None while they wait.
    invoice_id: UUID | None = None

    @classmethod
    def of(
        cls,
        *,
        account_id: UUID,
        subscription_id: UUID,
        currency: str,
        charges: Sequence[Charge],
        discounts: Sequence[Discount],
        at: datetime,
    ) -> Self:
        return cls(
            id=new_id(),
            account_id=account_id,
            subscription_id=subscription_id,
            currency=currency,
            charges=[charge.model_dump(mode="json") for charge in charges],
            discounts=[discount.model_dump(mode="json") for discount in discounts],
            created_at=at,
        )

    @property
    def bundle(self) -> Bundle:
        return Bundle(
            charges=tuple(Charge.model_validate(charge) for charge in self.charges),
            discounts=tuple(Discount.model_validate(discount) for discount in self.discounts),
            subscription_id=self.subscription_id,
        )
