"""What a payment provider must be able to do: the one protocol that every plug-in fulfils.

A provider never raises for what can happen to money: each call answers with one of the small
results below. What it cannot know (a time-out, a broken answer, a 5xx) is `Uncertain`.
"""

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Literal, Protocol

from shared.errors import BadRequest, Conflict, Invalid
from shared.money import Money


class DeclineClass(StrEnum):
    """What to do about a decline, whatever words the provider has for it."""

    RETRY_LATER = "retry_later"  # insufficient funds, issuer down
    NEW_CARD = "new_card"  # expired, lost, stolen: this card will never work
    STOP = "stop"  # fraud: do not ask again


class MethodRefused(Invalid):
    """The provider does not accept this token."""

    code = "payment-method-refused"


class ForgedWebhook(BadRequest):
    """The signature does not fit the body, or is too old."""

    code = "webhook-signature-invalid"


class CurrencyNotSupported(Conflict):
    """The provider does not take this currency or amount."""

    code = "currency-not-supported"


@dataclass(frozen=True, slots=True, kw_only=True)
class ChargeRequest:
    """One attempt. `key` is the attempt's id: the same key never charges twice."""

    key: str
    amount: Money
    method: str
    customer: str | None = None
    capture: bool = True
    #: False for a renewal: the payer is not there to confirm anything.
    customer_present: bool = False
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Charged:
    """The money is taken. `fee` is what the provider keeps of it, in the same currency."""

    reference: str
    amount: Money
    fee: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Authorized:
    """The money is reserved, and taken by `capture`."""

    reference: str
    amount: Money


@dataclass(frozen=True, slots=True, kw_only=True)
class ActionRequired:
    """The payer has to confirm it with their bank (3-D Secure).

    Either at `url`, or with the provider's own script in the page, which wants `client_secret`.
    """

    reference: str
    url: str | None = None
    client_secret: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """A tokenized way to pay, as the provider knows it. Never a card number."""

    reference: str
    customer: str | None = None
    brand: str | None = None
    last4: str | None = None
    exp_month: int | None = None
    exp_year: int | None = None
    #: Set while its owner has to confirm it with their bank before it can be charged without them.
    action: ActionRequired | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Declined:
    """A final no to this attempt. `code` is the provider's own word."""

    decline_class: DeclineClass
    code: str
    message: str = ""
    reference: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Canceled:
    """It was given up before any money moved, and no money will move."""

    reference: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Uncertain:
    """Nobody knows yet whether money moved. Only a look-up can tell."""

    reason: str
    reference: str | None = None


@dataclass(frozen=True, slots=True)
class NeverHeard:
    """The provider has no record of the key: nothing was done under it."""


ChargeOutcome = Charged | Authorized | ActionRequired | Declined | Canceled | Uncertain
LookUp = ChargeOutcome | NeverHeard


@dataclass(frozen=True, slots=True, kw_only=True)
class RefundRequest:
    key: str
    charge: str
    amount: Money


@dataclass(frozen=True, slots=True, kw_only=True)
class Refunded:
    reference: str
    amount: Money


@dataclass(frozen=True, slots=True, kw_only=True)
class RefundRefused:
    """A final no."""

    code: str
    message: str = ""


RefundOutcome = Refunded | RefundRefused | Uncertain
RefundLookUp = RefundOutcome | NeverHeard

DisputeStatus = Literal["open", "won", "lost"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Dispute:
    """The payer's bank took the money back, for now or for good."""

    reference: str
    charge: str
    #: Our key of the disputed charge.
    key: str | None
    amount: Money
    fee: int
    status: DisputeStatus
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Payout:
    """The provider sent its balance to the operator's bank; a failed one came back."""

    reference: str
    amount: Money
    failed: bool = False


MovementKind = Literal["charge", "refund", "dispute", "payout"]
NoticeAbout = Literal["charge", "refund", "dispute", "payout", "method", "other"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """A verified webhook: a hint that something changed. The truth is asked for by look-up."""

    event_id: str
    kind: str
    about: NoticeAbout
    reference: str
    key: str | None = None
    #: About a method: what of it is new.
    method: Method | None = None
    #: About a method: its owner has confirmed it.
    confirmed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Movement:
    """One line of the provider's own books, for the audit. `amount` is what it took or gave.

    What has come to nothing (a refund or payout that came back) is no line. A dispute is one,
    however it ends; its `status` says how.
    """

    kind: MovementKind
    reference: str
    #: Our key of the charge or refund; of a dispute, that of the disputed charge.
    key: str | None
    amount: Money
    fee: int
    created_at: datetime
    status: DisputeStatus | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one charge may amount to in a currency, in minor units."""

    minimum: int
    maximum: int


class PaymentProvider(Protocol):
    """A plug-in. Every call has a time-out of its own, and none is repeated inside it."""

    @property
    def name(self) -> str: ...

    @property
    def key_window(self) -> timedelta:
        """For how long the provider knows a key again. Outside it the same key is a new charge."""
        ...

    @property
    def look_up_lag(self) -> timedelta:
        """For how long a charge that was made may be missing from what `look_up` sees."""
        ...

    @property
    def longest_call(self) -> timedelta:
        """After this, a call that was begun has come to an end."""
        ...

    @property
    def calls_per_second(self) -> float: ...

    def limits(self, currency: str) -> Limits | None:
        """What may be charged in this currency; None where it may not be charged at all."""
        ...

    async def attach(self, *, key: str, token: str, account: str) -> Method:
        """Exchange a token for a method that can be charged again. Raises `MethodRefused`."""
        ...

    async def detach(self, method: Method) -> None: ...

    async def charge(self, request: ChargeRequest) -> ChargeOutcome: ...

    async def capture(self, *, key: str, charge: str, amount: Money) -> ChargeOutcome: ...

    async def cancel(self, *, key: str, charge: str) -> ChargeOutcome:
        """Give up an unfinished charge. `Charged` if the money is taken already."""
        ...

    async def look_up(self, *, key: str, reference: str | None = None) -> LookUp:
        """What became of the charge under our key."""
        ...

    async def refund(self, request: RefundRequest) -> RefundOutcome: ...

    async def look_up_refund(self, *, key: str, charge: str) -> RefundLookUp:
        """What became of a refund under our key; `RefundRefused` also for one that came back."""
        ...

    async def look_up_dispute(self, reference: str) -> Dispute | None: ...

    async def look_up_payout(self, reference: str) -> Payout | None: ...

    def movements(self, *, since: datetime | None = None) -> AsyncIterator[Movement]:
        """The provider's own books: what it took, gave back, lost and paid out."""
        ...

    def verify(self, *, headers: Mapping[str, str], body: bytes, now: datetime) -> None:
        """Check a webhook's signature over its raw body. Raises `ForgedWebhook`."""
        ...

    def read(self, body: bytes) -> Notice:
        """What a verified webhook is about. Raises `ForgedWebhook` when it is no event."""
        ...

    async def close(self) -> None: ...
