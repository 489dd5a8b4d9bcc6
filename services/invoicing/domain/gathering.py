"""Which charges share one invoice, where an account wants one for all its subscriptions."""

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from uuid import UUID
from zoneinfo import ZoneInfo

from services.invoicing.domain.account import Account
from services.invoicing.domain.legal_entity import LegalEntity
from services.invoicing.domain.supply import supplied_at
from shared.events.subscriptions import (
    Billable,
    DunningPolicy,
    SubscriptionRenewed,
    SubscriptionTrialEnded,
)


@dataclass(frozen=True, kw_only=True)
class Gathering:
    """What the charges of one consolidated invoice have in common.

    One invoice has one payer, one seller and one currency, is collected from one payment method
    and asked for again by one policy; and it covers one day of the account's calendar.
    """

    account_id: UUID
    legal_entity_id: UUID
    currency: str
    day: date
    terms: str
    #: The day is over, and the legal entity's time for looking at drafts as well.
    closes_at: datetime

    @classmethod
    def of(cls, event: Billable, account: Account, entity: LegalEntity) -> "Gathering":
        """By the event and the settings alone, so that no order of events matters."""
        zone = ZoneInfo(account.time_zone)
        day = supplied_at(event).astimezone(zone).date()
        midnight = datetime.combine(day + timedelta(days=1), time(), tzinfo=zone)
        return cls(
            account_id=account.account_id,
            legal_entity_id=entity.id,
            currency=event.currency,
            day=day,
            terms=terms_of(event),
            closes_at=midnight.astimezone(UTC) + timedelta(hours=entity.draft_hours),
        )

    @property
    def key(self) -> str:
        """Names the draft that gathers; no two drafts have the same."""
        return "/".join(
            (
                str(self.account_id),
                str(self.legal_entity_id),
                self.currency,
                self.day.isoformat(),
                self.terms,
            )
        )


def gathers(event: Billable, account: Account) -> bool:
    """Whether the event's charges wait for others: what time brings does.

    What somebody asked for at once (a start, a change, a resumption, a cancellation) is invoiced
    at once: a new subscription waits for that invoice to be paid.
    """
    by_itself = isinstance(event, SubscriptionRenewed | SubscriptionTrialEnded)
    return account.consolidated_billing and by_itself


def terms_of(event: Billable) -> str:
    """How the charges are collected: subscriptions that differ in it share no invoice."""
    policy: DunningPolicy = event.dunning
    days = ",".join(str(day) for day in policy.days)
    return f"{event.payment_method_id or 'default'}/{days}:{policy.then}"
