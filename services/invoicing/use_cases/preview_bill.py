"""Compute what events would be billed as, with the code that bills them, and keep nothing."""

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from services.invoicing.domain.account import AccountNotFound
from services.invoicing.domain.credit_note import CreditNote
from services.invoicing.domain.invoice import Invoice, Status
from services.invoicing.repository import InvoicingUnitOfWork
from services.invoicing.repository.locked import DRY
from services.invoicing.use_cases.bill_subscription import bill_subscription
from services.invoicing.use_cases.draft_invoice import finalize_draft
from services.invoicing.use_cases.take_back import give_when_paid
from services.invoicing.use_cases.take_back_start import take_back_change
from shared.events.subscriptions import Billable, SubscriptionChangeLapsed
from shared.money import Money

T = TypeVar("T")
#: What may happen before: something is billed, or what waited to be paid is not owed any more.
Told = Billable | SubscriptionChangeLapsed
Begin = Callable[[], AbstractAsyncContextManager[InvoicingUnitOfWork]]


@dataclass(frozen=True)
class Previewed:
    """What the last event would be billed as, and what the account has in credit then."""

    invoice: Invoice | None
    account_credit: Money
    credit_notes: Sequence[CreditNote] = field(default_factory=list)


class _Computed(Exception, Generic[T]):
    """Not an error: ends the transaction without a commit, with what was computed in it."""

    def __init__(self, answer: T) -> None:
        super().__init__("computed")
        self.answer = answer


async def preview_bill(
    begin: Begin, before: Sequence[Told], last: Billable, told: Callable[[Previewed], T]
) -> T:
    """What an event would come to, after those `before` it of the same account, as `told`.

    What those before it are billed is taken for paid by then.
    """
    try:
        async with begin() as uow:
            uow.session.info[DRY] = True
            await _end(told(await _compute(uow, before, last)))
    except _Computed as computed:
        answer: T = computed.answer
        return answer
    raise AssertionError("a preview was committed")


async def _end(answer: T) -> None:
    raise _Computed(answer)


async def _compute(uow: InvoicingUnitOfWork, before: Sequence[Told], last: Billable) -> Previewed:
    if await uow.accounts.find(last.account_id) is None:
        raise AccountNotFound("There is no such account, or it has only just been made.")
    for event in before:
        if isinstance(event, SubscriptionChangeLapsed):
            await take_back_change(uow, event)
            continue
        billed = await bill_subscription(uow, event)
        await uow.settle_invoices(event.account_id)
        if billed is not None and billed.status is Status.OPEN:
            billed.receive(billed.amount_remaining, at=event.occurred_at, payment_id=None)
            await give_when_paid(uow, billed, at=event.occurred_at)
    noted = len(uow.credit_notes.made)
    invoice = await bill_subscription(uow, last)
    await uow.fill_drafts()
    if invoice is not None and invoice.status is Status.DRAFT and not uow.is_numbered_last(invoice):
        # As it will be once it is finalized.
        await finalize_draft(uow, invoice, at=invoice.finalizes_at or last.occurred_at)
    credit = await uow.credits.find(last.account_id, last.currency)
    return Previewed(
        invoice,
        Money(credit.balance if credit else 0, last.currency),
        uow.credit_notes.made[noted:],
    )
