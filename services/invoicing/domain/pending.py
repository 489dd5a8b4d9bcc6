"""Charges and take-backs that wait for the subscription's next invoice."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Self
from uuid import UUID

from services.invoicing.domain.totals import Bundle, GiveBack
from shared.events.subscriptions import Charge, Discount, TakeBack
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
    take_backs: list[dict[str, Any]] = field(default_factory=list)
    #: Where what was paid of the take-backs goes, where it is no negative line.
    give_back: GiveBack = "credit"
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
        take_backs: Sequence[TakeBack] = (),
        give_back: GiveBack = "credit",
    ) -> Self:
        return cls(
            id=new_id(),
            account_id=account_id,
            subscription_id=subscription_id,
            currency=currency,
            charges=[charge.model_dump(mode="json") for charge in charges],
            discounts=[discount.model_dump(mode="json") for discount in discounts],
            created_at=at,
            take_backs=[one.model_dump(mode="json") for one in take_backs],
            give_back=give_back,
        )

    def take_back(self, take_back: TakeBack) -> bool:
        """Have a charge that waits here taken back here; False where it is none of these."""
        if not any(UUID(charge["id"]) == take_back.charge_id for charge in self.charges):
            return False
        if not any(UUID(one["id"]) == take_back.id for one in self.take_backs):
            self.take_backs = [*self.take_backs, take_back.model_dump(mode="json")]
        return True

    @property
    def bundle(self) -> Bundle:
        return Bundle(
            charges=tuple(Charge.model_validate(charge) for charge in self.charges),
            discounts=tuple(Discount.model_validate(discount) for discount in self.discounts),
            subscription_id=self.subscription_id,
            take_backs=tuple(TakeBack.model_validate(one) for one in self.take_backs),
            give_back=self.give_back,
        )
