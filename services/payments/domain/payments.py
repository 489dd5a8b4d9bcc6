"""The life of a payment and of its attempts."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from uuid import UUID

from shared.errors import Conflict, Invalid, NotFound
from shared.events.payments import (
    PaymentActionRequired,
    PaymentArrivedLate,
    PaymentCanceled,
    PaymentCreated,
    PaymentFailed,
    PaymentSucceeded,
)
from shared.ids import new_id
from shared.money import Money


class PaymentStatus(StrEnum):
    CREATED = "created"  # to be collected when it is due
    PROCESSING = "processing"  # an attempt is in flight
    REQUIRES_ACTION = "requires_action"  # the payer has to confirm it with their bank
    UNKNOWN = "unknown"  # the provider's answer was lost; the reconciler asks
    SUCCEEDED = "succeeded"  # the money is taken
    FAILED = "failed"  # the last attempt was declined; another may follow
    CANCELED = "canceled"  # nothing is to be collected any more


#: The whole state machine. A move that is not here cannot happen.
MOVES: dict[PaymentStatus, set[PaymentStatus]] = {
    PaymentStatus.CREATED: {
        PaymentStatus.PROCESSING,
        PaymentStatus.FAILED,  # there is no payment method
        PaymentStatus.CANCELED,
    },
    PaymentStatus.PROCESSING: {
        PaymentStatus.SUCCEEDED,
        PaymentStatus.FAILED,
        PaymentStatus.REQUIRES_ACTION,
        PaymentStatus.UNKNOWN,
        PaymentStatus.CANCELED,
    },
    PaymentStatus.REQUIRES_ACTION: {PaymentStatus.PROCESSING, PaymentStatus.CANCELED},
    PaymentStatus.UNKNOWN: {
        PaymentStatus.SUCCEEDED,
        PaymentStatus.FAILED,
        PaymentStatus.REQUIRES_ACTION,
        PaymentStatus.CANCELED,
    },
    PaymentStatus.FAILED: {
        PaymentStatus.PROCESSING,
        PaymentStatus.FAILED,  # and now there is no payment method any more
        PaymentStatus.CANCELED,
    },
    PaymentStatus.SUCCEEDED: set(),
    PaymentStatus.CANCELED: set(),
}

#: What begins once it is paid: the customer is there, and it lapses by itself.
PAID_FIRST = ("subscription_start", "subscription_pending_change")
#: From these a new attempt may begin.
COLLECTIBLE = (PaymentStatus.CREATED, PaymentStatus.FAILED)
IN_FLIGHT = (PaymentStatus.PROCESSING, PaymentStatus.UNKNOWN, PaymentStatus.REQUIRES_ACTION)


class AttemptStatus(StrEnum):
    UNKNOWN = "unknown"  # committed before the provider is called; settled by its answer
    REQUIRES_ACTION = "requires_action"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELED = "canceled"


OPEN_ATTEMPTS = (AttemptStatus.UNKNOWN, AttemptStatus.REQUIRES_ACTION)

#: Most outages are over within five minutes: so long nobody waits much more than half a minute
#: for an answer once the provider is back. It costs little: the circuit keeps lost answers few.
ASK_OFTEN = (timedelta(seconds=5), timedelta(seconds=15), *8 * (timedelta(seconds=30),))
ASK_RARELY = (
    timedelta(minutes=2),
    timedelta(minutes=10),
    timedelta(hours=1),
    timedelta(hours=6),
    timedelta(days=1),
)
#: After a lost answer the provider is asked again so long after the last time; then a person.
ASK_AFTER = ASK_OFTEN + ASK_RARELY
#: The same wait for all would have a provider that comes back asked about everything at once:
#: up to a tenth more, by the id, so that it is spread and can still be foretold.
SPREAD = 0.1
#: A call may take so much longer than the provider's own limit before nobody waits for it.
MARGIN = timedelta(seconds=5)


def ask_again_at(about: UUID, asked: int, real_now: datetime) -> datetime:
    """When the provider is asked after so many times in vain."""
    spread = timedelta(seconds=ASK_AFTER[asked].total_seconds() * SPREAD)
    return real_now + ASK_AFTER[asked] + spread * (about.int % 1000) / 1000


class PaymentNotFound(NotFound):
    code = "payment-not-found"


class IllegalPaymentMove(Conflict):
    code = "illegal-payment-move"


class PaymentNotCollectible(Conflict):
    code = "payment-not-collectible"


class RefundAboveCharge(Invalid):
    code = "refund-above-charge"


class PaymentNotRefundable(Conflict):
    code = "payment-not-refundable"


@dataclass(eq=False, kw_only=True)
class Payment:
    """Our intention to collect one invoice. Each method that reports returns its event."""

    id: UUID
    account_id: UUID
    invoice_id: UUID
    subscription_id: UUID | None
    amount: int
    currency: str
    billing_reason: str
    payment_method_id: UUID | None
    dunning_days: list[int]
    dunning_then: str
    created_at: datetime
    #: What it was caused by; the events of its attempts belong to the same chain.
    cause: dict[str, str | None]
    status: PaymentStatus = PaymentStatus.CREATED
    #: When the next attempt is due, by the account's clock; None: nothing by itself.
    due_at: datetime | None = None
    #: A customer waits for it, or it is one of a month-start run.
    is_urgent: bool = False
    attempts: int = 0
    retries: int = 0
    decline_class: str | None = None
    decline_code: str | None = None
    #: The invoice was voided or paid otherwise while an attempt was in flight.
    cancel_requested: bool = False
    #: Of the amount, what went back or is on its way back.
    refunded: int = 0
    provider: str | None = None
    succeeded_at: datetime | None = None
    version: int = 0

    @property
    def money(self) -> Money:
        return Money(self.amount, self.currency)

    @property
    def is_dunned(self) -> bool:
        """What was not paid for has not begun: nobody is asked again for it."""
        return self.billing_reason not in PAID_FIRST

    def create(self, *, at: datetime) -> PaymentCreated:
        self.due_at = at
        return PaymentCreated(**self._facts(at))

    def begin(self) -> int:
        """An attempt starts; returns its number."""
        self._move_to(PaymentStatus.PROCESSING)
        self.due_at = None
        self.attempts += 1
        return self.attempts

    def lose_sight(self) -> None:
        """The provider's answer was lost."""
        if self.status is PaymentStatus.PROCESSING:
            self._move_to(PaymentStatus.UNKNOWN)

    def succeed(self, *, at: datetime, provider: str) -> PaymentSucceeded | PaymentArrivedLate:
        """The money is taken. After a cancellation it is reported as late, and goes back."""
        self._resume()
        self._move_to(PaymentStatus.SUCCEEDED)
        self.succeeded_at = at
        self.provider = provider
        self.due_at = None
        if self.cancel_requested:
            return PaymentArrivedLate(**self._facts(at), provider=provider)
        return PaymentSucceeded(**self._facts(at), provider=provider, attempts=self.attempts)

    def fail(
        self, *, at: datetime, decline_class: str, decline_code: str, retries_at: datetime | None
    ) -> PaymentFailed:
        self._resume()
        self._move_to(PaymentStatus.FAILED)
        self.decline_class = decline_class
        self.decline_code = decline_code
        self.due_at = retries_at
        return PaymentFailed.model_validate(
            {
                **self._facts(at),
                "decline_class": decline_class,
                "decline_code": decline_code,
                "attempts": self.attempts,
                "retries_at": retries_at,
            }
        )

    def require_action(
        self, *, at: datetime, url: str | None, retries_at: datetime | None
    ) -> PaymentActionRequired:
        """The payer has to confirm it; at `retries_at` it is asked for afresh."""
        self._move_to(PaymentStatus.REQUIRES_ACTION)
        self.due_at = retries_at
        return PaymentActionRequired(**self._facts(at), attempts=self.attempts, action_url=url)

    def reopen(self, *, at: datetime) -> None:
        """The attempt came to nothing and is no decline: another one is due at once."""
        self._resume()
        self._move_to(PaymentStatus.FAILED)
        self.due_at = at

    def cancel(self, *, at: datetime) -> PaymentCanceled | None:
        """Collect nothing more. With an attempt in flight the end waits for what it comes to."""
        self.due_at = None
        if self.status in (PaymentStatus.SUCCEEDED, PaymentStatus.CANCELED):
            return None
        if self.status in IN_FLIGHT:
            self.cancel_requested = True
            return None
        self._move_to(PaymentStatus.CANCELED)
        return PaymentCanceled(**self._facts(at))

    def end_canceled(self, *, at: datetime) -> PaymentCanceled:
        """The attempt that was in flight took no money: the cancellation is complete."""
        self._resume()
        self._move_to(PaymentStatus.CANCELED)
        return PaymentCanceled(**self._facts(at))

    def ask_now(self, *, at: datetime, method_id: UUID | None = None) -> None:
        """Have it collected at once: somebody pays by hand, or a new method came."""
        if self.status not in (*COLLECTIBLE, PaymentStatus.REQUIRES_ACTION):
            raise PaymentNotCollectible(f"This payment is {self.status}; nothing is to be paid.")
        self.due_at = at
        self.is_urgent = True
        if method_id is not None:
            self.payment_method_id = method_id

    def left(self, *, disputed: int) -> int:
        """What may still go back, apart from what a bank holds or has taken."""
        return max(0, self.amount - self.refunded - disputed)

    def reserve_refund(self, amount: int, *, disputed: int = 0) -> None:
        """Set aside what goes back, so that all of it together never exceeds the charge."""
        if self.status is not PaymentStatus.SUCCEEDED:
            raise PaymentNotRefundable("Only a payment that succeeded can be refunded.")
        left = self.left(disputed=disputed)
        if not 0 < amount <= left:
            rest = Money(left, self.currency)
            why = " The payer's bank has the rest." if disputed else ""
            raise RefundAboveCharge(f"At most {rest} of this can go back.{why}", field="amount")
        self.refunded += amount

    def release_refund(self, amount: int) -> None:
        """A refund came to nothing; its amount may be refunded again."""
        self.refunded -= amount

    def owe(self, amount: int) -> None:
        """What is still to be collected. An attempt that is under way keeps its amount."""
        if self.status in COLLECTIBLE:
            self.amount = amount

    def next_version(self) -> int:
        self.version += 1
        return self.version

    def _resume(self) -> None:
        """A payer's confirmation arrived: the attempt goes on from where it waited."""
        if self.status is PaymentStatus.REQUIRES_ACTION:
            self._move_to(PaymentStatus.PROCESSING)

    def _move_to(self, target: PaymentStatus) -> None:
        if target not in MOVES[self.status]:
            raise IllegalPaymentMove(f"A payment that is {self.status} cannot become {target}.")
        self.status = target

    def _facts(self, at: datetime) -> dict[str, object]:
        return {
            "occurred_at": at,
            "account_id": self.account_id,
            "sequence": self.next_version(),
            "payment_id": self.id,
            "invoice_id": self.invoice_id,
            "subscription_id": self.subscription_id,
            "amount": self.money,
        }


