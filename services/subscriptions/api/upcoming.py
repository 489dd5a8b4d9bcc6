"""What will be invoiced next: foreseen here, where it is held, and computed by invoicing."""

from uuid import UUID

from services.subscriptions import queries
from services.subscriptions.api.edge import Query
from services.subscriptions.api.previews import (
    PricedInvoice,
    headers_for,
    invoice_view,
    price_next,
)
from services.subscriptions.domain.subscription import SubscriptionNotFound
from services.subscriptions.invoicing_client import InvoicingAway, invoicing_of
from services.subscriptions.use_cases.preview_subscription import preview_next
from shared.errors import NotFound
from shared.web import Router, problems

router = Router(prefix="/v1/invoices", tags=["invoices"])


class NothingUpcoming(NotFound):
    """Time alone will bill nothing: the subscription ends or rests, or nothing was used."""

    code = "nothing-upcoming"


@router.get("/upcoming", responses=problems(SubscriptionNotFound, NothingUpcoming, InvoicingAway))
async def read_upcoming(subscription_id: UUID, query: Query) -> PricedInvoice:
    """The subscription's next invoice as it would be today; `finalizes_at` says when.

    Usage is in it as far as it has happened. Where the account has one invoice for all its
    subscriptions, what the others renew on that day is in it as well.
    """
    async with query.begin() as uow:
        try:
            subscription = await queries.read_subscription(uow, subscription_id)
        except SubscriptionNotFound:
            # Without its id: an answer never repeats what somebody else holds.
            raise SubscriptionNotFound("There is no such subscription.") from None
        account_id = subscription.account_id
        upcoming = await preview_next(uow, subscription)
    client = invoicing_of(query.runtime.own)
    priced = await price_next(client, upcoming, headers_for(query, account_id))
    invoice = invoice_view(priced)
    if invoice is None:
        raise NothingUpcoming("This subscription has no next invoice.")
    invoice.finalizes_at = invoice.finalizes_at or upcoming.next_at
    return invoice
