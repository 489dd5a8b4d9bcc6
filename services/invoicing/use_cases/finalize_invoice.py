"""Compute an invoice from its charges, and finalize it."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from functools import cache
from importlib.metadata import entry_points

from services.invoicing.domain.account import Account, CreditKind
from services.invoicing.domain.exchange import convert
from services.invoicing.domain.invoice import Invoice
from services.invoicing.domain.legal_entity import LegalEntity
from services.invoicing.domain.take_back import Return, on_invoice
from services.invoicing.domain.tax import TableTaxEngine, TaxDecision, TaxEngine
from services.invoicing.domain.totals import Bundle, Totals, compute
from services.invoicing.repository import InvoicingUnitOfWork
from services.invoicing.use_cases.take_back import (
    find_returns,
    foresee_returns,
    wanted_of,
    write_return,
)
from shared.observability import logger

log = logger(__name__)

#: What a column holds; a rate may make more of an amount.
MOST_STORED = 2**63 - 1


@dataclass(frozen=True, kw_only=True)
class Filled:
    """What an invoice was filled with, and what is taken back of earlier ones with it."""

    totals: Totals
    #: On it, as negative lines.
    as_lines: Sequence[Return] = ()
    #: Beside it, as credit notes.
    as_notes: Sequence[Return] = ()


@cache
def tax_engine() -> TaxEngine:
    """The installed engine (entry point `perennial.tax_engines`), else the table of rates.

    Two installed ones are a mistake that nobody should find out by the taxes.
    """
    found = list(entry_points(group="perennial.tax_engines"))
    if len(found) > 1:
        names = ", ".join(sorted(point.name for point in found))
        raise RuntimeError(f"More than one tax engine is installed: {names}.")
    if not found:
        return TableTaxEngine()
    engine: TaxEngine = found[0].load()()
    return engine


async def compute_totals(
    uow: InvoicingUnitOfWork,
    bundles: Sequence[Bundle],
    *,
    account: Account,
    entity: LegalEntity,
    currency: str,
    supplied_on: date,
) -> Totals:
    """What an invoice over these charges comes to: the one sum for previews and invoices."""
    buyer = account.buyer
    rate_of = await uow.rates.tax_on(buyer.country, supplied_on)

    engine = tax_engine()

    def decide(category: str) -> TaxDecision:
        return engine.decide(seller=entity.seller, buyer=buyer, category=category, rate_of=rate_of)

    return compute(bundles, currency=currency, decide=decide)


async def fill_invoice(
    uow: InvoicingUnitOfWork,
    invoice: Invoice,
    bundles: Sequence[Bundle],
    *,
    account: Account,
    entity: LegalEntity,
    at: datetime | None = None,
    may_lapse: bool = False,
) -> Filled:
    """Put lines and sums on a draft, and the parties as they are now.

    With `at` it is finalized then: what it takes back of earlier invoices is worth what it is
    under their locks, and `finalize_computed` does it. Without, it is only foreseen. What
    `may_lapse` takes nothing back of other drafts.
    """
    invoice.bill_to = account.frozen()
    invoice.seller = entity.frozen()
    totals = await compute_totals(
        uow,
        bundles,
        account=account,
        entity=entity,
        currency=invoice.currency,
        supplied_on=invoice.supplied_on,
    )
    wanted = wanted_of(bundles)
    if at is None:
        returns = await foresee_returns(uow, wanted)
    else:
        returns = await find_returns(uow, invoice.account_id, wanted, at=at, may_lapse=may_lapse)
    filled = _with_returns(totals, returns, invoice)
    invoice.fill(filled.totals)
    invoice.index()
    return filled


def _with_returns(totals: Totals, returns: Sequence[Return], invoice: Invoice) -> Filled:
    """On the invoice where all that was paid of them fits there, else beside it."""
    if not returns:
        return Filled(totals=totals)
    paid = [one for one in returns if one.split.given]
    if all(one.is_plain for one in paid):
        fitting = on_invoice(totals, paid, legal_entity_id=invoice.legal_entity_id)
        if fitting is not None:
            rest = [one for one in returns if not one.split.given]
            return Filled(totals=fitting, as_lines=paid, as_notes=rest)
    return Filled(totals=totals, as_notes=returns)


async def finalize_computed(
    uow: InvoicingUnitOfWork,
    invoice: Invoice,
    *,
    entity: LegalEntity,
    filled: Filled,
    at: datetime,
) -> None:
    """Settle it with the account's credit, and have it numbered when this commits."""
    for one in filled.as_lines:
        one.invoice.amount_moved += one.taken.total
    for one in filled.as_notes:
        # Before the credit is used: what they give pays this one.
        await write_return(uow, one, at=at)
    carried_over = filled.totals.carried_over
    await _add_accounting_amounts(uow, invoice, entity.accounting_currency)
    if carried_over:
        await uow.credits.add(
            invoice.account_id,
            invoice.currency,
            carried_over,
            CreditKind.CARRIED_OVER,
            at=at,
            invoice_id=invoice.id,
        )
    await uow.credits.apply(invoice, at=at)
    uow.finalize(invoice, entity, at=at)


async def _add_accounting_amounts(
    uow: InvoicingUnitOfWork, invoice: Invoice, accounting: str
) -> None:
    """A foreign-currency invoice also says what it is in the entity's own currency."""
    if invoice.currency == accounting:
        return
    rate = await uow.rates.exchange_on(invoice.currency, accounting, invoice.supplied_on)
    if rate is None:
        return
    pair = {"base": invoice.currency, "quote": accounting}
    total, tax = (convert(amount, rate.rate, **pair) for amount in (invoice.total, invoice.tax))
    if max(total, abs(tax)) > MOST_STORED:
        log.error("An amount is too large in the accounting currency", invoice_id=str(invoice.id))
        return
    invoice.accounting_currency = accounting
    invoice.exchange_rate = rate.rate
    invoice.exchange_rate_on = rate.on
    invoice.accounting_total, invoice.accounting_tax = total, tax
