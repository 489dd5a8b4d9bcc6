"""Taking back part of an invoice: by line, by amount, all of it, and never too much."""

from datetime import UTC, datetime
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.invoicing.domain.credit_note import (
    CreditExceedsPaid,
    CreditLineInvalid,
    CreditNote,
    Earlier,
    Settle,
    Taken,
    credit,
    take_all,
    take_amount,
    take_lines,
)
from services.invoicing.domain.invoice import Invoice
from services.invoicing.domain.totals import Bundle, compute
from shared.ids import new_id
from tests.invoicing.factories import START, a_bundle, a_charge, taxed_at

NOW = datetime(2026, 3, 1, tzinfo=UTC)


def a_paid_invoice(*bundles: Bundle, rate: str = "20") -> Invoice:
    invoice = Invoice(
        id=new_id(),
        account_id=new_id(),
        legal_entity_id=new_id(),
        subscription_id=None,
        billing_reason="manual",
        billing_key=None,
        currency="EUR",
        created_at=START,
        supplied_at=START,
    )
    rates = {"standard": rate, "reduced": "7"}
    invoice.fill(
        compute(bundles, currency="EUR", decide=lambda category: taxed_at(rates[category]))
    )
    invoice.finalize(number="INV-1", at=NOW, due_at=NOW)
    if invoice.amount_remaining:
        invoice.receive(invoice.amount_remaining, at=NOW, payment_id=None)
    return invoice


def take_back(invoice: Invoice, taken: Taken, settle: Settle = Settle.CREDIT) -> CreditNote:
    return credit(
        invoice,
        taken,
        number="CN-1",
        reason="Sorry",
        settle=settle,
        by_provider=invoice.amount_paid,
        at=NOW,
    )


def test_a_full_credit_note_is_the_invoice_again() -> None:
    invoice = a_paid_invoice(a_bundle(33, 33, 33))

    note = take_back(invoice, take_all(invoice, Earlier.of([])), Settle.REFUND)

    assert (note.net, note.tax, note.total) == (99, 20, 119)
    assert (note.refund, note.credit) == (119, 0)
    assert invoice.amount_creditable == 0
    event = note.issue(at=NOW)
    assert (event.sequence, event.refund.amount) == (1, 119)


def test_a_line_is_taken_back_with_the_tax_of_its_rate() -> None:
    bundle = Bundle((a_charge(1000), a_charge(1000, tax_category="reduced")))
    invoice = a_paid_invoice(bundle)

    note = take_back(invoice, take_lines(invoice, Earlier.of([]), {invoice.lines[1].id: 500}))

    assert (note.net, note.tax) == (500, 35)
    assert [Decimal(group["rate"]) for group in note.taxes] == [Decimal(7)]


def test_of_an_inclusive_line_the_gross_is_named() -> None:
    invoice = a_paid_invoice(a_bundle(1200, tax_behavior="inclusive"))

    note = take_back(invoice, take_lines(invoice, Earlier.of([]), {invoice.lines[0].id: 600}))

    assert (note.net, note.tax, note.total) == (500, 100, 600)


def test_no_more_than_is_left_of_a_line() -> None:
    invoice = a_paid_invoice(a_bundle(1000))
    line = invoice.lines[0].id
    first = take_back(invoice, take_lines(invoice, Earlier.of([]), {line: 900}))

    with pytest.raises(CreditLineInvalid):
        take_lines(invoice, Earlier.of([first]), {line: 101})
    with pytest.raises(CreditLineInvalid):
        take_lines(invoice, Earlier.of([first]), {new_id(): 1})


def test_what_was_not_paid_is_not_taken_back() -> None:
    invoice = a_paid_invoice(a_bundle(1000))
    invoice.amount_paid = 500

    with pytest.raises(CreditExceedsPaid):
        take_back(invoice, take_all(invoice, Earlier.of([])))


def test_what_account_credit_paid_goes_back_as_credit() -> None:
    invoice = a_paid_invoice(a_bundle(1000))
    invoice.credit_applied, invoice.amount_paid = 700, 500

    note = take_back(invoice, take_all(invoice, Earlier.of([])), Settle.REFUND)

    assert (note.refund, note.credit) == (500, 700)


lines = st.lists(
    st.builds(
        lambda amount, behavior, category: a_charge(
            amount, tax_behavior=behavior, tax_category=category
        ),
        st.integers(-2_000, 100_000),
        st.sampled_from(["exclusive", "inclusive"]),
        st.sampled_from(["standard", "reduced"]),
    ),
    min_size=1,
    max_size=6,
)


@given(lines, st.lists(st.integers(1, 60_000), max_size=6), st.sampled_from(["0", "19", "20"]))
def test_parts_never_come_to_more_than_the_whole_and_all_that_is_left_comes_to_it(
    charges: list[object], amounts: list[int], rate: str
) -> None:
    invoice = a_paid_invoice(Bundle(tuple(charges)), rate=rate)  # type: ignore[arg-type]
    notes: list[CreditNote] = []

    for amount in amounts:
        try:
            notes.append(take_back(invoice, take_amount(invoice, Earlier.of(notes), amount)))
        except CreditExceedsPaid:
            continue
        assert notes[-1].total == amount
    if invoice.amount_creditable:
        notes.append(take_back(invoice, take_all(invoice, Earlier.of(notes))))

    assert sum(note.total for note in notes) == invoice.total
    assert sum(note.tax for note in notes) == (invoice.tax if notes else 0)
    for note in notes:
        assert note.net + note.tax == note.total > 0
        assert note.net == sum(line.net for line in note.lines)
        assert note.net == sum(group["taxable"] for group in note.taxes)
