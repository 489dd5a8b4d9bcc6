"""Make an invoice by hand, change it while it is a draft, and make a voided one again."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from itertools import groupby
from typing import Any
from uuid import UUID

from services.invoicing.domain.account import AccountNotFound
from services.invoicing.domain.invoice import (
    IllegalInvoiceTransition,
    Invoice,
    InvoiceLine,
    InvoiceReissuedAlready,
    Status,
)
from services.invoicing.domain.totals import CARRIED_OVER, Bundle, split_take_backs
from services.invoicing.repository import InvoicingUnitOfWork
from services.invoicing.use_cases.finalize_invoice import (
    Filled,
    fill_invoice,
    finalize_computed,
)
from shared.events.subscriptions import Charge, Discount, TakeBack
from shared.ids import new_id
from shared.money import round_half_away


@dataclass(frozen=True, kw_only=True)
class NewLine:
    """What staff say is owed: quantity times unit amount, rounded once."""

    description: str
    quantity: Decimal
    unit_amount: Decimal
    tax_category: str
    tax_behavior: str
    period_start: datetime
    period_end: datetime

    @property
    def exact(self) -> Decimal:
        """What it comes to, in minor units and unrounded."""
        return self.quantity * self.unit_amount

    def charge(self, currency: str) -> Charge:
        amount = round_half_away(self.exact)
        return Charge.model_validate(
            {
                "id": new_id(),
                "kind": "one_off",
                "description": self.description,
                "quantity": f"{self.quantity:f}",
                "unit_amount": f"{self.unit_amount:f}",
                "amount": amount,
                "currency": currency,
                "period_start": self.period_start,
                "period_end": self.period_end,
                "tax_category": self.tax_category,
                "tax_behavior": self.tax_behavior,
                "why": {
                    "rule": "quantity times unit amount, rounded half away from zero",
                    "exact": f"{self.exact:f}",
                    "rounded": amount,
                },
            }
        )


@dataclass(frozen=True, kw_only=True)
class NewInvoice:
    account_id: UUID
    currency: str
    lines: Sequence[NewLine]
    discounts: Sequence[Discount] = ()
    memo: str | None = None
    subscription_id: UUID | None = None
    payment_terms_days: int | None = None
    collect_automatically: bool = True
    finalizes_at: datetime | None = None

    @property
    def bundle(self) -> Bundle:
        return Bundle(
            tuple(line.charge(self.currency) for line in self.lines),
            tuple(self.discounts),
            self.subscription_id,
        )


async def draft_invoice(uow: InvoicingUnitOfWork, new: NewInvoice, *, at: datetime) -> Invoice:
    """A draft: computed, without a number, nothing owed yet."""
    account = await uow.accounts.find(new.account_id)
    if account is None:
        raise AccountNotFound("There is no such account, or it has only just been made.")
    entity = await uow.legal_entities.of(account)
    invoice = Invoice(
        id=new_id(),
        account_id=new.account_id,
        legal_entity_id=entity.id,
        subscription_id=new.subscription_id,
        billing_reason="manual",
        billing_key=None,
        currency=new.currency,
        created_at=at,
        supplied_at=at,
        memo=new.memo,
        payment_terms_days=new.payment_terms_days,
        collect_automatically=new.collect_automatically,
        finalizes_at=new.finalizes_at,
        basis=[new.bundle.as_json()],
    )
    await recompute_draft(uow, invoice)
    uow.invoices.add(invoice)
    uow.emit(invoice.draft(at=at))
    return invoice


async def refill_draft(
    uow: InvoicingUnitOfWork, invoice: Invoice, *, at: datetime | None = None
) -> Filled:
    """Compute it again; the lines that it had go before the new ones take their places."""
    invoice.require_draft()
    if invoice.lines:
        invoice.lines.clear()
        if not uow.is_dry:
            await uow.session.flush()
    return await recompute_draft(uow, invoice, at=at)


async def recompute_draft(
    uow: InvoicingUnitOfWork, invoice: Invoice, *, at: datetime | None = None
) -> Filled:
    """By the account, the rates and the rules of now; to be finalized `at`, if that is said."""
    invoice.require_draft()
    account = await uow.accounts.find(invoice.account_id)
    if account is None:
        raise AccountNotFound("There is no such account.")
    entity = await uow.legal_entities.get(invoice.legal_entity_id)
    bundles = [Bundle.from_json(kept) for kept in invoice.basis]
    return await fill_invoice(uow, invoice, bundles, account=account, entity=entity, at=at)


async def change_draft(
    uow: InvoicingUnitOfWork,
    invoice: Invoice,
    *,
    lines: Sequence[NewLine] | None,
    memo: str | None,
) -> None:
    """Other lines or another memo; a finalized invoice never changes."""
    invoice.require_draft()
    if memo is not None:
        invoice.memo = memo
    if lines is not None:
        charges = tuple(line.charge(invoice.currency) for line in lines)
        discounts = [
            Discount.model_validate(discount)
            for kept in invoice.basis
            for discount in kept["discounts"]
        ]
        bundles = [Bundle.from_json(kept) for kept in invoice.basis]
        bundle = Bundle(
            charges,
            tuple(discounts),
            invoice.subscription_id,
            # What is taken back of earlier invoices is owed to the customer whatever stands here.
            take_backs=tuple(split_take_backs(bundles)[1]),
            give_back="refund" if any(b.give_back == "refund" for b in bundles) else "credit",
        )
        invoice.basis = [bundle.as_json()]
    await refill_draft(uow, invoice)


async def reissue_invoice(uow: InvoicingUnitOfWork, invoice_id: UUID, *, at: datetime) -> Invoice:
    """A draft with the lines of a voided invoice, to be corrected and finalized; once.

    What it took back is taken back again when it is finalized, as far as it can be then. And what
    was taken back of it, before it was void or since, is not billed anew; a credit note by hand is.
    """
    voided = await uow.invoices.get(invoice_id)
    if voided.status is not Status.VOID:
        raise IllegalInvoiceTransition("Only a voided invoice is made again. Void it first.")
    if voided.billing_reason == "subscription_pending_change":
        # Nobody waits for its money any more, and what it took back is held after all.
        raise IllegalInvoiceTransition("It is of a change that never counted. Change it again.")
    if voided.reissued_as is not None:
        raise InvoiceReissuedAlready(f"It was made again as {voided.reissued_as}.")
    lines = [line for line in voided.lines if line.kind != CARRIED_OVER]
    gone = await _taken_back_of(uow, voided)
    of_subscription = groupby(lines, key=lambda line: line.subscription_id)
    bundles = [
        await _bundle_again(uow, list(group), subscription_id, voided, gone)
        for subscription_id, group in of_subscription
    ]
    entity_id = voided.legal_entity_id
    invoice = Invoice(
        id=new_id(),
        account_id=voided.account_id,
        legal_entity_id=entity_id,
        subscription_id=voided.subscription_id,
        subscription_ids=list(voided.subscription_ids),
        billing_reason=voided.billing_reason,
        billing_key=None,
        currency=voided.currency,
        created_at=at,
        supplied_at=voided.supplied_at,
        memo=f"Replaces {voided.number}.",
        payment_terms_days=voided.payment_terms_days,
        collect_automatically=voided.collect_automatically,
        payment_method_id=voided.payment_method_id,
        dunning=voided.dunning,
        basis=[bundle.as_json() for bundle in bundles],
    )
    await recompute_draft(uow, invoice)
    uow.invoices.add(invoice)
    voided.reissued_as = invoice.id
    uow.emit(invoice.draft(at=at))
    return invoice


async def _bundle_again(
    uow: InvoicingUnitOfWork,
    lines: Sequence[InvoiceLine],
    subscription_id: UUID | None,
    voided: Invoice,
    gone: Mapping[UUID, TakeBack],
) -> Bundle:
    known = {line.id: line for line in voided.lines}
    take_backs = []
    for line in lines:
        if line.takes_back is None:
            take_backs += [gone[line.id]] if line.id in gone else []
            continue
        original = known.get(line.takes_back) or await uow.invoices.line(line.takes_back)
        if original is not None:
            take_backs.append(
                _take_back_again(
                    original,
                    since=line.period_start,
                    description=line.description,
                    why=line.why,
                )
            )
    return Bundle(
        tuple(_charge_again(line, voided) for line in lines if line.takes_back is None),
        (),
        subscription_id,
        take_backs=tuple(take_backs),
    )


async def _taken_back_of(uow: InvoicingUnitOfWork, voided: Invoice) -> dict[UUID, TakeBack]:
    """By line, what its subscription took back of it: by credit notes, by lines, or since."""
    lines = {line.id: line for line in voided.lines}
    found: dict[UUID, list[TakeBack]] = defaultdict(list)
    for note in await uow.credit_notes.list_of(voided.id):
        for part in note.lines:
            if part.starts_at is not None:
                again = _take_back_again(
                    lines[part.invoice_line_id],
                    since=part.starts_at,
                    description=part.description,
                    why=part.why or {},
                )
                found[part.invoice_line_id].append(again)
    for negative in await uow.invoices.lines_that_take_back(voided):
        if negative.takes_back is not None:
            again = _take_back_again(
                lines[negative.takes_back],
                since=negative.period_start,
                description=negative.description,
                why=negative.why,
            )
            found[negative.takes_back].append(again)
    for kept in voided.basis:
        for one in Bundle.from_json(kept).take_backs:
            if one.charge_id in lines:
                line = lines[one.charge_id]
                named = one.model_copy(update={"charge_id": line.charge_id or line.id})
                found[line.id].append(named)
    return {line_id: min(every, key=lambda one: one.starts_at) for line_id, every in found.items()}


def _take_back_again(
    original: InvoiceLine, *, since: datetime, description: str, why: Mapping[str, Any]
) -> TakeBack:
    return TakeBack.model_validate(
        {
            "id": new_id(),
            # Of an earlier release's line, which does not know its charge, the rest tells it.
            "charge_id": original.charge_id or original.id,
            "starts_at": since,
            "kind": original.kind,
            "price_id": original.price_id,
            "period_start": original.period_start,
            "period_end": original.period_end,
            "description": description,
            "why": dict(why),
        }
    )


def _charge_again(line: InvoiceLine, voided: Invoice) -> Charge:
    """The line as it was charged, its discount taken off."""
    return Charge.model_validate(
        {
            "id": line.charge_id or line.id,
            "kind": line.kind,
            "description": line.description,
            "quantity": f"{line.quantity:f}",
            "unit_amount": f"{line.unit_amount:f}",
            "amount": line.amount - line.discount,
            "currency": voided.currency,
            "period_start": line.period_start,
            "period_end": line.period_end,
            "tax_category": line.tax_category,
            "tax_behavior": line.tax_behavior,
            "price_id": line.price_id,
            "unit": line.unit,
            "parts": line.parts or (),
            "why": {**line.why, "reissued_from": voided.number, "discount": line.discount},
        }
    )


async def finalize_draft(uow: InvoicingUnitOfWork, invoice: Invoice, *, at: datetime) -> None:
    """Compute it once more and have it numbered when this commits."""
    filled = await refill_draft(uow, invoice, at=at)
    entity = await uow.legal_entities.get(invoice.legal_entity_id)
    await finalize_computed(uow, invoice, entity=entity, filled=filled, at=at)
