"""What a subscription's next invoice will probably say, by its last events."""

import calendar
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

from services.invoicing.domain.gathering import terms_of
from services.invoicing.domain.totals import Bundle
from shared.errors import NotFound
from shared.events.subscriptions import (
    Billable,
    Charge,
    Discount,
    SubscriptionCanceled,
    SubscriptionChanged,
)
from shared.ids import new_id
from shared.money import round_half_away

#: Charges that come again each period.
AGAIN = ("recurring", "addon")
SHORTEST_MONTH = 28


class NothingUpcoming(NotFound):
    code = "nothing-upcoming"


@dataclass(eq=False, kw_only=True)
class Upcoming:
    """What comes again of a subscription, by price. Usage is not known before it happens."""

    id: UUID  # the subscription's
    account_id: UUID
    currency: str
    period_start: datetime
    period_end: datetime
    charges: dict[str, Any] = field(default_factory=dict)
    discounts: list[dict[str, Any]] = field(default_factory=list)
    ended: bool = False
    #: How it is collected; subscriptions that differ in it share no invoice.
    terms: str | None = None

    def take_in(self, event: Billable) -> None:
        """Follow the subscription: a new period, a change within one, the end."""
        if isinstance(event, SubscriptionCanceled):
            self.ended = True
            return
        charges = dict(self.charges)
        if not isinstance(event, SubscriptionChanged):
            charges = {}
            self.discounts = [discount.model_dump(mode="json") for discount in event.discounts]
        for charge in event.charges:
            key = str(charge.price_id)
            if charge.kind in AGAIN:
                charges[key] = charge.model_dump(mode="json")
            elif charge.kind == "proration_credit":
                charges.pop(key, None)
            elif charge.kind == "proration_charge" and "full_price" in charge.why:
                charges[key] = _whole(charge).model_dump(mode="json")
        self.charges = charges
        self.currency = event.currency
        self.terms = terms_of(event)
        self.period_start, self.period_end = event.period_start, event.period_end

    def is_billed_with(self, other: "Upcoming", zone: ZoneInfo) -> bool:
        """Whether the two would be on one consolidated invoice."""
        mine, others = (one.period_end.astimezone(zone).date() for one in (self, other))
        return (
            mine == others
            and (self.currency, self.terms) == (other.currency, other.terms)
            and not other.ended
        )

    def bundle(self) -> Bundle:
        """The charges of the next period, as they are known today."""
        start = self.period_end
        end = _after(self.period_start, self.period_end)
        return Bundle(
            tuple(
                Charge.model_validate(
                    {**kept, "id": new_id(), "period_start": start, "period_end": end}
                )
                for kept in self.charges.values()
            ),
            tuple(Discount.model_validate(kept) for kept in self.discounts),
            self.id,
        )


def _whole(charge: Charge) -> Charge:
    """A prorated charge as it will be for a whole period."""
    amount = round_half_away(Decimal(str(charge.why["full_price"])))
    return charge.model_copy(
        update={
            "kind": "recurring",
            "quantity": "1",
            "unit_amount": str(amount),
            "amount": amount,
            "why": {"rule": "the full price of a whole period", "full_price": amount},
        }
    )


def _after(start: datetime, end: datetime) -> datetime:
    """Where a period ends that is as long as this one and follows it."""
    months = (end.year - start.year) * 12 + end.month - start.month
    if months < 1 or (end - start).days < SHORTEST_MONTH:
        return end + (end - start)
    month = end.month - 1 + months
    year, month = end.year + month // 12, month % 12 + 1
    return end.replace(
        year=year, month=month, day=min(end.day, calendar.monthrange(year, month)[1])
    )
