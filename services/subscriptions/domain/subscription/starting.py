"""How a subscription begins: at once, with a trial, in the past, or brought from elsewhere."""

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Self
from uuid import UUID

from services.subscriptions.domain.charges import Item, Terms
from services.subscriptions.domain.coupon import AppliedDiscount
from services.subscriptions.domain.period import Billing, days_after, whole_second
from services.subscriptions.domain.subscription.agreement import Agreement, Bill
from services.subscriptions.domain.subscription.items import check_items
from services.subscriptions.domain.subscription.status import DateInvalid, Status
from shared.errors import Conflict, Invalid
from shared.events.subscriptions import SubscriptionEvent, SubscriptionStarted

FIRST_PAYMENT_WITHIN = timedelta(hours=23)
LONGEST_TRIAL_DAYS = 730


class TrialUsed(Conflict):
    code = "trial-used"


class TrialTooLong(Invalid):
    code = "trial-too-long"


class PaymentMethodNeeded(Conflict):
    code = "payment-method-needed"


class Starting(Agreement):
    """The first event of a subscription."""

    @classmethod
    def start(
        cls,
        *,
        id: UUID,  # noqa: A002  (what it is called everywhere else)
        account_id: UUID,
        items: tuple[Item, ...],
        terms: Terms,
        time_zone: str,
        at: datetime,
        now: datetime,
        billing: Billing = Billing.ANNIVERSARY,
        trial_days: int = 0,
        discounts: tuple[AppliedDiscount, ...] = (),
        project_id: UUID | None = None,
        payment_method_id: UUID | None = None,
        imported: bool = False,
    ) -> tuple[Self, list[SubscriptionEvent]]:
        """Subscribe an account from `at` on (which may lie before `now`).

        `imported`: it ran elsewhere and is paid for; only periods after the running one are
        billed here.
        """
        interval = check_items(items, terms)
        price = terms.price(items[0])
        subscription = cls(
            id=id,
            account_id=account_id,
            project_id=project_id,
            plan_id=terms.plan.id,
            price_id=price.id,
            quantity=items[0].quantity,
            items=items,
            currency=price.currency,
            billing=billing,
            time_zone=time_zone,
            anchor=at,
            interval_unit=interval.unit,
            interval_count=interval.count,
            period_start=at,
            period_end=at + timedelta(days=1),
            basis_start=at,
            discounts=discounts,
            payment_method_id=payment_method_id,
            created_at=now,
            updated_at=now,
        )
        events = subscription._begin(
            terms, at=whole_second(at), now=now, trial_days=trial_days, imported=imported
        )
        return subscription, events

    def _begin(
        self, terms: Terms, *, at: datetime, now: datetime, trial_days: int, imported: bool
    ) -> list[SubscriptionEvent]:
        bill = Bill()
        if trial_days:
            if not 0 < trial_days <= LONGEST_TRIAL_DAYS:
                raise DateInvalid(
                    f"A trial has 1 to {LONGEST_TRIAL_DAYS} days.", field="trial_days"
                )
            # A trial uses nothing of a coupon up.
            self.trial_end = days_after(at, trial_days, self.time_zone)
            self.anchor = self.trial_end
            self.period_start = self.basis_start = at
            self.period_end, self.period_index = self.trial_end, 0
            self.status = Status.TRIALING
        elif imported:
            self.items = tuple(replace(i, units_billed=i.quantity) for i in self.items)
            self._open_cadence(at)
            self._skip_to(now)
            self.status = Status.ACTIVE
        else:
            bill = self._open_period(terms, restart_at=at)
            paid = not bill.charges
            self.status = Status.ACTIVE if paid else Status.INCOMPLETE
            if not paid:
                self.expires_at = now + FIRST_PAYMENT_WITHIN
        event = self._billable(
            SubscriptionStarted,
            terms,
            now=now,
            bill=bill,
            status=self.status.value,
            plan_id=self.plan_id,
            trial_end=self.trial_end,
        )
        return [event]
