"""The ways to pay that an account has, and the invoices it owes, as payments sees them."""

from calendar import monthrange
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from uuid import UUID

from shared.errors import NotFound
from shared.events.payments import (
    PaymentMethodAttached,
    PaymentMethodDetached,
    PaymentMethodExpiring,
    PaymentMethodUpdated,
)


class PaymentMethodNotFound(NotFound):
    code = "payment-method-not-found"


@dataclass(eq=False, kw_only=True)
class PaymentMethod:
    """A provider's token and what may be shown of it. Never a card number."""

    id: UUID
    account_id: UUID
    provider: str
    reference: str
    customer: str | None
    brand: str | None
    last4: str | None
    exp_month: int | None
    exp_year: int | None
    created_at: datetime
    is_default: bool = False
    detached_at: datetime | None = None
    #: When its owner was told that it expires.
    warned_at: datetime | None = None
    #: When to tell them.
    warn_at: datetime | None = None
    #: Where its owner confirms it with their bank, or what the provider's own script wants for it;
    #: both None once that is done, or where nobody asks for it.
    action_url: str | None = None
    client_secret: str | None = None
    version: int = 0

    def attach(self, *, at: datetime) -> PaymentMethodAttached:
        return PaymentMethodAttached.model_validate(
            {**self._facts(at), "provider": self.provider, "is_default": self.is_default}
        )

    def detach(self, *, at: datetime) -> PaymentMethodDetached:
        self.detached_at = at
        self.is_default = False
        self.warn_at = None
        return PaymentMethodDetached.model_validate(self._facts(at))

    def renew(self, *, exp_month: int, exp_year: int, at: datetime) -> PaymentMethodUpdated:
        """The card network sent a new expiry."""
        self.exp_month, self.exp_year = exp_month, exp_year
        self.warned_at = None
        return PaymentMethodUpdated.model_validate(
            {**self._facts(at), "exp_month": exp_month, "exp_year": exp_year}
        )

    def confirm(self) -> None:
        """Its owner has confirmed it with their bank: renewals need nobody's presence."""
        self.action_url = self.client_secret = None

    def warn(self, *, at: datetime) -> PaymentMethodExpiring:
        self.warned_at, self.warn_at = at, None
        return PaymentMethodExpiring.model_validate(
            {**self._facts(at), "exp_month": self.exp_month, "exp_year": self.exp_year}
        )

    @property
    def expires_at(self) -> datetime | None:
        """A card works to the end of its month."""
        if self.exp_month is None or self.exp_year is None:
            return None
        day = monthrange(self.exp_year, self.exp_month)[1]
        return datetime(self.exp_year, self.exp_month, day, 23, 59, 59, tzinfo=UTC)

    def _facts(self, at: datetime) -> dict[str, object]:
        self.version += 1
        return {
            "occurred_at": at,
            "account_id": self.account_id,
            "sequence": self.version,
            "payment_method_id": self.id,
        }


class OwedStatus(StrEnum):
    OPEN = "open"
    PAID = "paid"
    VOIDED = "voided"
    UNCOLLECTIBLE = "uncollectible"


@dataclass(eq=False, kw_only=True)
class OwedInvoice:
    """Payments' own projection of an invoice, kept from invoicing's events."""

    invoice_id: UUID
    account_id: UUID
    subscription_id: UUID | None
    number: str
    amount_due: int
    currency: str
    status: OwedStatus
    finalized_at: datetime
    #: Whose payment paid it; None for offline.
    paid_by: UUID | None = None
    #: What credit notes took back before it was paid, as far as it is known here.
    amount_reduced: int = 0

    def owe_less(self, amount_reduced: int, amount_remaining: int) -> None:
        """A credit note took back so much, and the rest is still owed."""
        self.amount_reduced += amount_reduced
        self.amount_due = amount_remaining

    def is_settled_without(self, payment_id: UUID) -> bool:
        """Whether it will never take this payment's money: it was voided or paid otherwise."""
        return self.status is OwedStatus.VOIDED or (
            self.status is OwedStatus.PAID and self.paid_by != payment_id
        )
