"""What every endpoint here asks for."""

from typing import Annotated, Any

from fastapi import Depends, Header, Request
from pydantic import Field

from services.subscriptions.repository import SubscriptionsUnitOfWork
from shared.web import (
    Edge,
    PageRequest,
    Reading,
    RequestModel,
    command,
    for_role,
    keyed_command,
    listing,
    page_request,
    reading,
)
from shared.web.edge import ANONYMOUS, CALLER_REFUSED, AccountHeader, caller
from shared.web.refusals import refuses

Command = Annotated[Edge[SubscriptionsUnitOfWork], Depends(command)]
KeyedCommand = Annotated[Edge[SubscriptionsUnitOfWork], Depends(keyed_command)]
Query = Annotated[Reading[SubscriptionsUnitOfWork], Depends(reading)]
Listing = Annotated[Reading[SubscriptionsUnitOfWork], Depends(listing)]
Paging = Annotated[PageRequest, Depends(page_request)]


@refuses(*CALLER_REFUSED)
async def browsing(
    request: Request,
    act_for: AccountHeader = None,
    authorization: Annotated[str | None, Header(include_in_schema=False)] = None,
) -> Reading[Any]:
    """For what anybody may read; who signs in also sees what is theirs alone."""
    if authorization is None:
        return Reading(request, ANONYMOUS, None)
    return await reading(request, await caller(request, authorization), act_for)


Browse = Annotated[Reading[SubscriptionsUnitOfWork], Depends(browsing)]


def is_anonymous(query: Reading[Any]) -> bool:
    return query.caller is ANONYMOUS


#: Whoever may spend the account's money. Support looks, and does not.
PAYER = for_role("admin", "billing", staff=("finance",))
#: Whoever may stop the spending; of the staff also who talks with the customer.
LEAVER = for_role("admin", "billing", staff=("finance", "support"))
#: Whoever uses what the account pays for: what is used is billed, or was bought.
USER = for_role(staff=("finance",))


class EditRequest(RequestModel):
    """What should be different; what is left out stays as it is."""

    def changes(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.model_fields_set}


#: A field of an edit that may be left out. It is never read where it was.
UNCHANGED: Any = Field(default_factory=lambda: None)
