"""Other prices, quantities or add-ons: at once, prorated, or from the next period on."""

from dataclasses import replace
from datetime import datetime
from enum import StrEnum

from services.subscriptions.domain.charges import (
    Item,
    Terms,
    charge_once,
    charge_rest,
    credit_rest,
)
from services.subscriptions.domain.period import Interval, whole_second
from services.subscriptions.domain.proration import Factor
from services.subscriptions.domain.subscription.agreement import Agreement
from services.subscriptions.domain.subscription.items import (
    NO_USAGE,
    CurrencyMismatch,
    ScheduledChange,
    Usage,
    check_items,
    difference,
    holdings,
    rate,
)
from services.subscriptions.domain.subscription.status import (
    FINAL,
    SERVED,
    IllegalTransition,
    NothingScheduled,
    Status,
)
from shared.errors import Conflict
from shared.events.subscriptions import (
    Charge,
    SubscriptionChanged,
    SubscriptionChangeScheduled,
    SubscriptionChangeWithdrawn,
    SubscriptionEvent,
)


class Proration(StrEnum):
    NOW = "prorate_now"
    NEXT = "prorate_next"
    NONE = "none"
    AT_PERIOD_END = "at_period_end"


class NothingChanges(Conflict):
    code = "nothing-changes"


class Changing(Agreement):
    """Credits the unused old and charges the remaining new."""

    def change(
        self,
        old_terms: Terms,
        terms: Terms,
        items: tuple[Item, ...],
        *,
        at: datetime,
        proration: Proration | None = None,
        usage: Usage = NO_USAGE,
    ) -> SubscriptionEvent:
        """Hold other prices, quantities or add-ons, now or from the next period on.

        By default an upgrade counts at once and a downgrade at the period's end.
        """
        if self.status not in SERVED:
            raise IllegalTransition(f"A subscription that is {self.status} cannot be changed.")
        interval = check_items(items, terms)
        if terms.price(items[0]).currency != self.currency:
            raise CurrencyMismatch(
                f"The subscription is in {self.currency}; another currency needs a new one.",
                field="price_id",
            )
        if holdings(items) == holdings(self.items):
            raise NothingChanges("The subscription already holds exactly this.")
        if proration is None:
            upgrade = rate(items, terms) >= rate(self.items, old_terms)
            proration = Proration.NOW if upgrade else Proration.AT_PERIOD_END
        if proration is Proration.AT_PERIOD_END:
            return self._schedule(terms, items, at=at)
        previous_price_id = self.price_id
        charges: list[Charge] = []
        at = min(max(whole_second(at), self.period_start), self.period_end)
        if self.status is Status.TRIALING:
            self._hold(items, terms.plan.id)
            self.interval_unit, self.interval_count = interval.unit, interval.count
        else:
            charges = self._switch(
                old_terms,
                terms,
                items,
                interval=interval,
                at=at,
                proration=proration,
                usage=usage,
            )
        self.scheduled_change = None
        return self._billable(
            SubscriptionChanged,
            terms,
            now=at,
            charges=charges,
            discounts=None,
            previous_price_id=previous_price_id,
            quantity=self.quantity,
            invoice_now=proration is not Proration.NEXT,
        )

    def _switch(
        self,
        old_terms: Terms,
        terms: Terms,
        items: tuple[Item, ...],
        *,
        interval: Interval,
        at: datetime,
        proration: Proration,
        usage: Usage,
    ) -> list[Charge]:
        prorates = proration is not Proration.NONE
        old, new = difference(self.items, items)
        used = self._usage_charges(old_terms, usage, only={item.id for item in old})
        factor = Factor.of_rest(self._basis, at)
        rest = self._rest(at)
        credits_ = [
            credit_rest(item, old_terms, rest, factor)
            for item in old
            if prorates and rest is not None and old_terms.price(item).is_recurring
        ]
        one_offs = [item for item in new if terms.price(item).type.value == "one_off"]
        if interval != self.cadence.interval:
            # Another rhythm begins at once: what is left of everything comes back.
            kept = [item for item in self.items if item not in old]
            credits_ += [
                credit_rest(item, old_terms, rest, factor)
                for item in kept
                if prorates and rest is not None and old_terms.price(item).is_recurring
            ]
            self._hold(items, terms.plan.id)
            self.interval_unit, self.interval_count = interval.unit, interval.count
            self._open_cadence(at)
            charges = self._charges_ahead(terms)
        else:
            charges = [
                charge_rest(item, terms, rest, factor)
                for item in new
                if prorates and rest is not None and terms.price(item).is_recurring
            ]
            since = {item.id for item in new if terms.price(item).is_metered}
            self._hold(
                tuple(replace(i, metered_from=at) if i.id in since else i for i in items),
                terms.plan.id,
            )
        once = [charge_once(item, terms, self.period) for item in one_offs]
        return [*used, *credits_, *charges, *once]

    def _schedule(
        self, terms: Terms, items: tuple[Item, ...], *, at: datetime
    ) -> SubscriptionChangeScheduled:
        self.scheduled_change = ScheduledChange(items, terms.plan.id)
        return self._event(
            SubscriptionChangeScheduled,
            now=at,
            price_id=items[0].price_id,
            quantity=items[0].quantity,
            effective_at=self.period_end,
        )

    def withdraw_change(self, *, at: datetime) -> SubscriptionChangeWithdrawn:
        """The scheduled change will not happen."""
        if self.scheduled_change is None or self.status in FINAL:
            raise NothingScheduled("No change is scheduled.")
        self.scheduled_change = None
        return self._event(SubscriptionChangeWithdrawn, now=at)
