"""Keep the projection of an account up to date."""

from services.invoicing.domain.account import DEFAULT_LANGUAGE, Account
from services.invoicing.repository import InvoicingUnitOfWork
from shared.events.auth import AccountClosed, AccountRegistered, AccountUpdated


async def take_in_account(
    uow: InvoicingUnitOfWork, event: AccountRegistered | AccountUpdated
) -> None:
    """Store country, zone and language; one that is older than what is known changes nothing."""
    known = await uow.accounts.find_locked(event.account_id)
    if known is None:
        uow.session.add(
            Account(
                account_id=event.account_id,
                country=event.country,
                time_zone=event.time_zone,
                language=event.language or DEFAULT_LANGUAGE,
                sequence=event.sequence,
            )
        )
        await uow.session.flush()
    elif event.sequence > known.sequence:
        known.country = event.country
        known.time_zone = event.time_zone
        known.language = event.language or known.language
        known.sequence = event.sequence


async def forget_account(uow: InvoicingUnitOfWork, event: AccountClosed) -> None:
    """Erase whom to bill; finalized documents keep their copies."""
    known = await uow.accounts.find_locked(event.account_id)
    if known is not None:
        known.erase()
        known.sequence = max(known.sequence, event.sequence)
