"""Asking again: when, by the kind of decline, and what follows when it came to nothing."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from uuid import UUID

from services.payments.domain.payments import Payment
from shared.errors import Conflict
from shared.events.payments import DunningExhausted, DunningRecovered, DunningStarted
from shared.ids import new_id


class DunningStatus(StrEnum):
    RUNNING = "running"
    RECOVERED = "recovered"  # the money came
    EXHAUSTED = "exhausted"  # asking again came to nothing
    CANCELED = "canceled"  # the invoice went away


MOVES: dict[DunningStatus, set[DunningStatus]] = {
    DunningStatus.RUNNING: {
        DunningStatus.RECOVERED,
        DunningStatus.EXHAUSTED,
        DunningStatus.CANCELED,
    },
    DunningStatus.EXHAUSTED: {DunningStatus.RECOVERED, DunningStatus.CANCELED},
    DunningStatus.RECOVERED: set(),
    DunningStatus.CANCELED: set(),
}


class IllegalDunningMove(Conflict):
    code = "illegal-dunning-move"


def next_retry(payment: Payment, *, decline_class: str, at: datetime) -> datetime | None:
    """When the payment is tried again by itself: so many days after the last try.

    Only a decline that may pass is retried; a bad card waits for a new one, fraud for nobody.
    """
    if not payment.is_dunned or decline_class != "retry_later":
        return None
    if payment.retries >= len(payment.dunning_days):
        return None
    return at + timedelta(days=payment.dunning_days[payment.retries])


def is_over(*, decline_class: str, retries_at: datetime | None) -> bool:
    """Whether this decline ends the dunning at once."""
    return decline_class == "stop" or (decline_class == "retry_later" and retries_at is None)


@dataclass(eq=False, kw_only=True)
class Dunning:
    """One failed renewal being asked for again. Changes only through its methods."""

    id: UUID
    account_id: UUID
    payment_id: UUID
    invoice_id: UUID
    subscription_id: UUID | None
    then: str
    started_at: datetime
    #: Without a retry that succeeds, it is over at this instant of the account's clock.
    ends_at: datetime
    status: DunningStatus = DunningStatus.RUNNING
    version: int = 0

    @classmethod
    def of(cls, payment: Payment, *, at: datetime) -> "Dunning":
        return cls(
            id=new_id(),
            account_id=payment.account_id,
            payment_id=payment.id,
            invoice_id=payment.invoice_id,
            subscription_id=payment.subscription_id,
            then=payment.dunning_then,
            started_at=at,
            ends_at=at + timedelta(days=sum(payment.dunning_days)),
        )

    def start(
        self, *, at: datetime, decline_class: str, retries_at: datetime | None
    ) -> DunningStarted:
        return DunningStarted.model_validate(
            {**self._facts(at), "decline_class": decline_class, "retries_at": retries_at}
        )

    def recover(self, *, at: datetime) -> DunningRecovered:
        self._move_to(DunningStatus.RECOVERED)
        return DunningRecovered.model_validate(self._facts(at))

    def exhaust(self, *, at: datetime) -> DunningExhausted:
        self._move_to(DunningStatus.EXHAUSTED)
        return DunningExhausted.model_validate({**self._facts(at), "then": self.then})

    def cancel(self) -> None:
        """The invoice is not owed any more; whoever took it back has said so."""
        if self.status in (DunningStatus.RUNNING, DunningStatus.EXHAUSTED):
            self._move_to(DunningStatus.CANCELED)

    def _move_to(self, target: DunningStatus) -> None:
        if target not in MOVES[self.status]:
            raise IllegalDunningMove(f"A dunning that is {self.status} cannot become {target}.")
        self.status = target

    def _facts(self, at: datetime) -> dict[str, object]:
        self.version += 1
        return {
            "occurred_at": at,
            "account_id": self.account_id,
            "sequence": self.version,
            "dunning_id": self.id,
            "payment_id": self.payment_id,
            "invoice_id": self.invoice_id,
            "subscription_id": self.subscription_id,
        }
