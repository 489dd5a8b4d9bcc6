"""What would be invoiced if something happened."""

from typing import Annotated, Any
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from services.invoicing.api.credit_notes import CreditNoteView
from services.invoicing.api.edge import Query
from services.invoicing.api.views import InvoiceView
from services.invoicing.domain.account import AccountNotFound
from services.invoicing.use_cases.preview_bill import Previewed, Told, preview_bill
from shared.errors import Forbidden, Invalid
from shared.events import catalog
from shared.events.subscriptions import Billable
from shared.money import AmountTooLarge, Money, require_billable
from shared.web import RequestModel, Router, problems

router = Router(prefix="/v1/invoices", tags=["invoices"])

MOST_EVENTS = 200


class EventRequest(BaseModel):
    """An event as it travels: CloudEvents in JSON."""

    model_config = ConfigDict(extra="ignore")

    id: UUID
    type: str
    accountid: UUID
    sequence: int
    time: str
    data: dict[str, Any]

    @property
    def event(self) -> Told:
        """The event that it is. Raises `Invalid` for one that bills nothing, or is none."""
        kind = catalog().get(self.type)
        if kind is None or not issubclass(kind, Told):
            raise Invalid(f"{self.type} is no event that bills something.", field="events")
        fields = {
            "id": self.id,
            "occurred_at": self.time,
            "account_id": self.accountid,
            "sequence": self.sequence,
        }
        try:
            event = kind.model_validate({**self.data, **fields})
        except ValueError as error:
            raise Invalid(f"This is not what {self.type} says: {error}", field="events") from None
        if isinstance(event, Billable):
            require_billable(sum(abs(charge.amount) for charge in event.charges), field="events")
        return event


class PreviewRequest(RequestModel):
    """Events in the order in which they would happen."""

    events: Annotated[list[EventRequest], Field(min_length=1, max_length=MOST_EVENTS)]


class BillPreview(BaseModel):
    """What the last of the events would come to: it has no number, and nothing of it is kept.

    `account_credit` is what the account would have in credit after it.
    """

    invoice: InvoiceView | None
    credit_notes: list[CreditNoteView]
    account_credit: Money

    @classmethod
    def of(cls, previewed: Previewed) -> "BillPreview":
        return cls(
            invoice=InvoiceView.of(previewed.invoice) if previewed.invoice else None,
            credit_notes=[CreditNoteView.of(note, {}) for note in previewed.credit_notes],
            account_credit=previewed.account_credit,
        )


@router.post("/preview", responses=problems(AccountNotFound, AmountTooLarge, Invalid, Forbidden))
async def preview(request: PreviewRequest, query: Query) -> BillPreview:
    """What events of subscriptions would be invoiced as, by the code that would invoice them.

    Those before the last have happened by then: their credit is used, and what they leave for
    the next invoice is taken in. One of them may say that a change was not paid for, and lapses.
    """
    events = [one.event for one in request.events]
    accounts = {event.account_id for event in events}
    if len(accounts) > 1:
        raise Invalid("The events are of one account.", field="events")
    mine = query.scope.account_id
    if mine is not None and accounts != {mine}:
        raise Forbidden("The events are of another account.")
    *before, last = events
    if not isinstance(last, Billable):
        raise Invalid("The last of the events bills something.", field="events")
    return await preview_bill(query.begin, before, last, BillPreview.of)
