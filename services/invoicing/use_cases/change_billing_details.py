"""Change whom an account's next invoices are made out to."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from services.invoicing.domain.account import Account, AccountNotFound
from services.invoicing.domain.vat import check_vat_id
from services.invoicing.repository import InvoicingUnitOfWork


@dataclass(frozen=True, kw_only=True)
class BillingDetails:
    """All of it: what is None is cleared. Staff's fields change only when staff ask."""

    name: str | None
    address: dict[str, Any]
    email: str | None
    vat_id: str | None
    language: str
    purchase_order: str | None
    exemption_reason: str | None
    legal_entity_id: UUID | None
    consolidated_billing: bool
    by_staff: bool


async def change_billing_details(
    uow: InvoicingUnitOfWork,
    account_id: UUID,
    details: BillingDetails,
    *,
    require_version: Callable[[int], None],
) -> Account:
    """Store them; a VAT number whose checksum is wrong is refused."""
    account = await uow.accounts.find_locked(account_id)
    if account is None:
        account = _before_its_registration(account_id, details)
        uow.session.add(account)
    require_version(account.version)
    account.vat_id = check_vat_id(details.vat_id) if details.vat_id else None
    account.name = details.name
    account.address = details.address
    account.email = details.email
    account.language = details.language
    account.purchase_order = details.purchase_order
    if details.by_staff:
        if details.legal_entity_id is not None:
            await uow.legal_entities.get(details.legal_entity_id)
        account.exemption_reason = details.exemption_reason
        account.legal_entity_id = details.legal_entity_id
        account.consolidated_billing = details.consolidated_billing
    account.version += 1
    return account


def _before_its_registration(account_id: UUID, details: BillingDetails) -> Account:
    """The registration is an event and may still be on its way; it fills in the rest."""
    country = details.address.get("country")
    if not country:
        raise AccountNotFound("There is no such account, or it has only just been made.")
    return Account(account_id=account_id, country=country, time_zone="UTC", sequence=0)
