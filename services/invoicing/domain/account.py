"""What invoicing knows of an account: where it is, whom to bill, and what it has in credit."""

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from services.invoicing.domain.tax import Buyer
from services.invoicing.domain.vat import country_of
from shared.errors import Conflict, NotFound
from shared.ids import new_id

#: Of documents, until somebody says otherwise.
DEFAULT_LANGUAGE = "en"


class AccountNotFound(NotFound):
    code = "account-not-found"


class NotEnoughCredit(Conflict):
    code = "not-enough-account-credit"


@dataclass(eq=False, kw_only=True)
class Account:
    """A projection of auth's account, with the billing details that belong here."""

    account_id: UUID
    country: str
    time_zone: str
    #: The last event of auth that was taken in; an older one changes nothing.
    sequence: int
    legal_entity_id: UUID | None = None
    name: str | None = None
    address: dict[str, Any] = field(default_factory=dict)
    email: str | None = None
    #: Kept only when its checksum holds.
    vat_id: str | None = None
    language: str = DEFAULT_LANGUAGE
    purchase_order: str | None = None
    exemption_reason: str | None = None
    #: One invoice a day for what all its subscriptions renew, instead of one each.
    consolidated_billing: bool = False
    version: int = 1

    @property
    def billing_country(self) -> str:
        """Where the account is billed; where it signed up until somebody says otherwise."""
        return str(self.address.get("country") or self.country)

    @property
    def buyer(self) -> Buyer:
        # A number of another country does not make this address a business there.
        of_country = bool(self.vat_id) and country_of(self.vat_id or "") == self.billing_country
        return Buyer(
            country=self.billing_country,
            vat_id=self.vat_id if of_country else None,
            exemption_reason=self.exemption_reason,
        )

    def frozen(self) -> dict[str, Any]:
        """The bill-to copy that a document keeps, whatever the account becomes."""
        return {
            "account_id": str(self.account_id),
            "name": self.name,
            "address": {**self.address, "country": self.billing_country},
            "email": self.email,
            "vat_id": self.vat_id,
            "language": self.language,
            "purchase_order": self.purchase_order,
            "time_zone": self.time_zone,
        }

    def erase(self) -> None:
        """Forget whom to bill. Documents keep their frozen copies, as the law requires."""
        self.name = self.email = self.vat_id = self.purchase_order = None
        self.address = {}
        self.version += 1


class CreditKind(StrEnum):
    """Why an account's credit changed."""

    CARRIED_OVER = "carried_over"  # an invoice would have been below zero
    APPLIED = "applied"  # to an invoice
    RETURNED = "returned"  # by an invoice that was voided
    OVERPAID = "overpaid"  # money for an invoice that did not need it
    CREDIT_NOTE = "credit_note"
    GRANTED = "granted"  # by staff


@dataclass(eq=False, kw_only=True)
class CreditEntry:
    """One change of an account's credit; never changed itself."""

    id: UUID
    account_id: UUID
    currency: str
    kind: CreditKind
    amount: int
    balance_after: int
    invoice_id: UUID | None
    at: datetime
    note: str | None = None


@dataclass(eq=False, kw_only=True)
class AccountCredit:
    """What the operator owes an account in one currency; read and changed under its lock."""

    account_id: UUID
    currency: str
    balance: int = 0

    def add(
        self,
        amount: int,
        kind: CreditKind,
        *,
        at: datetime,
        invoice_id: UUID | None = None,
        note: str | None = None,
    ) -> CreditEntry:
        """Change the balance; it never goes below zero."""
        if self.balance + amount < 0:
            raise NotEnoughCredit("The account has less credit than that.")
        self.balance += amount
        return CreditEntry(
            id=new_id(),
            account_id=self.account_id,
            currency=self.currency,
            kind=kind,
            amount=amount,
            balance_after=self.balance,
            invoice_id=invoice_id,
            at=at,
            note=note,
        )