@dataclass(eq=False, kw_only=True)
class Attempt:
    """One call to a provider. Its id is the idempotency key; it is stored before the call.

    While `owner` is set, the process of that name waits for the answer until `deadline`. The
    instants `started_at`, `deadline`, `ask_at` and `settled_at` are real time; `at` is the
    account's.
    """

    id: UUID
    account_id: UUID
    payment_id: UUID
    invoice_id: UUID
    number: int
    provider: str
    payment_method_id: UUID
    amount: int
    currency: str
    at: datetime
    started_at: datetime
    deadline: datetime
    owner: str | None
    #: When the reconciler looks at it next; None: a person has to.
    ask_at: datetime | None
    status: AttemptStatus = AttemptStatus.UNKNOWN
    asked: int = 0
    #: The retry that was planned when somebody paid by hand in between.
    resumes_at: datetime | None = None
    cancel_requested: bool = False
    reference: str | None = None
    decline_class: str | None = None
    decline_code: str | None = None
    message: str | None = None
    action_url: str | None = None
    client_secret: str | None = None
    fee: int = 0
    settled_at: datetime | None = None

    @classmethod
    def begin(
        cls,
        payment: Payment,
        *,
        provider: str,
        method_id: UUID,
        owner: str,
        at: datetime,
        real_now: datetime,
        longest_call: timedelta,
        resumes_at: datetime | None = None,
    ) -> "Attempt":
        """What is committed before the provider is called."""
        number = payment.begin()
        deadline = real_now + longest_call + MARGIN
        return cls(
            id=new_id(),
            account_id=payment.account_id,
            payment_id=payment.id,
            invoice_id=payment.invoice_id,
            number=number,
            provider=provider,
            payment_method_id=method_id,
            amount=payment.amount,
            currency=payment.currency,
            at=at,
            started_at=real_now,
            deadline=deadline,
            owner=owner,
            ask_at=deadline,
            resumes_at=resumes_at,
        )

    @property
    def money(self) -> Money:
        return Money(self.amount, self.currency)

    @property
    def is_open(self) -> bool:
        return self.status in OPEN_ATTEMPTS

    def settle(self, status: AttemptStatus, *, real_now: datetime) -> None:
        self.status = status
        self.owner = None
        self.settled_at = real_now
        self.ask_at = None
        self.client_secret = None

    def wait_for_payer(
        self, *, url: str | None, client_secret: str | None, real_now: datetime
    ) -> None:
        """It is the payer's turn; a lost webhook is made up for by asking now and then."""
        self.status = AttemptStatus.REQUIRES_ACTION
        self.action_url = url
        self.client_secret = client_secret
        self.owner = None
        asked = min(len(ASK_OFTEN) + self.asked, len(ASK_AFTER) - 1)
        self.ask_at = ask_again_at(self.id, asked, real_now)

    def postpone(self, *, real_now: datetime) -> bool:
        """Nothing is known yet: ask again later. False once a person has to look."""
        self.owner = None
        if self.asked >= len(ASK_AFTER):
            self.ask_at = None
            return False
        self.ask_at = ask_again_at(self.id, self.asked, real_now)
        self.asked += 1
        return True

    def hint(self, *, real_now: datetime) -> None:
        """Somebody says that it changed: ask now, unless its owner waits for the answer."""
        if self.is_open and (self.owner is None or self.deadline <= real_now):
            self.ask_at = real_now

    def request_cancel(self, *, real_now: datetime) -> None:
        if self.is_open:
            self.cancel_requested = True
            self.hint(real_now=real_now)
