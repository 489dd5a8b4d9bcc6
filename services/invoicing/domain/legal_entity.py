"""Who issues invoices: a company of the operator's, with its numbers and its currency."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

from services.invoicing.domain.tax import Seller
from shared.errors import Conflict, NotFound


class LegalEntityNotFound(NotFound):
    code = "legal-entity-not-found"


class NoLegalEntity(Conflict):
    code = "no-legal-entity"


class DefaultLegalEntityExists(Conflict):
    code = "default-legal-entity-exists"


@dataclass(eq=False, kw_only=True)
class LegalEntity:
    """Issues invoices under its own name, tax number and numbering."""

    id: UUID
    name: str
    country: str
    vat_id: str | None = None
    tax_number: str | None = None
    address: dict[str, Any] = field(default_factory=dict)
    email: str | None = None
    iban: str | None = None
    bic: str | None = None
    accounting_currency: str = "EUR"
    #: Whose days its documents and the years of its numbers go by.
    time_zone: str = "UTC"
    small_business: bool = False
    payment_terms_days: int = 0
    #: For so long an invoice of a subscription is a draft that staff may look at.
    draft_hours: int = 0
    #: When the payers of invoices that are not collected by themselves are reminded:
    #: days after the due date, before it when negative.
    reminder_days: list[int] = field(default_factory=lambda: [-3, 1, 7, 14])
    is_default: bool = False
    #: Looks of its documents: logo (an attachment), color, footer.
    branding: dict[str, Any] = field(default_factory=dict)
    created_at: datetime
    version: int = 1

    @property
    def seller(self) -> Seller:
        return Seller(country=self.country, vat_id=self.vat_id, small_business=self.small_business)

    def frozen(self) -> dict[str, Any]:
        """The copy that a document keeps, whatever the entity becomes."""
        return {
            "name": self.name,
            "country": self.country,
            "vat_id": self.vat_id,
            "tax_number": self.tax_number,
            "address": self.address,
            "email": self.email,
            "iban": self.iban,
            "bic": self.bic,
            "branding": self.branding,
            "time_zone": self.time_zone,
        }

    def local(self, instant: datetime) -> datetime:
        """The instant by the entity's own clock."""
        return instant.astimezone(ZoneInfo(self.time_zone))
